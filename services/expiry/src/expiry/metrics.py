"""What expiry tells of itself: timers fired and how late, commands, trouble."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

# Seconds. On time is below 20 ms; a minute and more is a backlog after downtime.
LATE_BUCKETS_S = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 60, 600, 3600)


class ExpiryMetrics:
    """The metrics of one process, in the registry that main gives."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.commands = Counter(
            "weelo_expiry_commands",
            "Timer commands by what became of them",
            ["command", "outcome"],
            registry=registry,
        )
        self.fired = Counter(
            "weelo_expiry_fired", "Timers whose event Kafka acknowledged, repeats included", registry=registry
        )
        self.repeated = Counter(
            "weelo_expiry_repeated",
            "Timers fired again because the first try was not seen to end",
            registry=registry,
        )
        self.errors = Counter(
            "weelo_expiry_fire_errors", "Rounds that ended in trouble and are tried again", registry=registry
        )
        self.late = Histogram(
            "weelo_expiry_late_seconds",
            "From the due time to the claim, by the database's clock",
            buckets=LATE_BUCKETS_S,
            registry=registry,
        )
        self.pending = Gauge(
            "weelo_expiry_pending", "Timers that wait, of the partitions of this replica", registry=registry
        )
        self.due = Gauge(
            "weelo_expiry_due", "Those of them whose time has come, counted up to 100,000", registry=registry
        )
        self.held = Gauge(
            "weelo_expiry_held", "Those of them that are due soon and held in memory", registry=registry
        )
        self.clock_offset = Gauge(
            "weelo_expiry_clock_offset_seconds",
            "By how much PostgreSQL's clock is ahead of this machine's",
            registry=registry,
        )
        self.partitions = Gauge(
            "weelo_expiry_partitions_owned", "Partitions whose timers this replica fires", registry=registry
        )
