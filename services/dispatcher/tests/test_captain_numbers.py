"""Captains as numbers: each found again, however their fingerprints collide."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.captain_numbers import (
    LEAST_LINES,
    LEAST_PLACES,
    OWN_WORDS,
    UNKNOWN,
    CaptainNumbers,
    Fingerprints,
    halves,
)
from weelo_common.events.positions import captain_fingerprint


def fingerprints(captain_ids: list[str]) -> Fingerprints:
    return halves(b"".join(map(captain_fingerprint, captain_ids)))


@given(st.lists(st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=64))))
def test_every_captain_is_found_by_fingerprint_and_by_id_and_nobody_else_is(pages: list[list[str]]) -> None:
    numbers = CaptainNumbers()
    known: list[str] = []
    for page in pages:
        new = [one for one in dict.fromkeys(page) if one not in known]
        assert numbers.add(new, fingerprints(new)).tolist() == list(range(len(known), len(known) + len(new)))
        known += new
    everybody = list(range(len(known)))
    assert numbers.find(fingerprints(known)).tolist() == everybody
    assert [numbers.number(captain_id) for captain_id in known] == everybody
    assert numbers.captain_ids(everybody) == known
    assert numbers.number("nobody at all") == UNKNOWN
    assert numbers.find(fingerprints(["nobody at all"])).tolist() == [UNKNOWN]


def test_captains_whose_fingerprints_want_one_place_are_told_apart() -> None:
    """Some hundred in one long chain of places, over the end of the table, and through its growth."""
    numbers = CaptainNumbers()
    crowd = np.array([(LEAST_PLACES * one - 1, one) for one in range(1, 200)], np.int64)
    half = len(crowd) // 2
    numbers.add([f"a{one}" for one in range(half)], crowd[:half])
    numbers.add([f"b{one}" for one in range(len(crowd) - half)], crowd[half:])
    stranger = np.array([(LEAST_PLACES - 1, 7)], np.int64)
    assert numbers.find(np.concatenate([crowd, stranger])).tolist() == [*range(len(crowd)), UNKNOWN]
    more = [f"m{one}" for one in range(5 * LEAST_PLACES)]
    numbers.add(more, fingerprints(more))
    assert numbers.find(crowd).tolist() == list(range(len(crowd)))
    assert numbers.find(fingerprints(more)).tolist() == list(range(len(crowd), len(crowd) + len(more)))


def test_one_captain_is_added_like_many() -> None:
    numbers = CaptainNumbers()
    assert [numbers.add_one("captain-é"), numbers.add_one("captain-2")] == [0, 1]
    assert numbers.find(fingerprints(["captain-2", "captain-é"])).tolist() == [1, 0]
    assert len(numbers) == 2


def test_a_captains_line_begins_new_and_keeps_what_its_owner_wrote_while_the_table_grows() -> None:
    numbers = CaptainNumbers(new=range(OWN_WORDS))
    first = numbers.add_one("captain-1")
    assert numbers.lines[first, -OWN_WORDS:].tolist() == list(range(OWN_WORDS))
    numbers.lines[first, -1] = 99
    more = [f"m{one}" for one in range(3 * LEAST_LINES)]
    numbers.add(more, fingerprints(more))
    assert numbers.lines[first].tolist() == [
        *fingerprints(["captain-1"])[0].tolist(),
        *range(OWN_WORDS - 1),
        99,
    ]
    assert numbers.lines[len(numbers) - 1, -OWN_WORDS:].tolist() == list(range(OWN_WORDS))


def test_captains_who_share_half_a_fingerprint_are_told_apart() -> None:
    numbers = CaptainNumbers()
    twins = np.array([(5, 1), (5, 2), (6, 1)], np.int64)
    numbers.add(["a", "b", "c"], twins)
    assert numbers.find(twins[::-1]).tolist() == [2, 1, 0]
    assert numbers.find(np.array([(5, 3), (7, 1)], np.int64)).tolist() == [UNKNOWN, UNKNOWN]
