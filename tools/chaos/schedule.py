"""Which fault happens when: a pure function of the seed and the time. It does nothing itself."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random

from deploy.local.provision import SERVICES

SERVERS = ("postgres", "redis", "kafka")
REPLICAS = 2  # of each service: only then does a second owner meet one that is frozen, not dead

FIRST_AT_S = 5.0  # traffic has begun by then
CALM_AT_THE_END_S = 10.0  # no fault begins in the last seconds, so that the last one is felt by traffic, too
PAUSE_S = (1.0, 7.0)  # between the beginnings of two faults; many last longer, so they overlap
MOST_AT_ONCE = 3  # more than a few faults at a time only prove that nothing works when all is broken


class Kind(StrEnum):
    """What is done to a target."""

    KILL = "kill -9"
    FREEZE = "freeze"
    RESTART = "restart"
    CUT = "cut"
    SLOW = "slow"


# Seconds each fault lasts. A freeze goes beyond the relay's lease (3 s) and a consumer's session (10 s); what stands
# in a phone's way for longer than its patience proves nothing.
DURATIONS_S: Mapping[Kind, tuple[float, float]] = {
    Kind.KILL: (0.0, 6.0),
    Kind.FREEZE: (1.0, 14.0),
    Kind.RESTART: (0.0, 1.0),
    Kind.CUT: (0.5, 6.0),
    Kind.SLOW: (2.0, 10.0),
}
DELAYS_MS = (5, 150)  # of a slow connection, for each piece that goes through; Redis is given up after 300 ms
KINDS_OF_SERVICES = (Kind.KILL, Kind.KILL, Kind.FREEZE, Kind.RESTART)  # the worst twice as often
KINDS_OF_SERVERS = (Kind.KILL, Kind.FREEZE, Kind.RESTART, Kind.CUT, Kind.CUT, Kind.SLOW)
SHARE_OF_SERVICES = 0.6


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: from ``at_s`` after the beginning, for ``lasts_s``. ``delay_ms`` is a slow connection's."""

    at_s: float
    kind: Kind
    target: str
    lasts_s: float
    delay_ms: int = 0

    @property
    def ends_s(self) -> float:
        """When it is mended, after the beginning."""
        return self.at_s + self.lasts_s

    def __str__(self) -> str:
        slow = f" by {self.delay_ms} ms" if self.kind is Kind.SLOW else ""
        return f"{self.at_s:7.2f} s  {self.kind} {self.target}{slow} for {self.lasts_s:.2f} s"


def replica_names() -> list[str]:
    """Every replica: ``order-api``, ``order-api-1`` …"""
    return [name if number == 0 else f"{name}-{number}" for name in SERVICES for number in range(REPLICAS)]


def make_schedule(seed: int, seconds: float) -> list[Fault]:
    """The faults of a run, in the order of their beginnings; the same for the same arguments, on any machine."""
    random = Random(f"chaos {seed}")
    replicas = replica_names()
    faults: list[Fault] = []
    at_s = FIRST_AT_S
    while at_s < seconds - CALM_AT_THE_END_S:
        of_service = random.random() < SHARE_OF_SERVICES
        target = random.choice(replicas if of_service else SERVERS)
        kind = random.choice(KINDS_OF_SERVICES if of_service else KINDS_OF_SERVERS)
        fault = Fault(
            round(at_s, 2),
            kind,
            target,
            round(random.uniform(*DURATIONS_S[kind]), 2),
            random.randint(*DELAYS_MS) if kind is Kind.SLOW else 0,
        )
        if _fits(fault, faults):
            faults.append(fault)
        at_s += random.uniform(*PAUSE_S)
    return faults


def fingerprint(faults: Sequence[Fault]) -> str:
    """A short name of a schedule: two runs with the same one did the same harm."""
    return hashlib.sha256("\n".join(map(str, faults)).encode()).hexdigest()[:12]


def _fits(fault: Fault, before: Sequence[Fault]) -> bool:
    """One fault at a time of a target, and not too many of all together."""
    running = [one for one in before if one.ends_s + _mending_s(one) > fault.at_s]
    return len(running) < MOST_AT_ONCE and fault.target not in {one.target for one in running}


def _mending_s(fault: Fault) -> float:
    """How long a target is left alone after its fault: a server that was started again must first answer."""
    return 12.0 if fault.kind in (Kind.KILL, Kind.RESTART) else 2.0
