"""Roll one service out, or back. Talks to ECS; what it decides by stands in revisions.py.

A roll-out: compare with the last good revision, register the next one by the image's digest, migrate by a task of the
new image, update the service, wait until ECS says how it ended, and mark a good end with a tag on the revision.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import ClientError

from deploy.ecs.documents import BLUE_GREEN_FILE, SERVICE_FILE, TASK_FILE, DeployError, Environment
from deploy.ecs.revisions import (
    GOOD_TAG,
    Course,
    Difference,
    Progress,
    compare,
    judge,
    number,
    short,
    variables,
)

POLL_S = 10.0
ROLL_OUT_POLLS = 180  # half an hour: a slow drain of three replicas, one after the other
JOB_POLLS = 420  # 70 minutes: one statement of a migration may take an hour
REVISIONS_LOOKED_AT = 50  # back in time, for the last good one


@dataclass(frozen=True)
class Plan:
    """What a roll-out would do."""

    service: str
    image: str
    last_good: str | None
    difference: Difference

    def lines(self) -> list[str]:
        known = short(self.last_good) if self.last_good else "none: the first roll-out"
        return [
            f"service: {self.service}",
            f"image: {self.image}",
            f"last good revision: {known}",
            *self.difference.lines(),
        ]


class RollOut:
    """The commands `deploy`, `roll-back` and what they share. `pause` waits between two questions, in seconds."""

    def __init__(
        self,
        environment: Environment,
        *,
        ecs: Any,
        elbv2: Any,
        say: Callable[[str], None],
        pause: Callable[[float], None],
    ) -> None:
        self._environment = environment
        self._ecs = ecs
        self._elbv2 = elbv2
        self._say = say
        self._pause = pause

    # ---- deploy

    def plan(self, service: str, image: str) -> Plan:
        """What would be rolled out, beside the last good revision. Changes nothing."""
        last_good = self.last_good(service)
        before = self._describe(last_good) if last_good else {}
        following = self._environment.document(service, TASK_FILE, image=image)
        difference = compare(variables(before, service), variables(following, service))
        return Plan(service, image, last_good, difference)

    def deploy(
        self, service: str, image: str, *, given_up: Collection[str] = (), blue_green: bool = False
    ) -> str:
        """Roll out; returns the new revision's ARN.

        Raises:
            DeployError: a variable would be lost (nothing was changed then), the migration or the roll-out failed (the
                service is back on the last good revision then).
        """
        plan = self.plan(service, image)
        for line in plan.lines():
            self._say(line)
        if reasons := plan.difference.refusals(given_up):
            raise DeployError(f"refused: {'; '.join(reasons)}")
        options = self._blue_green(service) if blue_green else {}
        document = self._environment.document(service, TASK_FILE, image=image)
        revision = str(self._ecs.register_task_definition(**document)["taskDefinition"]["taskDefinitionArn"])
        self._say(f"registered {short(revision)}")
        if not self._environment.has(service, SERVICE_FILE):
            self.run_to_end(service, revision)  # a job: its task is all there is
        else:
            self.run_to_end(service, revision, "migrate")
            self._update(service, revision, options)
            progress = self._wait(service, revision)
            if progress.course is not Course.ENDED_WELL:
                self._go_back(service, revision, plan.last_good)
                raise DeployError(f"{short(revision)} failed: {progress.words}")
        self._mark_good(revision)
        self._say(f"{short(revision)} is good")
        return revision

    # ---- roll back

    def roll_back(self, service: str, to: str | None = None) -> str:
        """Back to a named revision (`7` or `family:7`), else to the last good one before what runs now.

        Raises:
            DeployError: there is no such revision, or it does not come up either.
        """
        current = str(self._service(service)["taskDefinition"])
        if to is None:
            revision = self.last_good(service, but=current)
            if revision is None:
                raise DeployError(f"{service} has no good revision but {short(current)}: name one by --to")
        else:
            family = f"{self._environment.name}-{service}"
            revision = str(self._describe(f"{family}:{to}" if to.isdigit() else to)["taskDefinitionArn"])
            if not short(revision).startswith(f"{family}:"):
                raise DeployError(f"{short(revision)} is no revision of {service}")
        self._say(f"{service}: from {short(current)} back to {short(revision)}")
        self._update(service, revision, {})
        progress = self._wait(service, revision)
        if progress.course is not Course.ENDED_WELL:
            raise DeployError(f"{short(revision)} does not come up: {progress.words}")
        self._mark_good(revision)
        return revision

    # ---- what ECS knows

    def last_good(self, service: str, but: str | None = None) -> str | None:
        """The newest revision that is tagged as good; before any was, the one that runs and has ended its roll-out."""
        family = f"{self._environment.name}-{service}"
        found = self._ecs.list_task_definitions(
            familyPrefix=family, status="ACTIVE", sort="DESC", maxResults=REVISIONS_LOOKED_AT
        )
        revisions = [arn for arn in found["taskDefinitionArns"] if short(arn).rpartition(":")[0] == family]
        for arn in sorted(revisions, key=number, reverse=True):
            tags = self._ecs.describe_task_definition(taskDefinition=arn, include=["TAGS"]).get("tags", [])
            if arn != but and any(tag["key"] == GOOD_TAG for tag in tags):
                return str(arn)
        if not self._environment.has(service, SERVICE_FILE):
            return None
        standing = self._find(service)
        running = str(standing["taskDefinition"]) if standing else None
        if standing is None or running is None or running == but:
            return None
        return running if judge(standing, running).course is Course.ENDED_WELL else None

    def _find(self, service: str) -> Mapping[str, Any] | None:
        answer = self._ecs.describe_services(cluster=self._environment.cluster, services=[service])
        active = [one for one in answer["services"] if one["status"] == "ACTIVE"]
        return active[0] if active else None

    def _service(self, service: str) -> Mapping[str, Any]:
        found = self._find(service)
        if found is None:
            raise DeployError(
                f"there is no service {service} in {self._environment.cluster}: provision it first"
            )
        return found

    def _describe(self, revision: str) -> Mapping[str, Any]:
        try:
            found: Mapping[str, Any] = self._ecs.describe_task_definition(taskDefinition=revision)
        except ClientError as error:
            raise DeployError(f"there is no revision {revision}") from error
        definition: Mapping[str, Any] = found["taskDefinition"]
        return definition

    # ---- what changes something

    def _update(self, service: str, revision: str, options: Mapping[str, Any]) -> None:
        self._service(service)
        self._ecs.update_service(
            cluster=self._environment.cluster, service=service, taskDefinition=revision, **options
        )

    def _blue_green(self, service: str) -> Mapping[str, Any]:
        """The options that make ECS start all replicas of the new revision beside the old ones, and then switch."""
        if not self._environment.has(service, BLUE_GREEN_FILE):
            raise DeployError(f"{service} has no traffic to switch: roll it out without --blue-green")
        arns = target_groups(self._environment, self._elbv2) | listener_rules(self._environment, self._elbv2)
        options: Mapping[str, Any] = self._environment.document(service, BLUE_GREEN_FILE, **arns)
        return options

    def run_to_end(self, service: str, revision: str, *command: str) -> None:
        """One task of the revision, waited for. Raises DeployError where it does not end with 0."""
        values = self._environment.values
        network = {
            "subnets": values["subnets"],
            "securityGroups": values["securityGroups"],
            "assignPublicIp": "DISABLED",
        }
        override = [{"name": service, "command": list(command)}] if command else []
        started = self._ecs.run_task(
            cluster=self._environment.cluster,
            taskDefinition=revision,
            launchType="FARGATE",
            networkConfiguration={"awsvpcConfiguration": network},
            overrides={"containerOverrides": override},
            count=1,
        )
        if started.get("failures"):
            raise DeployError(f"the task did not start: {started['failures'][0].get('reason')}")
        task = started["tasks"][0]["taskArn"]
        what = " ".join(command) or "job"
        for _ in range(JOB_POLLS):
            told = self._ecs.describe_tasks(cluster=self._environment.cluster, tasks=[task])["tasks"][0]
            if told["lastStatus"] == "STOPPED":
                ended = {one["name"]: one.get("exitCode") for one in told["containers"]}
                if ended.get(service) == 0:
                    self._say(f"{what}: done")
                    return
                reason = told.get("stoppedReason", "see its log")
                raise DeployError(f"{what} of {short(revision)} ended with {ended.get(service)}: {reason}")
            self._pause(POLL_S)
        raise DeployError(f"{what} of {short(revision)} has not ended: see task {short(task)}")

    def _wait(self, service: str, revision: str) -> Progress:
        said = ""
        for _ in range(ROLL_OUT_POLLS):
            progress = judge(self._service(service), revision)
            if progress.words != said:
                said = progress.words
                self._say(f"{service}: {said}")
            if progress.course is not Course.GOING_ON:
                return progress
            self._pause(POLL_S)
        return Progress(Course.GOING_ON, f"not ended after {ROLL_OUT_POLLS * POLL_S / 60:.0f} minutes")

    def _go_back(self, service: str, failed: str, last_good: str | None) -> None:
        """ECS's circuit breaker goes back by itself; where it did not, this does."""
        if last_good is None:
            self._say(f"there is no good revision to go back to: {service} stays as it is")
            return
        if str(self._service(service)["taskDefinition"]) == failed:
            self._update(service, last_good, {})
        progress = self._wait(service, last_good)
        if progress.course is Course.ENDED_WELL:
            self._say(f"{service} is back on {short(last_good)}")
        else:
            self._say(f"{service} IS NOT BACK on {short(last_good)}: {progress.words}")

    def _mark_good(self, revision: str) -> None:
        moment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self._ecs.tag_resource(resourceArn=revision, tags=[{"key": GOOD_TAG, "value": moment}])


def target_groups(environment: Environment, elbv2: Any) -> dict[str, str]:
    """`targetGroup.order-api` → ARN, and `targetGroupName.order-api` → what CloudWatch calls it."""
    prefix = f"{environment.name}-"
    found: dict[str, str] = {}
    for page in elbv2.get_paginator("describe_target_groups").paginate():
        for group in page["TargetGroups"]:
            if group["TargetGroupName"].startswith(prefix):
                name = group["TargetGroupName"].removeprefix(prefix)
                found[f"targetGroup.{name}"] = group["TargetGroupArn"]
                found[f"targetGroupName.{name}"] = group["TargetGroupArn"].rpartition(":")[2]
    return found


def listener_rules(environment: Environment, elbv2: Any) -> dict[str, str]:
    """`listenerRule.order-api` → ARN of the rule that forwards to that target group."""
    by_arn = {
        arn: name.removeprefix("targetGroup.")
        for name, arn in target_groups(environment, elbv2).items()
        if name.startswith("targetGroup.")
    }
    found: dict[str, str] = {}
    for page in elbv2.get_paginator("describe_rules").paginate(ListenerArn=environment.values["listener"]):
        for rule in page["Rules"]:
            for action in rule["Actions"]:
                for group in action.get("ForwardConfig", {}).get("TargetGroups", ()):
                    name = by_arn.get(group["TargetGroupArn"])
                    if name is not None:
                        found[f"listenerRule.{name}"] = rule["RuleArn"]
    return found
