"""Matching: the index proposes, PostgreSQL decides.

For each need the nearest captains are taken from memory, judged by what PostgreSQL says of them, the best are locked
in sorted order, and judged again by a statement of its own. So no captain gets more than his open offers, and none who
has just become busy is asked. Every verdict is kept, for people to read.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from dispatcher import domain
from dispatcher.candidates import Prospect, Refusal, Standing, Verdict, choose
from dispatcher.domain import Line, Offer, OfferStatus, OrderView, SearchPlan
from dispatcher.handlers.explanation import explained
from dispatcher.live_fleet import LiveFleet, Proposal
from dispatcher.metrics import DispatcherMetrics
from dispatcher.store import fleet as fleet_store
from weelo_common.clock import epoch_ms
from weelo_common.ids import new_id
from weelo_common.postgres import Connection
from weelo_common.telemetry import span

ROUNDS = 4  # of looking, each time for four times as many: past hundreds who hold their cap of offers
WIDENING = 4
SPARE = 4  # locked beyond those wanted, for whoever falls out between the two judgements
NOT_FREE_TOLD = 20  # captains near but not free, per line: for the explanation, and where the index lags


@dataclass(slots=True)
class Need:
    """Offers wanted for one line of an order whose row is locked."""

    order: OrderView
    plan: SearchPlan
    line: Line
    wanted: int
    offered_before: Collection[str]


@dataclass(slots=True)
class Match:
    """What a need got. ``offers`` are not written yet; the captains' rows are locked."""

    need: Need
    offers: list[Offer] = field(default_factory=list)
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    looked: Proposal | None = None  # the last look into the index; it is the widest

    @property
    def is_short(self) -> bool:
        """Whether it got fewer than it wanted."""
        return len(self.offers) < self.need.wanted

    @property
    def contended(self) -> bool:
        """Whether it is short while others held captains that it might have had."""
        return self.is_short and any(
            verdict.refusal is Refusal.CONTENDED for verdict in self.verdicts.values()
        )

    def refuse_chosen(self, captain_id: str, refusal: Refusal) -> None:
        """Note that one who was chosen could not be had after all; who was refused before stays so."""
        verdict = self.verdicts.get(captain_id)
        if verdict is not None and verdict.refusal is None:
            self.verdicts[captain_id] = replace(verdict, refusal=refusal)

    def report(self) -> dict[str, Any]:
        """What was considered, for people; bounded."""
        return explained(
            self.need.line,
            wanted=self.need.wanted,
            verdicts=self.verdicts.values(),
            cells=self.looked.cells if self.looked else (),
            cells_looked_at=self.looked.cells_looked_at if self.looked else 0,
        )


class Matcher:
    """Finds captains for needs."""

    def __init__(self, fleet: LiveFleet, metrics: DispatcherMetrics) -> None:
        self._fleet = fleet
        self._metrics = metrics

    async def match(
        self,
        connection: Connection,
        needs: Sequence[Need],
        *,
        now: datetime,
        also_lock: Collection[str] = (),
    ) -> list[Match]:
        """A match for each need, at the radius of its order's wave.

        The caller holds the orders' rows and no captain's: those chosen and those of ``also_lock`` are locked here
        in one sorted sweep, because two transactions that lock captains piecemeal can wait for each other.
        """
        started = time.perf_counter()
        with span("match", attributes={"weelo.needs": len(needs)}) as current:
            matches = [Match(need) for need in needs]
            given: Counter[str] = Counter()
            for round_number in range(ROUNDS):
                open_matches = [match for match in matches if _may_find_more(match)]
                if not open_matches and round_number:
                    break
                await self._round(
                    connection,
                    open_matches,
                    round_number,
                    given,
                    now=now,
                    also_lock=also_lock if round_number == 0 else (),
                )
            current.set_attribute("weelo.offers", sum(len(match.offers) for match in matches))
        self._metrics.match_seconds.observe(time.perf_counter() - started)
        for match in matches:
            self._metrics.considered(match.verdicts.values())
        return matches

    async def _round(
        self,
        connection: Connection,
        matches: Sequence[Match],
        round_number: int,
        given: Counter[str],
        *,
        now: datetime,
        also_lock: Collection[str],
    ) -> None:
        prospects = [(match, self._prospects(match, round_number, now)) for match in matches]
        ids = {prospect.captain_id for _, near in prospects for prospect in near}
        before = await fleet_store.standings(connection, ids)
        to_lock: set[str] = set()
        for match, near in prospects:
            first = self._judge(match, near, before, given, spare=SPARE)
            to_lock |= {verdict.captain_id for verdict in first if verdict.refusal is None}
            match.verdicts |= {verdict.captain_id: verdict for verdict in first}
        # Only the first round may wait for locks: this transaction holds none of captains before it.
        locked = await fleet_store.lock_captains(connection, to_lock | set(also_lock), wait=round_number == 0)
        truth = await fleet_store.standings(connection, locked & to_lock)
        for match, near in prospects:
            for captain_id in to_lock - locked:
                match.refuse_chosen(captain_id, Refusal.CONTENDED)
            held = [prospect for prospect in near if prospect.captain_id in truth]
            for verdict in self._judge(match, held, truth, given, spare=0):
                match.verdicts[verdict.captain_id] = verdict
                if verdict.refusal is None:
                    given[verdict.captain_id] += 1
                    match.offers.append(_offer(match.need, truth[verdict.captain_id], verdict.distance_m))

    def _prospects(self, match: Match, round_number: int, now: datetime) -> list[Prospect]:
        need = match.need
        short = need.wanted - len(match.offers)
        proposal: Proposal = self._fleet.propose(
            need.line.vehicle_type,
            need.line.vehicle_subtype,
            need.plan.pickup.latitude,
            need.plan.pickup.longitude,
            k=(short + SPARE) * WIDENING**round_number + len(need.offered_before) + len(match.offers),
            not_free=NOT_FREE_TOLD,
            radius_m=domain.wave_radius_m(need.order.wave),
            now_ms=epoch_ms(now),
        )
        match.looked = proposal
        offered_now = {offer.captain_id for offer in match.offers}
        return [
            Prospect(near.captain_id, near.distance_m, near.fresh)
            for near in proposal.near
            if near.captain_id not in offered_now
        ]

    def _judge(
        self,
        match: Match,
        near: Sequence[Prospect],
        standings: Mapping[str, Standing],
        given: Mapping[str, int],
        *,
        spare: int,
    ) -> list[Verdict]:
        need = match.need
        return choose(
            near,
            standings,
            wanted=need.wanted - len(match.offers) + spare,
            vehicle=(need.line.vehicle_type, need.line.vehicle_subtype),
            offered_before=need.offered_before,
            given=given,
        )


def _may_find_more(match: Match) -> bool:
    """Whether offers are missing, and the index may know of more captains than it has named."""
    return match.is_short and not (match.looked and match.looked.complete)


def _offer(need: Need, standing: Standing, distance_m: int) -> Offer:
    return Offer(
        offer_id=new_id(),
        order_id=need.order.order_id,
        captain_id=standing.captain_id,
        transporter_id=standing.transporter_id,
        vehicle_type=standing.vehicle_type,
        vehicle_subtype=standing.vehicle_subtype,
        vehicle_number=standing.vehicle_number,
        wave=need.order.wave,
        distance_m=distance_m,
        price_per_truck=need.line.price_per_truck,
        open_trucks=need.line.open_trucks,
        status=OfferStatus.LIVE,
        expires_at=need.plan.expires_at,
    )
