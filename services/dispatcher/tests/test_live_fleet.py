"""The live fleet: states and positions in whatever order they come."""

from __future__ import annotations

from dispatcher.live_fleet import FRESH_FOR_MS, LiveFleet, Proposal
from weelo_common.events import CaptainState
from weelo_common.events.positions import Position, captain_fingerprint

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


def test_the_last_position_is_known_even_of_one_who_is_busy() -> None:
    fleet = LiveFleet()
    fleet.apply_state(state(busy=True), NOW)
    fleet.apply_position(position(), NOW)
    last = fleet.last_position("k-1")
    assert last is not None
    assert (round(last.latitude, 4), last.received_at_ms) == (HERE[0], NOW)
    assert fleet.last_position("nobody") is None
