"""The steps that waves, declines, releases and lost captains share, on orders whose rows are locked.

Each step writes its part and returns the events to append; the caller appends all of them, in order, in the same
transaction. A wave appends its own, in the statement that writes its offers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from dispatcher import domain
from dispatcher.domain import DISPATCH_WAVE, Cause, EndReason, Line, Offer, OrderView, SearchPlan
from dispatcher.handlers.explanation import ROUNDS_TOLD, at_target
from dispatcher.handlers.matching import Match, Matcher, Need
from dispatcher.store import offers as offer_store
from dispatcher.store import orders as order_store
from dispatcher.store import rounds as round_store
from dispatcher.store.rounds import Round
from weelo_common import events
from weelo_common.delivery import RetryLater
from weelo_common.events import (
    DispatchExhausted,
    Event,
    OffersMade,
    OffersWithdrawn,
    TimerCancelled,
    TimerScheduled,
)
from weelo_common.offer_tokens import OfferClaims, OfferTokenSigner
from weelo_common.outbox import Outbox
from weelo_common.postgres import Connection

AGAIN_S = 0.02  # captains whom another order's transaction holds are free again in a moment


class Dispatch:
    """Makes and ends offers."""

    def __init__(self, matcher: Matcher, signer: OfferTokenSigner, outbox: Outbox) -> None:
        self._matcher = matcher
        self._signer = signer
        self._outbox = outbox

    async def wave(
        self,
        connection: Connection,
        order: OrderView,
        plan: SearchPlan,
        lines: Sequence[Line],
        offered_before: Collection[str],
        *,
        now: datetime,
    ) -> list[Event]:
        """The next wave: offers, ``OffersMade`` even where there are none, and the timer of the wave after.

        Its events are appended here. They are returned to be counted.

        Raises:
            RetryLater: other orders are being offered to captains who are wanted here; undo this transaction.
        """
        order = replace(order, wave=order.wave + 1)
        needs = [
            Need(order, plan, line, wanted, offered_before)
            for line in lines
            if (wanted := domain.wanted_offers(line)) > 0
        ]
        matches = await self._matcher.match(connection, needs, now=now)
        _unless_contended(matches)
        looked_for = [match.need.line for match in matches]
        idle = [at_target(line) for line in lines if line.open_trucks and line not in looked_for]
        told: list[Event] = [self._offers_made(order, plan, matches)]
        if order.wave < domain.OFFER_WAVES:
            order, timer = schedule_wave(order, plan)
            told.append(timer)
        order, exhausted = _tell_exhausted(order, _with_offers(lines, matches))
        told += exhausted
        made = _round(order, plan, matches, cause=Cause.WAVE, now=now, also_told=idle)
        await round_store.add_wave(connection, made, self._outbox.columns(told, at=now))
        return told

    async def needs_of(
        self, connection: Connection, orders: Collection[OrderView], *, now: datetime
    ) -> tuple[list[Need], dict[str, list[Line]]]:
        """What orders want now: lines short of their target. Empty for those not searching."""
        searching = {
            order.order_id: order for order in orders if domain.may_search(order, now) and order.wave > 0
        }
        if not searching:
            return [], {}
        lines = await order_store.lines_of(connection, searching)
        offered = await offer_store.captains_offered(connection, searching)
        needs = [
            Need(order, order.plan, line, wanted, offered[order_id])
            for order_id, order in sorted(searching.items())
            for line in lines[order_id]
            if order.plan is not None and (wanted := domain.wanted_offers(line)) > 0
        ]
        return needs, lines

    async def refill(
        self,
        connection: Connection,
        orders: Collection[OrderView],
        *,
        cause: Cause,
        now: datetime,
        also_lock: Collection[str] = (),
    ) -> list[Event]:
        """Replacements at once, in the current wave and radius; locks the captains of ``also_lock`` as well.

        Raises:
            RetryLater: as ``wave``.
        """
        needs, lines = await self.needs_of(connection, orders, now=now)
        matches = await self._matcher.match(connection, needs, now=now, also_lock=also_lock)
        _unless_contended(matches)
        told: list[Event] = []
        for order in sorted(orders, key=lambda order: order.order_id):
            if order.order_id not in lines or order.plan is None:
                continue
            mine = [match for match in matches if match.need.order.order_id == order.order_id]
            if mine:
                await round_store.add_round(connection, _round(order, order.plan, mine, cause=cause, now=now))
                made = self._offers_made(order, order.plan, mine)
                told += [made] if made.offers else []
            after, exhausted = _tell_exhausted(order, _with_offers(lines[order.order_id], mine))
            told += exhausted
            if after != order:
                await order_store.save_order(connection, after)
        return told

    async def end_search(self, connection: Connection, order: OrderView, reason: EndReason) -> list[Event]:
        """End every live offer of an order, and its timer."""
        told: list[Event] = []
        ended = await offer_store.end_offers(connection, order.order_id, reason)
        if ended:
            told.append(_withdrawn(order.order_id, reason, ended))
        if 0 < order.wave < domain.OFFER_WAVES:  # the timer of the next wave is set
            told.append(
                TimerCancelled(
                    timer_key=events.timer_key(DISPATCH_WAVE, order.order_id),
                    version=order.timer_version,
                    order_id=order.order_id,
                )
            )
        return told

    async def end_filled_lines(self, connection: Connection, order: OrderView) -> list[Event]:
        """End the live offers of lines that have no open truck."""
        gone: tuple[events.WithdrawnOffer, ...] = ()
        for line in (await order_store.lines_of(connection, [order.order_id]))[order.order_id]:
            if line.open_trucks == 0 and line.live_offers:
                vehicle = (line.vehicle_type, line.vehicle_subtype)
                gone += await offer_store.end_line_offers(
                    connection, order.order_id, vehicle, EndReason.FILLED
                )
        return [_withdrawn(order.order_id, EndReason.FILLED, gone)] if gone else []

    async def check_exhausted(self, connection: Connection, order: OrderView) -> list[Event]:
        """Say so where the winner's offer was the last one and no wave is to come."""
        if not order.searching or order.wave < domain.OFFER_WAVES:
            return []
        lines = (await order_store.lines_of(connection, [order.order_id]))[order.order_id]
        after, told = _tell_exhausted(order, lines)
        if after != order:
            await order_store.save_order(connection, after)
        return told

    async def withdraw_from(
        self, connection: Connection, captain_id: str, order_ids: Collection[str]
    ) -> list[Event]:
        """End a captain's live offers of these orders, because he won another."""
        ended = await offer_store.end_captains_offers(connection, captain_id, order_ids, EndReason.BUSY)
        return [_withdrawn(order_id, EndReason.BUSY, gone) for order_id, gone in sorted(ended.items())]

    def _offers_made(self, order: OrderView, plan: SearchPlan, matches: Sequence[Match]) -> OffersMade:
        return OffersMade(
            order_id=order.order_id,
            wave=order.wave,
            radius_m=domain.wave_radius_m(order.wave),
            offers=tuple(self._announced(offer) for match in matches for offer in match.offers),
            pickup=plan.pickup,
            drop=plan.drop,
            distance_km=plan.distance_km,
        )

    def token(self, offer: Offer) -> str:
        """The signed token of an offer: the same each time, so that none need be kept."""
        return self._signer.sign(
            OfferClaims(
                offer_id=offer.offer_id,
                captain_id=offer.captain_id,
                order_id=offer.order_id,
                transporter_id=offer.transporter_id,
                vehicle_type=offer.vehicle_type,
                vehicle_subtype=offer.vehicle_subtype,
                vehicle_number=offer.vehicle_number,
                expires_at=offer.expires_at,
            )
        )

    def _announced(self, offer: Offer) -> events.Offer:
        return events.Offer(
            offer_id=offer.offer_id,
            captain_id=offer.captain_id,
            transporter_id=offer.transporter_id,
            vehicle_type=offer.vehicle_type,
            vehicle_subtype=offer.vehicle_subtype,
            pickup_distance_m=offer.distance_m,
            price_per_truck=offer.price_per_truck,
            open_trucks=offer.open_trucks,
            offer_token=self.token(offer),
            expires_at=offer.expires_at,
        )


def schedule_wave(
    order: OrderView, plan: SearchPlan, *, sender_ahead: timedelta = timedelta(0)
) -> tuple[OrderView, TimerScheduled]:
    """Schedule the wave after the last one made: each scheduling has a higher version.

    ``sender_ahead``: of the clock by which its timer came too early before.
    """
    wave = order.wave + 1
    order = replace(order, timer_version=order.timer_version + 1)
    timer = TimerScheduled(
        timer_key=events.timer_key(DISPATCH_WAVE, order.order_id),
        version=order.timer_version,
        order_id=order.order_id,
        owner="dispatcher",
        due_at=domain.wave_due(plan, wave) + sender_ahead,
        payload={"wave": wave},
    )
    return order, timer


def _round(
    order: OrderView,
    plan: SearchPlan,
    matches: Sequence[Match],
    *,
    cause: Cause,
    now: datetime,
    also_told: Sequence[Mapping[str, Any]] = (),
) -> Round:
    return Round(
        order=order,
        offers=[offer for match in matches for offer in match.offers],
        cause=cause.value,
        radius_m=domain.wave_radius_m(order.wave),
        at=now,
        expires_at=plan.expires_at,
        report=[*(match.report() for match in matches), *also_told],
        most=ROUNDS_TOLD,
    )


def _unless_contended(matches: Sequence[Match]) -> None:
    """Rather a moment later than with too few: the next wave is seconds away.

    Waiting for their rows here could end in a circle, for this transaction holds other captains' rows already.
    """
    if any(match.contended for match in matches):
        raise RetryLater(AGAIN_S, "captains near are being offered other orders")


def _with_offers(lines: Sequence[Line], matches: Sequence[Match]) -> list[Line]:
    made = {(m.need.line.vehicle_type, m.need.line.vehicle_subtype): len(m.offers) for m in matches}
    return [
        replace(line, live_offers=line.live_offers + made.get((line.vehicle_type, line.vehicle_subtype), 0))
        for line in lines
    ]


def _withdrawn(order_id: str, reason: EndReason, gone: tuple[events.WithdrawnOffer, ...]) -> OffersWithdrawn:
    return OffersWithdrawn(order_id=order_id, reason=reason.value, offers=gone)


def _tell_exhausted(order: OrderView, lines: Sequence[Line]) -> tuple[OrderView, list[Event]]:
    """Say once that nobody is left to ask; an offer made later (after a release) takes it back."""
    exhausted = domain.is_exhausted(order, lines)
    if exhausted == order.exhausted:
        return order, []
    told: list[Event] = [DispatchExhausted(order_id=order.order_id, waves=order.wave)] if exhausted else []
    return replace(order, exhausted=exhausted), told
