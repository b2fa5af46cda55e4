"""Make what a service needs on AWS before its first roll-out, from its documents; safe to run again.

It makes target groups, listener rules, log group, metric filters, alarms, the service and its autoscaling. The network,
the cluster, the load balancer, roles, secrets, databases and brokers are the account's own and are not touched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from botocore.exceptions import ClientError

from deploy.ecs.documents import SERVICE_FILE, TASK_FILE, DeployError, Environment
from deploy.ecs.rollout import target_groups

LOG_DAYS = 30
DRAIN_S = 30  # a replica that goes: what is in flight ends, and the load balancer lets go of its sockets
TARGET_GROUP_ATTRIBUTES = [{"Key": "deregistration_delay.timeout_seconds", "Value": str(DRAIN_S)}]

Client = Callable[[str], Any]


def provision(
    environment: Environment,
    service: str,
    image: str,
    *,
    client: Client,
    migrate: Callable[[str], None],
    say: Callable[[str], None],
) -> None:
    """`migrate` is given the first revision, before the service that needs the tables is made.

    Raises:
        DeployError: a document is missing, or the migration failed.
        ClientError: AWS refuses.
    """
    elbv2 = client("elbv2")
    _target_groups(environment, service, elbv2, say)
    arns = target_groups(environment, elbv2)
    _listener_rules(environment, service, arns, elbv2, say)
    _logs(environment, service, client("logs"), say)
    for alarm in _list(environment, service, "alarms.json", arns):
        client("cloudwatch").put_metric_alarm(**alarm)
        say(f"alarm {alarm['AlarmName']}")
    if environment.has(service, SERVICE_FILE):
        _service(environment, service, image, arns, client("ecs"), migrate, say)
        scaling = client("application-autoscaling")
        scaling.register_scalable_target(**environment.document(service, "scalable-target.json"))
        for policy in _list(environment, service, "scaling-policies.json", arns):
            scaling.put_scaling_policy(**policy)
            say(f"scaling policy {policy['PolicyName']}")


def _list(
    environment: Environment, service: str, file_name: str, arns: Mapping[str, str]
) -> list[dict[str, Any]]:
    if not environment.has(service, file_name):
        return []
    found: list[dict[str, Any]] = environment.document(service, file_name, **arns)
    return found


def _target_groups(environment: Environment, service: str, elbv2: Any, say: Callable[[str], None]) -> None:
    there = target_groups(environment, elbv2)
    for group in _list(environment, service, "target-groups.json", {}):
        arn = there.get(f"targetGroup.{group['Name'].removeprefix(f'{environment.name}-')}")
        if arn is None:
            arn = elbv2.create_target_group(**group)["TargetGroups"][0]["TargetGroupArn"]
        elbv2.modify_target_group_attributes(TargetGroupArn=arn, Attributes=TARGET_GROUP_ATTRIBUTES)
        say(f"target group {group['Name']}")


def _listener_rules(
    environment: Environment,
    service: str,
    arns: Mapping[str, str],
    elbv2: Any,
    say: Callable[[str], None],
) -> None:
    wanted = _list(environment, service, "listener-rules.json", arns)
    if not wanted:
        return
    listener = environment.values["listener"]
    pages = elbv2.get_paginator("describe_rules").paginate(ListenerArn=listener)
    there = {rule["Priority"] for page in pages for rule in page["Rules"]}
    for rule in wanted:
        if str(rule["Priority"]) in there:
            say(f"listener rule {rule['Priority']} is there: left as it is")
        else:
            elbv2.create_rule(**rule)
            say(f"listener rule {rule['Priority']}")


def _logs(environment: Environment, service: str, logs: Any, say: Callable[[str], None]) -> None:
    group = f"/{environment.name}/{service}"
    try:
        logs.create_log_group(logGroupName=group)
    except ClientError as error:
        if error.response["Error"]["Code"] != "ResourceAlreadyExistsException":
            raise
    logs.put_retention_policy(logGroupName=group, retentionInDays=LOG_DAYS)
    say(f"log group {group}, {LOG_DAYS} days")
    for log_filter in _list(environment, service, "log-filters.json", {}):
        logs.put_metric_filter(**log_filter)
        say(f"log filter {log_filter['filterName']}")


def _service(
    environment: Environment,
    service: str,
    image: str,
    arns: Mapping[str, str],
    ecs: Any,
    migrate: Callable[[str], None],
    say: Callable[[str], None],
) -> None:
    told = ecs.describe_services(cluster=environment.cluster, services=[service])["services"]
    if any(one["status"] == "ACTIVE" for one in told):
        say(f"service {service} is there: left as it is, for deploy to change")
        return
    if "@sha256:" not in image:
        raise DeployError("the first revision needs an image: --image TAG")
    made = ecs.register_task_definition(**environment.document(service, TASK_FILE, image=image))
    migrate(str(made["taskDefinition"]["taskDefinitionArn"]))
    ecs.create_service(**environment.document(service, SERVICE_FILE, **arns))
    say(f"service {service}")
