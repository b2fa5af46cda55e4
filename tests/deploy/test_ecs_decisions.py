"""How a roll-out stands by what ECS tells, and what two revisions differ in: pure decisions."""

from __future__ import annotations

from typing import Any

import pytest

from deploy.ecs.documents import DeployError, fill
from deploy.ecs.revisions import Course, compare, judge, variables

OLD, NEW = (
    "arn:aws:ecs:r:0:task-definition/weelo-order-api:6",
    "arn:aws:ecs:r:0:task-definition/weelo-order-api:7",
)


def deployment(
    revision: str, status: str = "PRIMARY", state: str = "COMPLETED", running: int = 3
) -> dict[str, Any]:
    return {"taskDefinition": revision, "status": status, "rolloutState": state, "runningCount": running}


@pytest.mark.parametrize(
    ("deployments", "course"),
    [
        ([], Course.GOING_ON),
        ([deployment(NEW)], Course.ENDED_WELL),
        ([deployment(NEW, state="IN_PROGRESS", running=1), deployment(OLD, "ACTIVE")], Course.GOING_ON),
        ([deployment(NEW), deployment(OLD, "ACTIVE")], Course.GOING_ON),  # the old replicas still drain
        ([deployment(NEW, running=2)], Course.GOING_ON),
        ([deployment(NEW, state="FAILED")], Course.FAILED),
        ([deployment(OLD, state="IN_PROGRESS"), deployment(NEW, "ACTIVE", "FAILED")], Course.FAILED),
        ([deployment(OLD)], Course.FAILED),  # ECS went back before we looked
    ],
)
def test_a_roll_out_has_ended_well_only_when_nothing_else_is_left(
    deployments: list[dict[str, Any]], course: Course
) -> None:
    assert judge({"desiredCount": 3, "deployments": deployments}, NEW).course is course


def task(plain: dict[str, str], secret: dict[str, str]) -> dict[str, Any]:
    return {
        "containerDefinitions": [
            {"name": "collector", "environment": [{"name": "OTHER", "value": "x"}]},
            {
                "name": "order-api",
                "environment": [{"name": name, "value": value} for name, value in plain.items()],
                "secrets": [{"name": name, "valueFrom": value} for name, value in secret.items()],
            },
        ]
    }


def test_two_revisions_are_compared_by_the_service_s_own_container() -> None:
    before = variables(task({"A": "1", "B": "1", "C": "1"}, {"S": "arn:s", "T": "arn:t"}), "order-api")
    after = variables(task({"A": "1", "B": "2", "D": "1", "S": "open"}, {"T": "arn:t2"}), "order-api")
    difference = compare(before, after)
    assert (difference.lost, difference.added) == (["C"], ["D"])
    assert (difference.changed, difference.bared) == (["B", "S", "T"], ["S"])
    assert len(difference.refusals()) == 2
    assert len(difference.refusals(["C"])) == 1  # a secret in the open cannot be agreed to


def test_a_variable_that_becomes_a_secret_is_not_lost() -> None:
    before = variables(task({"A": "1"}, {}), "order-api")
    after = variables(task({}, {"A": "arn:a"}), "order-api")
    assert not compare(before, after).refusals()


def test_a_placeholder_alone_becomes_the_value_itself_and_inside_a_text_its_text() -> None:
    values = {"subnets": ["a", "b"], "name": "weelo"}
    assert fill({"x": ["${subnets}"], "y": "/${name}/log", "z": 1}, values) == {
        "x": [["a", "b"]],
        "y": "/weelo/log",
        "z": 1,
    }
    with pytest.raises(DeployError, match="says no cluster"):
        fill("${cluster}", values)
