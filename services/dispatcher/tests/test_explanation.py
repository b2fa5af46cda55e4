"""An explanation tells the truth about everybody, and stays small however many were considered."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from dispatcher.candidates import Refusal, Verdict
from dispatcher.domain import MAX_LIVE_OFFERS, Line
from dispatcher.handlers.explanation import CAPTAINS_TOLD, CELLS_TOLD, at_target, explained

LINE = Line("TRUCK", "TATA_ACE", 500, open_trucks=7, live_offers=0)
LARGEST_LINE_BYTES = 8 * 1024  # of JSON, with the longest captain ids there are


def explain(verdicts: list[Verdict], cells: tuple[str, ...] = ()) -> dict[str, object]:
    return explained(LINE, wanted=MAX_LIVE_OFFERS, verdicts=verdicts, cells=cells, cells_looked_at=len(cells))


VERDICTS = st.lists(
    st.builds(
        Verdict,
        captain_id=st.uuids().map(str),
        distance_m=st.integers(0, 50_000),
        refusal=st.sampled_from([*Refusal]),
    ),
    max_size=200,
)


@given(VERDICTS, st.integers(0, MAX_LIVE_OFFERS), st.integers(0, 50_000))
def test_everybody_offered_is_named_and_everybody_considered_is_counted(
    refused: list[Verdict], offered: int, distance_m: int
) -> None:
    chosen = [Verdict(f"chosen-{number}", distance_m, None) for number in range(offered)]
    told = explain([*refused, *chosen])
    named = told["captains"]
    assert isinstance(named, list)
    assert {entry["captainId"] for entry in named if entry["offered"]} == {v.captain_id for v in chosen}
    assert (told["offered"], told["candidates"]) == (offered, len(refused) + offered)
    assert isinstance(told["reasons"], dict)
    assert sum(told["reasons"].values()) == told["candidates"]
    distances = [entry["distanceM"] for entry in named]
    assert distances == sorted(distances)
    left_out = sorted(verdict.distance_m for verdict in refused)[max(0, CAPTAINS_TOLD - offered) :]
    nearest = [entry["distanceM"] for entry in named if not entry["offered"]]
    assert not left_out or not nearest or nearest[-1] <= left_out[0]


def test_a_line_stays_small_when_thousands_are_considered() -> None:
    verdicts = [Verdict(f"{number:064}", number, Refusal.CAP) for number in range(5_000)]
    verdicts += [Verdict(f"{number:064}", 49_999, None) for number in range(5_000, 5_000 + MAX_LIVE_OFFERS)]
    told = explain(verdicts, cells=tuple(f"ttnfv{number:02}" for number in range(99)))
    assert len(json.dumps(told)) < LARGEST_LINE_BYTES
    assert isinstance(told["captains"], list)
    assert isinstance(told["cells"], list)
    assert (len(told["captains"]), len(told["cells"])) == (CAPTAINS_TOLD, CELLS_TOLD)
    assert (
        sum(entry["offered"] for entry in told["captains"]) == MAX_LIVE_OFFERS
    )  # though they are the farthest
    assert (told["candidates"], told["cellsLookedAt"]) == (5_000 + MAX_LIVE_OFFERS, 99)
    assert told["reasons"] == {"cap": 5_000, "offered": MAX_LIVE_OFFERS}


def test_a_line_that_has_what_it_wants_says_so() -> None:
    told = at_target(Line("TRUCK", "TATA_ACE", 500, open_trucks=1, live_offers=5))
    assert (told["target"], told["liveBefore"], told["wanted"], told["candidates"]) == (5, 5, 0, 0)
