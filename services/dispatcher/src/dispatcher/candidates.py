"""The rules of dispatch for captains: who may be offered an order, in which order, and why not.

Pure: no I/O, no clock, no framework. The index proposes captains by their distance; PostgreSQL says how they stand.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

MAX_OPEN_OFFERS = 3  # of one captain at a time


class Refusal(StrEnum):
    """Why a captain is not offered an order."""

    STALE = "stale"
    UNKNOWN = "unknown"
    WRONG_VEHICLE = "wrong_vehicle"
    ALREADY_OFFERED = "already_offered"
    UNAVAILABLE = "unavailable"
    BUSY = "busy"
    UNCONFIRMED = "unconfirmed"
    TRANSPORTER_UNKNOWN = "transporter_unknown"
    TRANSPORTER_INACTIVE = "transporter_inactive"
    UNVERIFIED = "unverified"
    CAP = "cap"
    CONTENDED = "contended"  # another order is being offered to him in this very moment
    FARTHER = "farther_than_kth"


@dataclass(frozen=True, slots=True)
class Standing:
    """What PostgreSQL says of a captain. ``idle_since``: when he last became free."""

    captain_id: str
    transporter_id: str
    vehicle_type: str
    vehicle_subtype: str
    vehicle_number: str
    available: bool
    confirmed: bool
    transporter_active: bool | None
    transporter_verified: bool | None
    busy: bool
    open_offers: int
    idle_since: datetime


@dataclass(frozen=True, slots=True)
class Prospect:
    """A captain near a pickup, by the index; ``fresh``: heard of lately."""

    captain_id: str
    distance_m: int
    fresh: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one who was considered: ``refusal`` is None for those chosen."""

    captain_id: str
    distance_m: int
    refusal: Refusal | None


def transporter_refusal(active: bool | None, verified: bool | None) -> Refusal | None:
    """Why a transporter's captains get no offers; None for both values means that he is not known."""
    if active is None or verified is None:
        return Refusal.TRANSPORTER_UNKNOWN
    if not active:
        return Refusal.TRANSPORTER_INACTIVE
    return None if verified else Refusal.UNVERIFIED


def refusals(standing: Standing) -> list[Refusal]:
    """Every reason in PostgreSQL why a captain gets no offers, the one to mend first at the head."""
    found: list[Refusal] = []
    if not standing.confirmed:
        found.append(Refusal.UNCONFIRMED)
    transporter = transporter_refusal(standing.transporter_active, standing.transporter_verified)
    if transporter is not None:
        found.append(transporter)
    if not standing.available:
        found.append(Refusal.UNAVAILABLE)
    if standing.busy:
        found.append(Refusal.BUSY)
    if standing.open_offers >= MAX_OPEN_OFFERS:
        found.append(Refusal.CAP)
    return found


def judge(
    prospect: Prospect,
    standing: Standing | None,
    *,
    vehicle: tuple[str, str],
    offered_before: Collection[str],
    given: Mapping[str, int],
) -> Refusal | None:
    """Why a captain may not be offered an order, or None if he may.

    ``given`` counts the offers made to captains in this same transaction.
    """
    if prospect.captain_id in offered_before:
        return Refusal.ALREADY_OFFERED
    if standing is None:
        return Refusal.UNKNOWN
    if (standing.vehicle_type, standing.vehicle_subtype) != vehicle:
        return Refusal.WRONG_VEHICLE
    reasons = refusals(standing)
    if reasons:
        return reasons[0]
    if standing.open_offers + given.get(standing.captain_id, 0) >= MAX_OPEN_OFFERS:
        return Refusal.CAP
    return None if prospect.fresh else Refusal.STALE


def choose(
    prospects: Sequence[Prospect],
    standings: Mapping[str, Standing],
    *,
    wanted: int,
    vehicle: tuple[str, str],
    offered_before: Collection[str],
    given: Mapping[str, int],
) -> list[Verdict]:
    """A verdict for each prospect, in the order of candidates: distance, then longest idle, then id.

    The first ``wanted`` of those who may be offered the order are chosen, the rest are farther than the k-th.
    """

    def rank(prospect: Prospect) -> tuple[int, float, str]:
        standing = standings.get(prospect.captain_id)
        idle = standing.idle_since.timestamp() if standing else 0.0
        return prospect.distance_m, idle, prospect.captain_id

    verdicts: list[Verdict] = []
    for prospect in sorted(prospects, key=rank):
        refusal = judge(
            prospect,
            standings.get(prospect.captain_id),
            vehicle=vehicle,
            offered_before=offered_before,
            given=given,
        )
        if refusal is None and wanted <= 0:
            refusal = Refusal.FARTHER
        elif refusal is None:
            wanted -= 1
        verdicts.append(Verdict(prospect.captain_id, prospect.distance_m, refusal))
    return verdicts
