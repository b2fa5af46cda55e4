"""A service on ECS is rolled out, refused, failed and rolled back, on moto with ECS's own part scripted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from deploy.ecs.__main__ import parser
from deploy.ecs.documents import DeployError, Environment
from deploy.ecs.revisions import short
from deploy.ecs.rollout import target_groups
from deploy.local.provision import SERVICES
from tests.deploy.ecs_account import (
    DOOMED,
    FIRST,
    SECOND,
    SET_BY_HAND,
    Account,
    Ground,
    lay_ground,
    new_clients,
    open_account,
)
from tests.deploy.scripted_ecs import ScriptedAws


@pytest.fixture(scope="session")
def aws() -> Iterator[ScriptedAws]:
    """Started once; each test has an empty account."""
    server = ScriptedAws()
    yield server
    server.close()


@pytest.fixture(scope="session")
def clients(aws: ScriptedAws) -> Iterator[dict[str, Any]]:
    made = new_clients(aws)
    yield made
    for client in made.values():
        client.close()


@pytest.fixture(scope="session")
def ground(clients: Mapping[str, Any]) -> Ground:
    return lay_ground(clients)


@pytest.fixture
def account(aws: ScriptedAws, clients: Mapping[str, Any], ground: Ground) -> Account:
    return open_account(aws, clients, ground)


@pytest.fixture
def order_api(account: Account) -> Account:
    """order-api provisioned, and rolled out once."""
    account.run("provision", "order-api", "--image", FIRST)
    account.run("deploy", "order-api", "--image", FIRST)
    account.script.requests.clear()
    return account


def test_a_roll_out_runs_the_image_by_its_digest_and_marks_the_revision_as_good(order_api: Account) -> None:
    said = order_api.run("deploy", "order-api", "--image", SECOND)
    revision = order_api.running("order-api")
    digest = order_api.digests[f"order-api:{SECOND}"]
    assert order_api.image(revision) == f"{order_api.environment.registry}/weelo/order-api@{digest}"
    assert order_api.is_good(revision)
    assert "variables: as in the last good revision" in said
    assert said[-1] == f"{revision} is good"


def test_the_tables_are_migrated_by_the_new_image_before_the_service_is_touched(order_api: Account) -> None:
    order_api.run("deploy", "order-api", "--image", SECOND)
    operations = [name for name, _ in order_api.script.requests]
    assert operations.index("RunTask") < operations.index("UpdateService")
    task = order_api.script.asked("RunTask")[0]
    assert short(task["taskDefinition"]) == order_api.running("order-api")
    assert task["overrides"]["containerOverrides"] == [{"name": "order-api", "command": ["migrate"]}]


def test_a_migration_that_fails_leaves_the_service_untouched(order_api: Account) -> None:
    before = order_api.running("order-api")
    order_api.script.failing_jobs.add(order_api.digests[f"order-api:{SECOND}"])
    with pytest.raises(DeployError, match=r"migrate of .* ended with 1"):
        order_api.run("deploy", "order-api", "--image", SECOND)
    assert order_api.running("order-api") == before
    assert not order_api.script.asked("UpdateService")


def test_a_roll_out_that_would_lose_a_variable_is_refused_and_changes_nothing(order_api: Account) -> None:
    good = order_api.with_a_variable_set_by_hand("order-api")
    revisions = order_api.revisions("order-api")
    with pytest.raises(DeployError, match="refused: the next revision would lose CREATES_PER_MINUTE"):
        order_api.run("deploy", "order-api", "--image", SECOND)
    assert order_api.revisions("order-api") == revisions
    assert order_api.running("order-api") == good
    assert "variables lost: CREATES_PER_MINUTE" in order_api.said


def test_a_variable_that_is_given_up_by_name_may_go(order_api: Account) -> None:
    order_api.with_a_variable_set_by_hand("order-api")
    order_api.run("deploy", "order-api", "--image", SECOND, "--drop", "CREATES_PER_MINUTE")
    assert order_api.is_good(order_api.running("order-api"))


def test_a_secret_that_would_stand_in_the_open_is_refused(order_api: Account) -> None:
    order_api.with_a_variable_set_by_hand("order-api", secret=True)
    with pytest.raises(DeployError, match="LOG_LEVEL would stand in the open and was a secret"):
        order_api.run("deploy", "order-api", "--image", SECOND)


def test_a_value_is_never_shown(order_api: Account) -> None:
    order_api.with_a_variable_set_by_hand("order-api")
    with pytest.raises(DeployError):
        order_api.run("deploy", "order-api", "--image", SECOND)
    assert SET_BY_HAND not in "\n".join(order_api.said)


@pytest.mark.parametrize("circuit_breaker", [True, False])
def test_a_roll_out_that_fails_ends_on_the_last_good_revision(
    order_api: Account, circuit_breaker: bool
) -> None:
    before = order_api.running("order-api")
    order_api.script.doomed.add(order_api.digests[f"order-api:{DOOMED}"])
    order_api.script.circuit_breaker = circuit_breaker
    with pytest.raises(DeployError, match="failed: ECS deployment circuit breaker"):
        order_api.run("deploy", "order-api", "--image", DOOMED)
    assert order_api.running("order-api") == before
    assert f"order-api is back on {before}" in order_api.said
    assert not order_api.is_good(order_api.revisions("order-api")[-1])
    went_back_itself = [short(one["taskDefinition"]) for one in order_api.script.asked("UpdateService")]
    assert (before in went_back_itself) == (not circuit_breaker)


def test_after_a_failure_the_next_roll_out_compares_with_the_last_good_revision(order_api: Account) -> None:
    good = order_api.with_a_variable_set_by_hand("order-api")
    order_api.script.doomed.add(order_api.digests[f"order-api:{DOOMED}"])
    with pytest.raises(DeployError, match="failed"):
        order_api.run("deploy", "order-api", "--image", DOOMED, "--drop", "CREATES_PER_MINUTE")
    with pytest.raises(DeployError, match="would lose CREATES_PER_MINUTE"):
        order_api.run("deploy", "order-api", "--image", SECOND)
    assert f"last good revision: {good}" in order_api.said


def test_a_roll_back_goes_to_the_last_good_revision(order_api: Account) -> None:
    first = order_api.running("order-api")
    order_api.run("deploy", "order-api", "--image", SECOND)
    order_api.run("roll-back", "order-api")
    assert order_api.running("order-api") == first


def test_a_roll_back_goes_to_a_revision_that_is_named(order_api: Account) -> None:
    for _ in range(2):
        order_api.run("deploy", "order-api", "--image", SECOND)
    order_api.run("roll-back", "order-api", "--to", "1")
    assert order_api.running("order-api") == f"{order_api.environment.name}-order-api:1"
    with pytest.raises(DeployError, match=r"no revision weelo-\d+-order-api:77"):
        order_api.run("roll-back", "order-api", "--to", "77")


def test_a_roll_back_never_takes_another_services_revision(order_api: Account) -> None:
    order_api.run("provision", "expiry", "--image", FIRST)
    with pytest.raises(DeployError, match="is no revision of order-api"):
        order_api.run("roll-back", "order-api", "--to", f"{order_api.environment.name}-expiry:1")


def test_a_dry_run_says_what_would_be_and_changes_nothing(order_api: Account) -> None:
    before, revisions = order_api.running("order-api"), order_api.revisions("order-api")
    assert order_api.run("deploy", "order-api", "--image", SECOND, "--dry-run")[-1].endswith(
        "nothing was changed"
    )
    order_api.run("roll-back", "order-api", "--dry-run", "--to", "1")
    order_api.run("provision", "notifier", "--dry-run")
    assert order_api.running("order-api") == before
    assert order_api.revisions("order-api") == revisions
    changing = {"RegisterTaskDefinition", "UpdateService", "RunTask", "CreateService", "TagResource"}
    assert not changing & {name for name, _ in order_api.script.requests}


def test_a_dry_run_tells_of_a_refusal_too(order_api: Account) -> None:
    order_api.with_a_variable_set_by_hand("order-api")
    with pytest.raises(DeployError, match=r"would be refused: .* CREATES_PER_MINUTE"):
        order_api.run("deploy", "order-api", "--image", SECOND, "--dry-run")


@pytest.mark.parametrize(("tag", "why"), [("latest", "is no tag of build-push"), ("20260101-130000-ddddddd", "not in the registry")])  # fmt: skip  # noqa: E501
def test_a_tag_that_moves_or_is_not_there_is_refused(order_api: Account, tag: str, why: str) -> None:
    with pytest.raises(DeployError, match=why):
        order_api.run("deploy", "order-api", "--image", tag)


def test_blue_green_switches_between_the_services_two_target_groups(order_api: Account) -> None:
    order_api.run("deploy", "order-api", "--image", SECOND, "--blue-green")
    asked = order_api.script.asked("UpdateService")[0]
    assert asked["deploymentConfiguration"]["strategy"] == "BLUE_GREEN"
    balancer = asked["loadBalancers"][0]
    green = balancer["advancedConfiguration"]["alternateTargetGroupArn"]
    assert ("-order-api/" in balancer["targetGroupArn"], "-order-api-g/" in green) == (True, True)
    assert ":listener-rule/" in balancer["advancedConfiguration"]["productionListenerRule"]


def test_blue_green_is_refused_to_a_service_without_traffic(order_api: Account) -> None:
    order_api.run("provision", "expiry", "--image", FIRST)
    with pytest.raises(DeployError, match="expiry has no traffic to switch"):
        order_api.run("deploy", "expiry", "--image", FIRST, "--blue-green")


def test_the_topics_job_is_a_task_that_is_waited_for(order_api: Account) -> None:
    order_api.run("deploy", "topics", "--image", FIRST)
    assert not order_api.script.asked("UpdateService")
    order_api.script.failing_jobs.add(order_api.digests[f"order-api:{SECOND}"])
    with pytest.raises(DeployError, match=r"job of weelo-\d+-topics:2 ended with 1"):
        order_api.run("deploy", "topics", "--image", SECOND)


def test_provisioning_again_makes_nothing_twice(order_api: Account) -> None:
    def standing() -> tuple[int, int, int, str]:
        rules = order_api.client("elbv2").describe_rules(ListenerArn=order_api.environment.values["listener"])
        groups = target_groups(order_api.environment, order_api.client("elbv2"))
        prefix = f"{order_api.environment.name}-"
        alarms = order_api.client("cloudwatch").describe_alarms(AlarmNamePrefix=prefix)["MetricAlarms"]
        return len(rules["Rules"]), len(groups), len(alarms), order_api.running("order-api")

    before = standing()
    order_api.run("provision", "order-api", "--image", SECOND)
    assert standing() == before
    assert before[1] == 4  # blue and green, each with its ARN and its name


def test_status_tells_revision_image_replicas_alarms_and_the_last_good_one(order_api: Account) -> None:
    said = "\n".join(order_api.run("status", "order-api"))
    assert f"revision: {order_api.running('order-api')}" in said
    assert "replicas: 3 of 3" in said
    assert "alarms: none" in said
    assert "last good revision: arn:" in said


def ring(account: Account) -> None:
    account.client("cloudwatch").set_alarm_state(
        AlarmName=f"{account.environment.name}-order-api-5xx", StateValue="ALARM", StateReason="a test"
    )


def test_an_hours_watch_ends_at_the_first_alarm(order_api: Account) -> None:
    watched = order_api.run("watch", "order-api", "--minutes", "2")
    assert watched[-1] == "order-api: 2 minutes without trouble"
    assert parser().parse_args(["--environment", "e", "watch", "order-api"]).minutes == 60
    ring(order_api)
    with pytest.raises(DeployError, match=r"weelo-\d+-order-api-5xx rings"):
        order_api.run("watch", "order-api")


def test_a_watch_may_roll_back_by_itself(order_api: Account) -> None:
    first = order_api.running("order-api")
    order_api.run("deploy", "order-api", "--image", SECOND)
    ring(order_api)
    with pytest.raises(DeployError, match="rolled back"):
        order_api.run("watch", "order-api", "--roll-back")
    assert order_api.running("order-api") == first


def test_the_first_tables_are_there_before_the_service_is_made(account: Account) -> None:
    account.script.failing_jobs.add(account.digests[f"order-api:{SECOND}"])
    with pytest.raises(DeployError, match=r"migrate of .*order-api:1 ended with 1"):
        account.run("provision", "order-api", "--image", SECOND)
    assert not account.script.asked("CreateService")
    account.run("provision", "order-api", "--image", FIRST)
    operations = [name for name, _ in account.script.requests]
    assert operations.index("RunTask") < operations.index("CreateService")


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_can_be_provisioned_and_rolled_out(account: Account, service: str) -> None:
    account.run("provision", service, "--image", FIRST)
    account.run("deploy", service, "--image", FIRST)
    assert account.is_good(account.running(service))


@pytest.mark.parametrize("service", [*SERVICES, "topics"])
def test_provisioning_makes_every_log_group_that_a_task_writes_to(account: Account, service: str) -> None:
    """A task whose log group is not there does not start."""
    account.run("provision", service, "--image", FIRST)
    task = account.environment.document(service, "task-definition.json", image=FIRST)
    wanted = {one["logConfiguration"]["options"]["awslogs-group"] for one in task["containerDefinitions"]}
    groups = account.client("logs").describe_log_groups(logGroupNamePrefix=f"/{account.environment.name}/")
    assert wanted <= {one["logGroupName"] for one in groups["logGroups"]}


def test_an_environment_without_a_value_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text('{"name": "weelo-x", "region": "r", "cluster": "c"}')
    with pytest.raises(DeployError, match="says no registry"):
        Environment.load(tmp_path / "mine.json")
