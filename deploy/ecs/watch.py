"""How a service stands, once or for an hour. Only looks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from deploy.ecs.documents import DeployError, Environment
from deploy.ecs.revisions import Course, judge, short

LOOK_S = 30.0
STALE_LOOKS = 4  # two minutes below the wanted number: a replica that is replaced takes less
EVENTS_SHOWN = 5


@dataclass(frozen=True)
class Standing:
    """One look at a service."""

    revision: str
    image: str
    running: int
    desired: int
    course: Course
    words: str
    alarms: Sequence[str]
    events: Sequence[str]

    def lines(self) -> list[str]:
        """For people."""
        return [
            f"revision: {short(self.revision)}",
            f"image: {self.image}",
            f"replicas: {self.running} of {self.desired}",
            f"roll-out: {self.course.value} ({self.words})",
            f"alarms: {', '.join(self.alarms) or 'none'}",
            *(f"event: {event}" for event in self.events),
        ]


class Watch:
    """The commands `status` and `watch`."""

    def __init__(self, environment: Environment, *, ecs: Any, cloudwatch: Any) -> None:
        self._environment = environment
        self._ecs = ecs
        self._cloudwatch = cloudwatch

    def look(self, service: str) -> Standing:
        """Raises DeployError where there is no such service."""
        answer = self._ecs.describe_services(cluster=self._environment.cluster, services=[service])
        found = next((one for one in answer["services"] if one["status"] == "ACTIVE"), None)
        if found is None:
            raise DeployError(f"there is no service {service} in {self._environment.cluster}")
        revision = str(found["taskDefinition"])
        definition = self._ecs.describe_task_definition(taskDefinition=revision)["taskDefinition"]
        images = [one["image"] for one in definition["containerDefinitions"] if one["name"] == service]
        progress = judge(found, revision)
        return Standing(
            revision=revision,
            image=images[0] if images else "unknown",
            running=found.get("runningCount", 0),
            desired=found.get("desiredCount", 0),
            course=progress.course,
            words=progress.words,
            alarms=self._alarms(service),
            events=[str(one["message"]) for one in found.get("events", [])[:EVENTS_SHOWN]],
        )

    def watch(
        self, service: str, *, seconds: float, say: Callable[[str], None], pause: Callable[[float], None]
    ) -> None:
        """Look again and again, and say what changed.

        Raises:
            DeployError: an alarm rang, the roll-out failed, the revision changed, or replicas stayed away.
        """
        first = self.look(service)
        said: list[str] = []
        below = 0
        for _ in range(max(1, int(seconds / LOOK_S))):
            now = self.look(service)
            if now.lines() != said:
                said = now.lines()
                for line in said:
                    say(line)
            below = below + 1 if now.running < now.desired else 0
            if now.alarms:
                raise DeployError(f"{service}: {', '.join(now.alarms)} rings")
            if now.revision != first.revision:
                raise DeployError(f"{service} went from {short(first.revision)} to {short(now.revision)}")
            if now.course is Course.FAILED:
                raise DeployError(f"{service}: {now.words}")
            if below >= STALE_LOOKS:
                raise DeployError(f"{service}: {now.running} of {now.desired} replicas run")
            pause(LOOK_S)
        say(f"{service}: {seconds / 60:.0f} minutes without trouble")

    def _alarms(self, service: str) -> list[str]:
        prefix = f"{self._environment.name}-{service}-"
        pages = self._cloudwatch.get_paginator("describe_alarms").paginate(AlarmNamePrefix=prefix)
        alarms = [alarm for page in pages for alarm in page["MetricAlarms"]]
        return sorted(alarm["AlarmName"] for alarm in alarms if alarm["StateValue"] == "ALARM")
