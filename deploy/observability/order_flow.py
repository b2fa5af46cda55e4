"""The screen to look at first: one order's way, left to right and top to bottom, with rates and times at each step."""

from __future__ import annotations

from deploy.observability.panels import Dashboard, Kind, Panel, Query, Row, Unit
from deploy.observability.shared_panels import QUANTILES, quantile, rate, times

CREATE = 'job="order-api", method="POST", route="/api/v1/orders"'
ACCEPT = 'job="order-api", method="POST", route="/api/v1/orders/{order_id}/accept"'
CREATED_AT_DISPATCHER = 'job="dispatcher", type="weelo.order.created.v1"'
ACCEPTED_STEPS = 'step=~"assigned|filled"'
TRIP_STEPS = 'step=~"started|completed|cancelled|expired|released"'


def _promise(title: str, broken: str, kept_from: float, about: str) -> Panel:
    return Panel(
        title,
        [Query(f"1 - {broken}", "kept")],
        Unit.SHARE,
        about,
        kind=Kind.NUMBER,
        bad_below=kept_from,
        width=4,
        height=5,
        decimals=2,
    )


GLANCE = Row(
    "At a glance: the promises of the last hour, and what stands in the way",
    [
        _promise(
            "Creates under 300 ms",
            "weelo:creates_bad:ratio_rate1h",
            0.999,
            "Promised: 99.9 %. 5xx count as broken, 4xx not at all.",
        ),
        _promise(
            "On the phone within 1 s",
            "weelo:pushes_late:ratio_rate1h",
            0.99,
            "Promised: 99 %. From the event to the phone's socket, all live frames.",
        ),
        _promise(
            "Searches ended in time",
            "weelo:ends_late:ratio_rate1h",
            0.9999,
            "Promised: none ends more than 2 s late while expiry is up.",
        ),
        Panel(
            "Alarms",
            [Query('count(ALERTS{alertstate="firing"}) or vector(0)', "ringing")],
            Unit.COUNT,
            "docs/runbook.md says of each what to do.",
            kind=Kind.NUMBER,
            bad_from=1,
            width=4,
            height=5,
        ),
        Panel(
            "Behind Kafka",
            [
                Query("sum(weelo_consumer_lag)", "records"),
                Query("sum(max by (job) (weelo_outbox_depth))", "unsent"),
            ],
            Unit.COUNT,
            "Records that all groups together have not handled, and events that wait in the outboxes.",
            kind=Kind.NUMBER,
            warn_from=1000,
            bad_from=10_000,
            width=4,
            height=5,
        ),
        Panel(
            "Waits for an operator",
            [
                Query("sum(max by (consumer) (weelo_consumer_parked_keys))", "parked"),
                Query("sum(max by (consumer) (weelo_consumer_dead_unsettled))", "dead"),
            ],
            Unit.COUNT,
            "Parked keys and unsettled dead letters of all services, now.",
            kind=Kind.NUMBER,
            bad_from=1,
            width=4,
            height=5,
        ),
    ],
)

CREATED = Row(
    "1. Created",
    [
        Panel(
            "Creates, by what they came to",
            [Query(rate("weelo_order_api_creates_total", by="outcome"), "{{outcome}}")],
            Unit.PER_SECOND,
            "created: a new order. replayed: the same answer again. The rest are refusals.",
            kind=Kind.STACK,
            width=6,
        ),
        Panel(
            "Time of a create",
            times("weelo_http_request_seconds", where=f'{CREATE}, status="201"'),
            Unit.SECONDS,
            "POST /orders, from its first byte to the last of its 201. Promised: 300 ms.",
            bad_from=0.3,
            width=6,
        ),
        Panel(
            "Outbox to Kafka",
            [Query(rate("weelo_outbox_published_total", by="topic"), "{{topic}}")],
            Unit.EVENTS_PER_SECOND,
            "Events that Kafka acknowledged: orders and timers of order-api, offers of the dispatcher.",
            kind=Kind.STACK,
            width=6,
        ),
        Panel(
            "Oldest event that waits for Kafka",
            [Query("max by (job) (weelo_outbox_age_seconds)", "{{job}}")],
            Unit.SECONDS,
            "Milliseconds as a rule. From 10 s on OutboxOld rings.",
            warn_from=1,
            bad_from=10,
            width=6,
        ),
    ],
)

OFFERED = Row(
    "2. Offered",
    [
        Panel(
            "Offers made, by cause",
            [Query(rate("weelo_dispatcher_offers_made_total", by="cause"), "{{cause}}")],
            Unit.PER_SECOND,
            "wave: a round of offers. The rest replace offers that ended early.",
            kind=Kind.STACK,
        ),
        Panel(
            "From the create to its offers",
            times("weelo_consumer_event_age_seconds", where=CREATED_AT_DISPATCHER),
            Unit.SECONDS,
            "From the order's commit to the commit of its first wave: outbox, Kafka, match.",
            bad_from=0.5,
        ),
        Panel(
            "Match",
            times("weelo_dispatcher_match_seconds"),
            Unit.SECONDS,
            "To propose, lock and judge captains for one event of an order.",
            bad_from=0.1,
        ),
    ],
)

ON_THE_PHONE = Row(
    "3. On the phone",
    [
        Panel(
            "Frames sent, by event",
            [Query(rate("weelo_notifier_pushed_total", by="event"), "{{event}}")],
            Unit.PER_SECOND,
            "To all sockets; new_broadcast is an offer.",
            kind=Kind.STACK,
        ),
        Panel(
            "From the event to the socket",
            times("weelo_notifier_push_seconds"),
            Unit.SECONDS,
            "Live frames: outbox, Kafka, notifier, and Redis where the socket is at another replica. Promised: 1 s.",
            bad_from=1,
        ),
        Panel(
            "Sockets",
            [
                Query("sum(weelo_notifier_sockets)", "open"),
                Query("sum(weelo_notifier_sockets_limit)", "limit"),
            ],
            Unit.COUNT,
            "Phones that listen, over all replicas.",
        ),
    ],
)

ACCEPTED = Row(
    "4. Accepted",
    [
        Panel(
            "Accepts, by what they came to",
            [Query(rate("weelo_order_api_accepts_total", by="outcome"), "{{outcome}}")],
            Unit.PER_SECOND,
            "won: the captain has the truck request. The rest came too late.",
            kind=Kind.STACK,
        ),
        Panel(
            "Time of an accept",
            times("weelo_http_request_seconds", where=ACCEPT),
            Unit.SECONDS,
            "POST …/accept, whatever it came to.",
            bad_from=0.3,
        ),
        Panel(
            "From the create to the accept",
            [
                Query(
                    quantile(share, "weelo_order_api_step_seconds", where=ACCEPTED_STEPS, by="step"),
                    f"{name} {{{{step}}}}",
                )
                for share, name in QUANTILES[:2]
            ],
            Unit.SECONDS,
            "assigned: a truck was won. filled: the last one was. This is people's time more than ours.",
        ),
    ],
)

ENDED = Row(
    "5. Started, ended",
    [
        Panel(
            "Steps",
            [Query(rate("weelo_order_api_step_seconds_count", where=TRIP_STEPS, by="step"), "{{step}}")],
            Unit.PER_SECOND,
            "Trips started; orders completed, cancelled, expired; trucks given back before the trip.",
            kind=Kind.STACK,
        ),
        Panel(
            "From the create to each step, p50",
            [Query(quantile(0.5, "weelo_order_api_step_seconds", where=TRIP_STEPS, by="step"), "{{step}}")],
            Unit.SECONDS,
            "How long half of the orders took to it.",
        ),
        Panel(
            "Offers that ended, by reason",
            [Query(rate("weelo_dispatcher_offers_ended_total", by="reason"), "{{reason}}")],
            Unit.PER_SECOND,
            "accepted or declined by the captain; else withdrawn: filled, cancelled, expired, busy.",
            kind=Kind.STACK,
        ),
    ],
)

BY_TIME = Row(
    "6. Ended by time",
    [
        Panel(
            "Searches ended by time, by who noticed",
            [Query(rate("weelo_order_api_searches_ended_total", by="noticed_by"), "{{noticed_by}}")],
            Unit.PER_SECOND,
            "timer: expiry's event. Others looked first; sweep means that no timer came.",
            kind=Kind.STACK,
        ),
        Panel(
            "How late they ended",
            times("weelo_order_api_ended_late_seconds"),
            Unit.SECONDS,
            "After expiresAt, by PostgreSQL's clock. Promised: less than 2 s while expiry is up.",
            bad_from=2,
        ),
        Panel(
            "How late timers fire",
            times("weelo_expiry_late_seconds"),
            Unit.SECONDS,
            "From the due time to the claim, by PostgreSQL's clock.",
            warn_from=0.1,
            bad_from=0.5,
        ),
    ],
)

ORDER_FLOW = Dashboard(
    "weelo-order-flow",
    "Weelo: flow of an order",
    "One order's way through the four services, with rates and times at each step. Begin here.",
    [GLANCE, CREATED, OFFERED, ON_THE_PHONE, ACCEPTED, ENDED, BY_TIME],
    links=("weelo-order-api", "weelo-dispatcher", "weelo-notifier", "weelo-expiry"),
)
