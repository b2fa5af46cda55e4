"""The live fleet: states and positions in whatever order they come."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from dispatcher.live_fleet import FRESH_FOR_MS, CaptainColumns, LastPosition, LiveFleet, Proposal
from dispatcher.packed_positions import read
from weelo_common.events import CaptainState
from weelo_common.events.positions import Position, captain_fingerprint, pack, unpack

NOW = 1_800_000_000_000
HERE = (28.6139, 77.2090)


def state(captain_id: str = "k-1", version: int = 1, **changes: bool | str) -> CaptainState:
    values = {
        "captain_id": captain_id,
        "version": version,
        "transporter_id": "t-1",
        "vehicle_type": "TRUCK",
        "vehicle_subtype": "TATA_ACE",
        "available": True,
        "eligible": True,
        "busy": False,
    }
    return CaptainState.model_validate(values | changes)


def position(captain_id: str = "k-1", *, north: float = 0.0, recorded_at_ms: int = NOW) -> Position:
    return Position(captain_fingerprint(captain_id), HERE[0] + north, HERE[1], recorded_at_ms)


def near(fleet: LiveFleet, *, now_ms: int = NOW, subtype: str = "TATA_ACE", not_free: int = 0) -> Proposal:
    return fleet.propose("TRUCK", subtype, *HERE, k=10, not_free=not_free, radius_m=5_000, now_ms=now_ms)


def ids(proposal: Proposal) -> list[str]:
    return [captain.captain_id for captain in proposal.near]


def test_a_captain_is_proposed_once_both_his_state_and_a_position_are_known() -> None:
    fleet = LiveFleet()
    fleet.apply_state(state(), NOW)
    assert ids(near(fleet)) == []
    assert fleet.apply_position(position(), NOW)
    assert ids(near(fleet)) == ["k-1"]


def test_a_position_that_comes_before_its_captains_state_is_kept_for_him() -> None:
    fleet = LiveFleet(strangers_kept=2)
    assert not fleet.apply_position(position("forgotten"), NOW)
    assert not fleet.apply_position(position("k-1"), NOW)
    assert not fleet.apply_position(position("k-2"), NOW)
    for captain_id in ("forgotten", "k-1", "k-2"):
        fleet.apply_state(state(captain_id), NOW)
    assert ids(near(fleet)) == ["k-1", "k-2"]


def test_an_older_state_never_undoes_a_newer_one() -> None:
    fleet = LiveFleet()
    fleet.apply_state(state(version=7, busy=True), NOW)
    fleet.apply_position(position(), NOW)
    assert not fleet.apply_state(state(version=6), NOW)
    assert not fleet.apply_state(state(version=7), NOW)
    assert ids(near(fleet)) == []
    assert fleet.apply_state(state(version=8), NOW)
    assert ids(near(fleet)) == ["k-1"]


def test_an_older_position_never_replaces_a_newer_one() -> None:
    fleet = LiveFleet()
    fleet.apply_state(state(), NOW)
    fleet.apply_position(position(north=0.01, recorded_at_ms=NOW), NOW)
    assert not fleet.apply_position(position(north=0.0, recorded_at_ms=NOW - 1), NOW + 5)
    assert near(fleet).near[0].distance_m > 1_000


def test_a_phone_whose_clock_was_ahead_is_back_after_the_time_of_freshness() -> None:
    fleet = LiveFleet()
    fleet.apply_state(state(), NOW)
    fleet.apply_position(position(recorded_at_ms=NOW + 10**9), NOW)
    assert not fleet.apply_position(position(recorded_at_ms=NOW), NOW + 1_000)
    later = NOW + FRESH_FOR_MS + 1
    assert fleet.apply_position(position(recorded_at_ms=later), later)
    assert ids(near(fleet, now_ms=later)) == ["k-1"]


def test_a_phone_that_lies_still_and_tells_the_same_fix_again_keeps_its_captain_fresh() -> None:
    fleet = LiveFleet()
    fleet.apply_state(state(), NOW)
    for seconds in range(0, 70, 10):
        assert fleet.apply_position(position(recorded_at_ms=NOW), NOW + seconds * 1000)
    late = NOW + 60_000 + FRESH_FOR_MS
    assert ids(near(fleet, now_ms=late)) == ["k-1"]
    assert not fleet.apply_position(position(recorded_at_ms=NOW), NOW + 50_000)  # a repeat that came late
    assert fleet.is_fresh("k-1", late)


def test_a_captain_silent_for_sixty_seconds_is_no_candidate_but_is_explained() -> None:
    fleet = LiveFleet()
    fleet.apply_state(state(), NOW)
    fleet.apply_position(position(), NOW)
    assert ids(near(fleet, now_ms=NOW + FRESH_FOR_MS)) == ["k-1"]
    late = NOW + FRESH_FOR_MS + 1
    assert ids(near(fleet, now_ms=late)) == []
    assert fleet.set_aside_silent(late, most=10) == 1
    (told,) = near(fleet, now_ms=late, not_free=5).near
    assert (told.captain_id, told.fresh, told.free) == ("k-1", False, False)
    fleet.apply_position(position(recorded_at_ms=late), late)
    assert near(fleet, now_ms=late).near[0].free


def test_who_was_silent_and_is_heard_of_again_stays_a_candidate_when_his_state_changes() -> None:
    fleet = LiveFleet()
    fleet.apply_state(state(), NOW)
    fleet.apply_position(position(), NOW)
    late = NOW + 60_001
    assert fleet.set_aside_silent(late, most=10) == 1
    fleet.apply_position(position(recorded_at_ms=late), late)
    fleet.apply_state(state(version=2), late)
    assert ids(near(fleet, now_ms=late)) == ["k-1"]
    assert fleet.set_aside_silent(late + 60_001, most=10) == 1


def test_who_is_not_free_is_told_only_where_asked_for() -> None:
    fleet = LiveFleet()
    for number, change in enumerate(({"busy": True}, {"available": False}, {"eligible": False}, {})):
        fleet.apply_state(state(f"k-{number}", **change), NOW)
        fleet.apply_position(position(f"k-{number}", north=number / 1000), NOW)
    assert ids(near(fleet)) == ["k-3"]
    assert ids(near(fleet, not_free=2)) == ["k-0", "k-1", "k-3"]


def test_another_vehicle_moves_a_captain_to_the_others_of_its_kind() -> None:
    fleet = LiveFleet()
    fleet.apply_state(state(), NOW)
    fleet.apply_position(position(), NOW)
    fleet.apply_state(state(version=2, vehicle_subtype="EICHER"), NOW)
    assert ids(near(fleet)) == []
    assert ids(near(fleet, subtype="EICHER")) == ["k-1"]


def test_a_captain_who_names_ten_thousand_kinds_leaves_no_more_groups_than_one_who_names_two() -> None:
    fleet = LiveFleet()
    for version in range(1, 10_001):
        fleet.apply_state(state(version=version, vehicle_subtype=f"S{version}"), NOW)
        fleet.apply_position(position(recorded_at_ms=NOW + version), NOW)
    assert fleet.groups <= 4
    assert ids(near(fleet, subtype="S10000")) == ["k-1"]
    assert ids(near(fleet, subtype="S9999")) == []


def test_a_load_gives_back_the_kinds_that_nobody_drives_any_more() -> None:
    fleet = LiveFleet()
    for version in range(1, 101):
        fleet.load(
            CaptainColumns(
                ["k-1", "k-2"], [version] * 2, ["TRUCK"] * 2, [f"S{version}", "X"], [True] * 2, [0] * 2
            )
        )
        for captain_id in ("k-1", "k-2"):
            fleet.apply_position(position(captain_id, recorded_at_ms=NOW + version), NOW)
    assert fleet.groups <= 6
    assert ids(near(fleet, subtype="S100")) == ["k-1"]
    assert ids(near(fleet, subtype="X")) == ["k-2"]
    assert ids(near(fleet, subtype="S99")) == []


def test_the_last_position_is_known_even_of_one_who_is_busy() -> None:
    fleet = LiveFleet()
    fleet.apply_state(state(busy=True), NOW)
    fleet.apply_position(position(), NOW)
    last = fleet.last_position("k-1")
    assert last is not None
    assert (round(last.latitude, 4), last.received_at_ms) == (HERE[0], NOW)
    assert fleet.last_position("nobody") is None


class Sequential:
    """The rules for positions, one after the other, as plainly as they can be written."""

    def __init__(self, captains: Sequence[bytes]) -> None:
        self.captains = captains
        self.last: dict[bytes, tuple[Position, int]] = {}

    def apply(self, position: Position, received_at_ms: int) -> None:
        if position.captain not in self.captains:
            return
        before = self.last.get(position.captain)
        if before is not None:
            known, known_at_ms = before
            if received_at_ms < known_at_ms - FRESH_FOR_MS:
                return
            newer = (position.recorded_at_ms, received_at_ms) > (known.recorded_at_ms, known_at_ms)
            if not newer and received_at_ms <= known_at_ms + FRESH_FOR_MS:
                return
        self.last[position.captain] = (position, received_at_ms)


IDS = [f"k-{number}" for number in range(4)]
some_position = st.builds(
    lambda captain_id, north, at: position(captain_id, north=north / 1000, recorded_at_ms=NOW + at),
    st.sampled_from([*IDS, "stranger"]),
    st.integers(0, 50),
    st.sampled_from([-70_000, -10, 0, 1, 2, 3, 10, 50_000, 10**12]),
)
received = st.sampled_from([-61_000, -100, 0, 1, 2, 59_000, 61_000, 122_500, 200_000])


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(st.tuples(st.lists(some_position, max_size=6), received), min_size=1, max_size=6)))
def test_positions_taken_together_end_as_if_taken_one_by_one(
    polls: list[list[tuple[list[Position], int]]],
) -> None:
    fleet, rules = LiveFleet(), Sequential([captain_fingerprint(captain_id) for captain_id in IDS])
    for captain_id in IDS:
        fleet.apply_state(state(captain_id), NOW)
    for records in polls:
        together, _ = read([pack(positions) for positions, _ in records], [NOW + at for _, at in records])
        fleet.apply_positions(together)
        for positions, at in records:
            for one in unpack(pack(positions)):
                rules.apply(one, NOW + at)
    for captain_id in IDS:
        expected = rules.last.get(captain_fingerprint(captain_id))
        last = fleet.last_position(captain_id)
        if expected is None:
            assert last is None
        else:
            assert last is not None
            one, at_ms = expected
            assert last == LastPosition(one.latitude, one.longitude, at_ms)


def page(*captain_ids: str, version: int = 1, free: bool = True, subtype: str = "TATA_ACE") -> CaptainColumns:
    return CaptainColumns(
        captain_ids=list(captain_ids),
        versions=[version] * len(captain_ids),
        vehicle_types=["TRUCK"] * len(captain_ids),
        vehicle_subtypes=[subtype] * len(captain_ids),
        free=[free] * len(captain_ids),
        idle_since_ms=[NOW] * len(captain_ids),
    )


def test_captains_loaded_in_columns_are_candidates_once_a_position_of_theirs_is_known() -> None:
    fleet = LiveFleet()
    fleet.apply_position(position("k-2"), NOW)  # it waited for him
    fleet.load(page("k-1", "k-2"))
    fleet.load(page("k-3", free=False))
    fleet.load(page("k-4", subtype="EICHER"))
    assert ids(near(fleet)) == ["k-2"]
    for captain_id in ("k-1", "k-3", "k-4"):
        assert fleet.apply_position(position(captain_id), NOW)
    assert ids(near(fleet)) == ["k-1", "k-2"]
    assert ids(near(fleet, subtype="EICHER")) == ["k-4"]
    assert [one.captain_id for one in near(fleet, not_free=5).near if not one.free] == ["k-3"]


def test_a_load_changes_only_those_of_whom_nothing_as_new_is_known() -> None:
    fleet = LiveFleet()
    fleet.apply_state(state("k-1", version=5), NOW)
    fleet.apply_position(position("k-1"), NOW)
    fleet.load(page("k-1", version=4, free=False))
    fleet.load(page("k-1", version=5, free=False))
    assert ids(near(fleet)) == ["k-1"]
    fleet.load(page("k-1", version=6, free=False))  # the load began anew, and he has changed since
    assert ids(near(fleet)) == []


def test_of_two_at_the_same_distance_the_longer_idle_is_proposed_first() -> None:
    fleet = LiveFleet()
    for captain_id, idle_since_ms in (("k-1", NOW - 5), ("k-2", NOW - 500), ("k-3", NOW - 50)):
        fleet.apply_state(state(captain_id), NOW, idle_since_ms=idle_since_ms)
        fleet.apply_position(position(captain_id), NOW)
    assert ids(near(fleet)) == ["k-2", "k-3", "k-1"]
    fleet.apply_state(state("k-2", version=2, busy=True), NOW)
    fleet.apply_state(state("k-2", version=3), NOW)  # back from a trip: now he is idle since then
    assert ids(near(fleet)) == ["k-3", "k-1", "k-2"]


def test_others_are_told_no_farther_than_the_last_free_one() -> None:
    fleet = LiveFleet()
    for captain_id, north, busy in (("near", 0.001, True), ("free", 0.002, False), ("far", 0.003, True)):
        fleet.apply_state(state(captain_id, busy=busy), NOW)
        fleet.apply_position(position(captain_id, north=north), NOW)
    told = fleet.propose("TRUCK", "TATA_ACE", *HERE, k=1, not_free=10, radius_m=5_000, now_ms=NOW)
    assert ids(told) == ["near", "free"]
    assert not told.complete
    assert ids(near(fleet, not_free=10)) == ["near", "free", "far"]


def test_who_is_not_accepted_leaves_his_place_to_the_next() -> None:
    fleet = LiveFleet()
    for number in range(5):
        fleet.apply_state(state(f"k-{number}"), NOW)
        fleet.apply_position(position(f"k-{number}", north=number / 1000), NOW)
    told = fleet.propose(
        "TRUCK",
        "TATA_ACE",
        *HERE,
        k=2,
        not_free=0,
        radius_m=5_000,
        now_ms=NOW,
        accept=lambda captain_id: captain_id not in {"k-0", "k-2"},
    )
    assert ids(told) == ["k-1", "k-3"]


def test_a_vehicle_that_nobody_drives_has_no_candidates() -> None:
    assert near(LiveFleet()).complete
    assert near(LiveFleet()).cells == ()
