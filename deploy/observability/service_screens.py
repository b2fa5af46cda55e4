"""One screen for each service: what all of them have, and what is its own."""

from __future__ import annotations

from deploy.observability.order_flow import ORDER_FLOW
from deploy.observability.panels import Dashboard, Kind, Panel, Query, Row, Unit
from deploy.observability.shared_panels import consumer, http, outbox, rate, replicas, times

HOME = (ORDER_FLOW.uid,)

ORDER_API = Dashboard(
    "weelo-order-api",
    "Weelo: order-api",
    "Takes, cancels and fills orders; decides who wins.",
    [
        replicas("order-api", "postgres, token keys; kafka and redis do not take it out of the traffic"),
        http("order-api", 0.3),
        Row(
            "Orders",
            [
                Panel(
                    "Creates, by what they came to",
                    [Query(rate("weelo_order_api_creates_total", by="outcome"), "{{outcome}}")],
                    Unit.PER_SECOND,
                    "active: he has an order that searches. concurrent: another create of his is in flight.",
                    kind=Kind.STACK,
                ),
                Panel(
                    "The gate in Redis",
                    [Query(rate("weelo_order_api_gate_total", by="outcome"), "{{outcome}}")],
                    Unit.PER_SECOND,
                    "replay: answered from the cache. busy: the lock was taken. unlocked: Redis gave no lock, and "
                    "PostgreSQL alone holds creates apart.",
                    kind=Kind.STACK,
                ),
                Panel(
                    "Accepts, by what they came to",
                    [Query(rate("weelo_order_api_accepts_total", by="outcome"), "{{outcome}}")],
                    Unit.PER_SECOND,
                    "won, or why not: the order is cancelled, expired or taken, or the captain is busy.",
                    kind=Kind.STACK,
                ),
                Panel(
                    "Searches ended by time, by who noticed",
                    [Query(rate("weelo_order_api_searches_ended_total", by="noticed_by"), "{{noticed_by}}")],
                    Unit.PER_SECOND,
                    "timer is the rule; sweep means that no timer came.",
                    kind=Kind.STACK,
                ),
                Panel(
                    "How late they ended",
                    times("weelo_order_api_ended_late_seconds"),
                    Unit.SECONDS,
                    "After expiresAt, by PostgreSQL's clock.",
                    bad_from=2,
                ),
                Panel(
                    "Steps of orders",
                    [Query(rate("weelo_order_api_step_seconds_count", by="step"), "{{step}}")],
                    Unit.PER_SECOND,
                    "What happens to orders after their creation; trucks count one by one.",
                    kind=Kind.STACK,
                ),
            ],
        ),
        outbox("order-api"),
        consumer("order-api", "dispatch.offers.v1 and timers.fired.v1"),
    ],
    HOME,
)

DISPATCHER = Dashboard(
    "weelo-dispatcher",
    "Weelo: dispatcher",
    "Knows where captains are; makes and withdraws offers.",
    [
        replicas(
            "dispatcher", "postgres, token keys, index, orders (its consumer); redis does not take it out"
        ),
        Row(
            "Matching",
            [
                Panel(
                    "Offers made, by cause",
                    [Query(rate("weelo_dispatcher_offers_made_total", by="cause"), "{{cause}}")],
                    Unit.PER_SECOND,
                    "wave: a round is due. declined, busy, released: replacements at once.",
                    kind=Kind.STACK,
                ),
                Panel(
                    "Offers ended, by reason",
                    [Query(rate("weelo_dispatcher_offers_ended_total", by="reason"), "{{reason}}")],
                    Unit.PER_SECOND,
                    "accepted or declined by the captain; else withdrawn: filled, cancelled, expired, busy.",
                    kind=Kind.STACK,
                ),
                Panel(
                    "Waves, by number",
                    [
                        Query(rate("weelo_dispatcher_waves_total", by="wave"), "wave {{wave}}"),
                        Query(rate("weelo_dispatcher_exhausted_total"), "exhausted: nobody left"),
                    ],
                    Unit.PER_SECOND,
                    "Many late waves, or exhausted orders: too few captains near the customers.",
                ),
                Panel(
                    "Time of a match",
                    times("weelo_dispatcher_match_seconds"),
                    Unit.SECONDS,
                    "To propose, lock and judge for one event of an order.",
                    bad_from=0.1,
                ),
                Panel(
                    "Candidates of a line",
                    times("weelo_dispatcher_match_candidates"),
                    Unit.COUNT,
                    "Captains considered for one line of an order.",
                ),
                Panel(
                    "Not offered, by reason",
                    [
                        Query(
                            rate("weelo_dispatcher_refusals_total", by="reason"),
                            "{{reason}}",
                            silent_when_well=True,
                        )
                    ],
                    Unit.PER_SECOND,
                    "Why captains who were considered did not get the offer.",
                    kind=Kind.STACK,
                ),
            ],
        ),
        Row(
            "Positions and the index",
            [
                Panel(
                    "Positions, by what became of them",
                    [Query(rate("weelo_dispatcher_positions_total", by="outcome"), "{{outcome}}")],
                    Unit.EVENTS_PER_SECOND,
                    "accepted from phones, sent to Kafka, indexed by every replica; ignored: a newer one was there.",
                ),
                Panel(
                    "Captains in the index",
                    [
                        Query('max(weelo_dispatcher_index_captains{job="dispatcher"})', "known"),
                        Query(
                            'max(weelo_dispatcher_index_placed{job="dispatcher"})', "with a fresh position"
                        ),
                    ],
                    Unit.COUNT,
                    "Each replica holds all of them.",
                ),
                Panel(
                    "Index behind",
                    [Query("max by (instance) (weelo_dispatcher_index_lag_records)", "{{instance}}")],
                    Unit.COUNT,
                    "Records of positions and states that a replica has not read.",
                    bad_from=10_000,
                    width=4,
                ),
                Panel(
                    "Index stale",
                    [Query("max by (instance) (weelo_dispatcher_index_staleness_seconds)", "{{instance}}")],
                    Unit.SECONDS,
                    "Age of the brokers' last answer to a replica's reader.",
                    bad_from=10,
                    width=4,
                ),
            ],
        ),
        http("dispatcher", 0.5),
        outbox("dispatcher"),
        consumer(
            "dispatcher",
            "orders.events.v1 and timers.fired.v1, and for its index captains.state.v1 and positions",
        ),
    ],
    HOME,
)

NOTIFIER = Dashboard(
    "weelo-notifier",
    "Weelo: notifier",
    "Pushes every event to the phones it concerns, and replays what a phone missed.",
    [
        replicas("notifier", "postgres, token keys, kafka; redis does not take it out"),
        Row(
            "Sockets",
            [
                Panel(
                    "Open sockets",
                    [
                        Query("sum by (instance) (weelo_notifier_sockets)", "{{instance}}"),
                        Query("max(weelo_notifier_sockets_limit)", "limit of one replica"),
                    ],
                    Unit.COUNT,
                    "Authenticated. From 85 % of the limit on SocketsNearLimit rings.",
                ),
                Panel(
                    "People",
                    [
                        Query("sum(weelo_notifier_users)", "users with a socket"),
                        Query("sum(weelo_notifier_unauthenticated_sockets)", "sockets without a token yet"),
                    ],
                    Unit.COUNT,
                    "Several sockets a user: an app that does not close its old ones.",
                ),
                Panel(
                    "Opened, refused, closed",
                    [
                        Query(rate("weelo_notifier_opened_total"), "opened"),
                        Query(rate("weelo_notifier_refused_total", by="reason"), "refused: {{reason}}", True),
                        Query(rate("weelo_notifier_closed_total", by="code"), "closed: {{code}}", True),
                        Query(rate("weelo_notifier_slow_closed_total"), "closed: too slow"),
                    ],
                    Unit.PER_SECOND,
                    "Sockets with a token; handshakes answered 503; closed by the server, by code (4429: too slow).",
                ),
            ],
        ),
        Row(
            "Frames",
            [
                Panel(
                    "Sent, by event",
                    [Query(rate("weelo_notifier_pushed_total", by="event"), "{{event}}")],
                    Unit.PER_SECOND,
                    "Event frames to sockets, live and replayed.",
                    kind=Kind.STACK,
                ),
                Panel(
                    "From the event to the socket",
                    times("weelo_notifier_push_seconds"),
                    Unit.SECONDS,
                    "Live frames only. Promised: 99 % within 1 s.",
                    bad_from=1,
                ),
                Panel(
                    "Waiting for slow sockets",
                    [
                        Query("sum(weelo_notifier_queued_bytes)", "all"),
                        Query("max(weelo_notifier_longest_queue_bytes)", "the slowest"),
                    ],
                    Unit.BYTES,
                    "Bytes in the processes. A socket has 1 MiB at most, and is closed when it makes no room.",
                ),
                Panel(
                    "Streams",
                    [
                        Query(rate("weelo_notifier_appended_total"), "appended"),
                        Query(rate("weelo_notifier_skipped_total"), "passed over: the offer had ended"),
                        Query(
                            rate("weelo_notifier_resumed_total", by="recovered"),
                            "resumes, recovered: {{recovered}}",
                            True,
                        ),
                    ],
                    Unit.PER_SECOND,
                    "recovered: false means that a phone was away for too long and rereads by HTTP.",
                ),
                Panel(
                    "Between replicas, over Redis",
                    [
                        Query(rate("weelo_notifier_routed_total", by="direction"), "{{direction}}"),
                        Query(rate("weelo_notifier_unrouted_total"), "not sent: Redis away or behind"),
                        Query(rate("weelo_notifier_found_late_total"), "found by the heads check"),
                        Query("sum(weelo_notifier_routing_queue)", "waiting now"),
                    ],
                    Unit.COUNT,
                    "Frames a second. What Redis loses the heads check finds within some seconds.",
                ),
                Panel(
                    "Full queues",
                    [Query("sum(weelo_notifier_full_queues)", "sockets")],
                    Unit.COUNT,
                    "Sockets whose queue has reached its bound, now.",
                    warn_from=1,
                ),
            ],
        ),
        consumer("notifier", "orders.events.v1 and dispatch.offers.v1"),
        http("notifier", 0.5),
    ],
    HOME,
)

EXPIRY = Dashboard(
    "weelo-expiry",
    "Weelo: expiry",
    "Fires each timer once, on time, through any crash.",
    [
        replicas("expiry", "postgres, kafka, firing"),
        Row(
            "Timers",
            [
                Panel(
                    "Fired",
                    [
                        Query(rate("weelo_expiry_fired_total"), "fired"),
                        Query(rate("weelo_expiry_repeated_total"), "fired again after a crash"),
                        Query(rate("weelo_expiry_fire_errors_total"), "rounds in trouble"),
                    ],
                    Unit.PER_SECOND,
                    "Timers whose event Kafka acknowledged. 40,000 a second are no trouble.",
                ),
                Panel(
                    "How late",
                    times("weelo_expiry_late_seconds"),
                    Unit.SECONDS,
                    "From the due time to the claim, by PostgreSQL's clock. From 0.5 s on TimersLate rings.",
                    warn_from=0.1,
                    bad_from=0.5,
                ),
                Panel(
                    "Due and not fired",
                    [Query("sum(weelo_expiry_due)", "timers")],
                    Unit.COUNT,
                    "After downtime there is a backlog: it drains oldest first, and new timers are on time.",
                    bad_from=1000,
                ),
                Panel(
                    "Waiting",
                    [
                        Query("sum(weelo_expiry_pending)", "in the table"),
                        Query("sum(weelo_expiry_held)", "due soon, in memory"),
                    ],
                    Unit.COUNT,
                    "Timers whose time has not come.",
                ),
                Panel(
                    "Commands, by what became of them",
                    [
                        Query(
                            rate("weelo_expiry_commands_total", by="command, outcome"),
                            "{{command}}: {{outcome}}",
                        )
                    ],
                    Unit.EVENTS_PER_SECOND,
                    "ignored: a higher version stands. refused: it went to the dead letters.",
                    kind=Kind.STACK,
                ),
                Panel(
                    "Partitions owned",
                    [
                        Query("sum(weelo_expiry_partitions_owned)", "all"),
                        Query("weelo_expiry_partitions_owned", "{{instance}}"),
                    ],
                    Unit.COUNT,
                    "12 together, or the timers of one do not fire: TimersUnowned.",
                    width=4,
                ),
                Panel(
                    "Clocks",
                    [Query("abs(weelo_expiry_clock_offset_seconds)", "{{instance}}")],
                    Unit.SECONDS,
                    "By how much the clocks of PostgreSQL and of each machine differ.",
                    bad_from=1,
                    width=4,
                ),
            ],
        ),
        consumer("expiry", "timers.commands.v1"),
    ],
    HOME,
)

DASHBOARDS = (ORDER_FLOW, ORDER_API, DISPATCHER, NOTIFIER, EXPIRY)
