"""Panels that every service has: its replicas, its HTTP, what it consumes, its outbox, its process.

And the few shapes that all queries are made of, so that one thing is asked in one way.
"""

from __future__ import annotations

from deploy.observability.panels import Kind, Panel, Query, Row, Unit

WINDOW = "$__rate_interval"
QUANTILES = ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))


def rate(metric: str, *, where: str = "", by: str = "") -> str:
    """Per second, summed over the replicas, for each value of the labels ``by``."""
    grouped = f" by ({by})" if by else ""
    return f"sum{grouped} (rate({metric}{{{where}}}[{WINDOW}]))"


def quantile(share: float, histogram: str, *, where: str = "", by: str = "") -> str:
    """The time (or count) that so large a share stayed below, over all replicas."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, sum by ({labels}) (rate({histogram}_bucket{{{where}}}[{WINDOW}])))"


def times(
    histogram: str,
    *,
    where: str = "",
    silent_when_well: bool = False,
    shares: tuple[tuple[float, str], ...] = QUANTILES,
) -> list[Query]:
    """The usual quantiles of a histogram, one line each."""
    return [Query(quantile(share, histogram, where=where), name, silent_when_well) for share, name in shares]


def replicas(job: str, checks: str) -> Row:
    """Are they there, can they work, what do their probes say, which alarms ring."""
    return Row(
        "Replicas",
        [
            Panel(
                "Ready",
                [
                    Query(f'sum(weelo_ready{{job="{job}"}})', "ready"),
                    Query(f'count(up{{job="{job}"}})', "known"),
                ],
                Unit.COUNT,
                "Replicas that take traffic, of those that Prometheus knows.",
                kind=Kind.NUMBER,
                bad_below=1,
                width=3,
                height=6,
            ),
            Panel(
                "Alarms",
                [
                    Query(
                        f'count(ALERTS{{alertstate="firing", job="{job}"}} '
                        f'or ALERTS{{alertstate="firing", consumer="{job}"}}) or vector(0)',
                        "ringing",
                    )
                ],
                Unit.COUNT,
                "Alarms that ring with this service's name; docs/runbook.md says of each what to do.",
                kind=Kind.NUMBER,
                bad_from=1,
                width=3,
                height=6,
            ),
            Panel(
                "Probes",
                [Query(f'min by (check) (weelo_health_ok{{job="{job}"}})', "{{check}}")],
                Unit.COUNT,
                f"1: every replica finds nothing wrong with it. Here: {checks}.",
                bad_below=1,
                width=6,
                height=6,
            ),
            Panel(
                "CPU",
                [Query(f'rate(process_cpu_seconds_total{{job="{job}"}}[{WINDOW}])', "{{instance}}")],
                Unit.CORES,
                "Cores that each replica uses. One event loop uses one at most.",
                warn_from=0.8,
                bad_from=0.95,
                width=6,
                height=6,
                decimals=2,
            ),
            Panel(
                "Memory",
                [Query(f'process_resident_memory_bytes{{job="{job}"}}', "{{instance}}")],
                Unit.BYTES,
                "Resident memory of each replica. The manifests allow 512 MiB.",
                warn_from=400 * 1024 * 1024,
                bad_from=480 * 1024 * 1024,
                width=6,
                height=6,
            ),
        ],
    )


def http(job: str, slow_from_s: float) -> Row:
    """Rate, errors and duration of each path."""
    mine = f'job="{job}"'
    return Row(
        "HTTP: rate, errors, duration of each path",
        [
            Panel(
                "Requests",
                [
                    Query(
                        rate("weelo_http_request_seconds_count", where=mine, by="method, route"),
                        "{{method}} {{route}}",
                    )
                ],
                Unit.PER_SECOND,
                "By route. Health checks and scrapes are not counted.",
                kind=Kind.STACK,
            ),
            Panel(
                "Errors",
                [
                    Query(
                        rate(
                            "weelo_http_request_seconds_count",
                            where=f'{mine}, status=~"5.."',
                            by="method, route, status",
                        ),
                        "{{status}} {{method}} {{route}}",
                        silent_when_well=True,
                    ),
                    Query(
                        rate("weelo_http_request_seconds_count", where=f'{mine}, status=~"4.."', by="status"),
                        "{{status}}, all routes",
                        silent_when_well=True,
                    ),
                ],
                Unit.PER_SECOND,
                "5xx by route: 503 is a server out of reach, 500 a defect. 4xx are the callers' own, by status.",
            ),
            Panel(
                "Duration, p99",
                [
                    Query(
                        quantile(0.99, "weelo_http_request_seconds", where=mine, by="method, route"),
                        "{{method}} {{route}}",
                    )
                ],
                Unit.SECONDS,
                "From the request's first byte to the answer's last, by route.",
                bad_from=slow_from_s,
            ),
        ],
    )


def consumer(job: str, reads: str) -> Row:
    """What it reads from Kafka: how much, what became of it, how far behind, what waits for an operator."""
    mine = f'job="{job}"'
    outcomes = ("applied", "duplicate", "ignored", "parked", "dead")
    return Row(
        "From Kafka",
        [
            Panel(
                "Consumed, by what became of it",
                [Query(rate(f"weelo_consumer_{outcome}_total", where=mine), outcome) for outcome in outcomes],
                Unit.EVENTS_PER_SECOND,
                f"Reads {reads}. Each event counts once; duplicates were known to the inbox.",
                kind=Kind.STACK,
            ),
            Panel(
                "Lag",
                [Query(f"sum by (consumer) (weelo_consumer_lag{{{mine}}})", "{{consumer}}")],
                Unit.COUNT,
                "Records not yet handled, over all replicas.",
                warn_from=1000,
                bad_from=10_000,
            ),
            Panel(
                "Age of events when they take effect, p99",
                [
                    Query(
                        quantile(0.99, "weelo_consumer_event_age_seconds", where=mine, by="type"),
                        "{{type}}",
                    )
                ],
                Unit.SECONDS,
                "From the commit that made the event, through outbox, Kafka and inbox, to its effect here.",
                bad_from=1,
            ),
            Panel(
                "Time to handle, p99",
                [Query(quantile(0.99, "weelo_consumer_handle_seconds", where=mine, by="type"), "{{type}}")],
                Unit.SECONDS,
                "One try at one event, with its transaction.",
                bad_from=0.5,
            ),
            Panel(
                "Tries again",
                [
                    Query(rate("weelo_consumer_retries_total", where=mine), "tries after the first"),
                    Query(rate("weelo_consumer_replayed_total", where=mine), "parked events replayed"),
                ],
                Unit.EVENTS_PER_SECOND,
                "Many tries: a server is away, or a handler fails.",
            ),
            Panel(
                "Waits for an operator",
                [
                    Query(f"max(weelo_consumer_parked_keys{{{mine}}})", "parked keys"),
                    Query(f"max(weelo_consumer_parked_events{{{mine}}})", "parked events"),
                    Query(f"max(weelo_consumer_dead_unsettled{{{mine}}})", "dead letters not settled"),
                ],
                Unit.COUNT,
                "As it stands now. `weelo parked list` and `weelo dlq list` name them.",
                kind=Kind.NUMBER,
                bad_from=1,
            ),
        ],
    )


def outbox(job: str) -> Row:
    """What it has to tell, and whether Kafka takes it."""
    mine = f'job="{job}"'
    return Row(
        "To Kafka: the outbox",
        [
            Panel(
                "Published",
                [Query(rate("weelo_outbox_published_total", where=mine, by="topic"), "{{topic}}")],
                Unit.EVENTS_PER_SECOND,
                "Events that Kafka acknowledged.",
                kind=Kind.STACK,
            ),
            Panel(
                "Waiting",
                [Query(f"max(weelo_outbox_depth{{{mine}}})", "events")],
                Unit.COUNT,
                "Counted once a second in the table itself, up to 100,000.",
                warn_from=1000,
                bad_from=10_000,
            ),
            Panel(
                "Oldest waiting",
                [Query(f"max(weelo_outbox_age_seconds{{{mine}}})", "age")],
                Unit.SECONDS,
                "How long the oldest event has waited for Kafka. Milliseconds as a rule.",
                warn_from=1,
                bad_from=10,
                width=4,
            ),
            Panel(
                "Relay",
                [
                    Query(f"sum(weelo_outbox_lease_held{{{mine}}})", "replicas that relay"),
                    Query(f"max(weelo_outbox_refused{{{mine}}})", "Kafka refuses"),
                    Query(rate("weelo_outbox_errors_total", where=mine), "failed passes a second"),
                ],
                Unit.COUNT,
                "One replica relays at a time.",
                width=4,
            ),
        ],
    )
