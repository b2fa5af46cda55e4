"""What the notifier tells of itself, all in one place."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class Metrics:
    """Counters and gauges named ``weelo_notifier_…``."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.sockets = Gauge("weelo_notifier_sockets", "Authenticated sockets", registry=registry)
        self.unauthenticated = Gauge(
            "weelo_notifier_unauthenticated_sockets", "Sockets that have not shown a token", registry=registry
        )
        self.users = Gauge("weelo_notifier_users", "Users with at least one socket", registry=registry)
        self.queued_bytes = Gauge(
            "weelo_notifier_queued_bytes",
            "Bytes that wait in the process for slow sockets",
            registry=registry,
        )
        self.refused = Counter(
            "weelo_notifier_refused", "Handshakes refused with 503", ["reason"], registry=registry
        )
        self.closed = Counter(
            "weelo_notifier_closed", "Sockets closed by the server", ["code"], registry=registry
        )
        self.pushed = Counter("weelo_notifier_pushed", "Event frames sent", ["event"], registry=registry)
        self.skipped = Counter(
            "weelo_notifier_skipped", "Offsets passed over because their offer had ended", registry=registry
        )
        self.resumed = Counter(
            "weelo_notifier_resumed",
            "Resumes by whether all that was missed follows",
            ["recovered"],
            registry=registry,
        )
        self.found_late = Counter(
            "weelo_notifier_found_late",
            "Streams found ahead of their sockets by the heads check",
            registry=registry,
        )
        self.appended = Counter("weelo_notifier_appended", "Frames added to streams", registry=registry)
        self.routed = Counter(
            "weelo_notifier_routed", "Frames that went over Redis", ["direction"], registry=registry
        )
        self.unrouted = Counter(
            "weelo_notifier_unrouted",
            "Frames not published because Redis was away or behind",
            registry=registry,
        )
        self.push_seconds = Histogram(
            "weelo_notifier_push_seconds",
            "From an event's ce_time to the socket, live frames only",
            registry=registry,
            buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60),
        )
