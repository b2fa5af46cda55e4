"""Two revisions of a task definition beside each other, and how a roll-out goes: pure decisions, no AWS.

Four revisions once failed because a variable was lost on the way from one to the next. So every variable of the last
good revision must be in the next one, or be given up by its name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

Document = Mapping[str, Any]

GOOD_TAG = "weelo:good"  # the moment when a revision's roll-out had ended well
COMPLETED = "COMPLETED"
FAILED = "FAILED"


@dataclass(frozen=True)
class Variables:
    """The names of what one container gets: in the open, and from the store of secrets. Values are never shown."""

    plain: Mapping[str, str]
    secret: Mapping[str, str]

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self.plain) | frozenset(self.secret)


@dataclass(frozen=True)
class Difference:
    """What the next revision does to the variables of the last good one."""

    lost: Sequence[str]
    bared: Sequence[str]
    """Secrets that would stand in the open."""
    added: Sequence[str]
    changed: Sequence[str]

    def refusals(self, given_up: Collection[str] = ()) -> list[str]:
        """Why this must not be rolled out; empty where it may be."""
        lost = [name for name in self.lost if name not in given_up]
        reasons = []
        if lost:
            reasons.append(f"the next revision would lose {', '.join(lost)} (give one up by --drop NAME)")
        if self.bared:
            reasons.append(f"{', '.join(self.bared)} would stand in the open and was a secret")
        return reasons

    def lines(self) -> list[str]:
        """For people."""
        parts = {"added": self.added, "changed": self.changed, "lost": self.lost, "bared": self.bared}
        lines = [f"variables {what}: {', '.join(names)}" for what, names in parts.items() if names]
        return lines or ["variables: as in the last good revision"]


def variables(task_definition: Document, container: str) -> Variables:
    """What the named container of a task definition gets; nothing where it has no such container."""
    for one in task_definition.get("containerDefinitions", ()):
        if one["name"] == container:
            return Variables(
                {entry["name"]: entry["value"] for entry in one.get("environment", ())},
                {entry["name"]: entry["valueFrom"] for entry in one.get("secrets", ())},
            )
    return Variables({}, {})


def compare(last_good: Variables, following: Variables) -> Difference:
    """From the last good revision to the next."""
    before = {**last_good.plain, **last_good.secret}
    after = {**following.plain, **following.secret}
    return Difference(
        lost=sorted(last_good.names - following.names),
        bared=sorted(set(last_good.secret) & set(following.plain)),
        added=sorted(following.names - last_good.names),
        changed=sorted(name for name in before.keys() & after.keys() if before[name] != after[name]),
    )


class Course(Enum):
    """How a roll-out stands."""

    GOING_ON = "going on"
    ENDED_WELL = "ended well"
    FAILED = "failed"


@dataclass(frozen=True)
class Progress:
    """How a roll-out stands, and in a few words why."""

    course: Course
    words: str


def judge(service: Document, revision: str) -> Progress:
    """How the roll-out of a revision (its ARN) stands, by what ECS tells of the service."""
    deployments: Sequence[Document] = service.get("deployments", ())
    for one in deployments:
        if one["taskDefinition"] == revision and one.get("rolloutState") == FAILED:
            return Progress(Course.FAILED, one.get("rolloutStateReason") or "ECS says that it failed")
    primary = next((one for one in deployments if one["status"] == "PRIMARY"), None)
    if primary is None:
        return Progress(Course.GOING_ON, "ECS has not begun yet")
    if primary["taskDefinition"] != revision:
        return Progress(Course.FAILED, f"ECS has gone back to {short(primary['taskDefinition'])}")
    running, desired = primary.get("runningCount", 0), service.get("desiredCount", 0)
    words = f"{running} of {desired} run, {primary.get('failedTasks', 0)} failed"
    if primary.get("rolloutState") == COMPLETED and running >= desired and len(deployments) == 1:
        return Progress(Course.ENDED_WELL, words)
    return Progress(Course.GOING_ON, words)


def short(arn: str) -> str:
    """`arn:…:task-definition/weelo-order-api:7` → `weelo-order-api:7`."""
    return arn.rpartition("/")[2]


def number(arn: str) -> int:
    """`arn:…:task-definition/weelo-order-api:7` → 7."""
    return int(arn.rpartition(":")[2])
