"""deploy/ecs: every document is an input that AWS takes, and a task is one that Fargate runs.

AWS's own models (of botocore) know names, types and enumerations; what they let pass is asked here: the sizes that
Fargate has, the names' lengths, roots, secrets, and the time a task gets to end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import botocore.session
import yaml
from botocore.model import Shape
from botocore.validate import ParamValidator

from deploy.ecs.documents import (
    BLUE_GREEN_FILE,
    CALLS,
    COLLECTOR_FILE,
    SERVICE_FILE,
    TASK_FILE,
    Call,
    DeployError,
    Environment,
)
from deploy.local.provision import SERVICES
from deploy.validate.findings import Finding
from deploy.validate.traffic import GATEWAY_TEMPLATE, gateway_paths
from weelo_common.events.topics import ALL_TOPICS

ECS = Path("deploy/ecs")
EXAMPLE = ECS / "environments" / "example.json"
# CPU units of Fargate, and the memory in MiB that goes with each.
FARGATE: Mapping[int, Sequence[int]] = {
    256: (512, 1024, 2048),
    512: range(1024, 4096 + 1, 1024),
    1024: range(2048, 8192 + 1, 1024),
    2048: range(4096, 16_384 + 1, 1024),
    4096: range(8192, 30_720 + 1, 1024),
    8192: range(16_384, 61_440 + 1, 4096),
    16_384: range(32_768, 122_880 + 1, 8192),
}
LONGEST_STOP_S = 120  # Fargate's own limit
LONGEST_TARGET_GROUP = 32  # characters
MOST_PATHS = 5  # values of all conditions of one rule
SECRETS = ("_DSN", "_PASSWORD", "_PRIVATE_KEY", "_SECRET", "REDIS_URL")
DEADLINE = "SHUTDOWN_DEADLINE_S"
# 200 from the first readiness on. ECS ends a replica that its target group finds unhealthy: asked for readiness, a
# database that is away would end them all, and asked for life, a version that never gets ready would be rolled out.
TARGET_HEALTH = "/health/started"
UPDATE = Call("ecs", "UpdateService")
IMAGE = "registry.example.com/weelo/any@sha256:" + "0" * 64


# Stand for the ARNs that AWS gives when a thing is made.
MADE = {
    f"{kind}.{name}{colour}": f"arn:aws:elasticloadbalancing:x:0:{kind}/{name}{colour}"
    for kind in ("targetGroup", "targetGroupName", "listenerRule")
    for name in ("order-api", "dispatcher", "notifier", "notifier-ws")
    for colour in ("", "-g")
}


def check_ecs(root: Path) -> list[Finding]:
    """Every document of every service, filled in with the example's values."""
    try:
        example = Environment.load(root / EXAMPLE, root / ECS)
    except DeployError as error:
        return [Finding(str(EXAMPLE), str(error))]
    environment = Environment({**example.values, **MADE}, example.folder)
    session = botocore.session.Session()
    found: list[Finding] = []
    for service in environment.services():
        folder = root / ECS / "services" / service
        for path in sorted(folder.iterdir()):
            where = str(path.relative_to(root))
            try:
                document = environment.document(service, path.name, image=IMAGE)
            except (DeployError, ValueError) as error:
                found.append(Finding(where, str(error)))
                continue
            problems = list(_against_model(session, path.name, document))
            found += [Finding(where, problem) for problem in problems]
            if not problems and path.name == TASK_FILE:
                found += [Finding(where, problem) for problem in _task(service, document)]
        found += _service(environment, service)
    found += _paths(environment, root)
    found += _collector(environment)
    found += [
        Finding(str(ECS), f"there is no {name}") for name in SERVICES if name not in environment.services()
    ]
    return found


def _against_model(session: botocore.session.Session, file_name: str, document: Any) -> Iterator[str]:
    call = UPDATE if file_name == BLUE_GREEN_FILE else CALLS.get(file_name)
    if call is None:
        yield "is the input of no operation that we know"
        return
    shape = session.get_service_model(call.api).operation_model(call.operation).input_shape
    if call.many and not isinstance(document, list):
        yield "must be a list"
        return
    for number, one in enumerate(document if call.many else [document]):
        asked = {**one, "service": "any"} if file_name == BLUE_GREEN_FILE else one
        report = ParamValidator().validate(asked, shape)
        if report.has_errors():
            yield from (f"[{number}] {line}" for line in report.generate_report().splitlines())
        else:
            yield from (f"[{number}] {problem}" for problem in _enumerations(asked, shape, ""))


def _enumerations(value: Any, shape: Shape, path: str) -> Iterator[str]:
    """botocore lets every text pass where AWS takes some words only."""
    if shape.type_name == "structure":
        for name, one in value.items():
            yield from _enumerations(one, shape.members[name], f"{path}.{name}")
    elif shape.type_name == "list":
        for one in value:
            yield from _enumerations(one, shape.member, path)
    elif shape.type_name == "string" and getattr(shape, "enum", None) and value not in shape.enum:
        yield f"{path.lstrip('.')} is {value!r}: it must be one of {', '.join(shape.enum)}"


def _task(service: str, task: Mapping[str, Any]) -> Iterator[str]:
    cpu, memory = int(task.get("cpu", 0)), int(task.get("memory", 0))
    if memory not in FARGATE.get(cpu, ()):
        yield f"Fargate has no task of {cpu} CPU units and {memory} MiB"
    if task.get("runtimePlatform", {}).get("cpuArchitecture") != "X86_64":
        yield "runtimePlatform must say X86_64, as the images are"
    if task.get("networkMode") != "awsvpc" or task.get("requiresCompatibilities") != ["FARGATE"]:
        yield "must be for Fargate in awsvpc mode"
    containers = task["containerDefinitions"]
    for kind, whole in (("cpu", cpu), ("memory", memory)):
        if sum(one.get(kind, 0) for one in containers) > whole:
            yield f"its containers ask for more {kind} than the task has"
    own = [one for one in containers if one["name"] == service]
    if len(own) != 1 or not own[0].get("essential"):
        yield f"needs one essential container {service}"
        return
    for one in containers:
        if one.get("logConfiguration", {}).get("logDriver") != "awslogs":
            yield f"{one['name']} must log to CloudWatch"
        if not one.get("readonlyRootFilesystem"):
            yield f"{one['name']} must not write to its own file system"
        tag = str(one["image"]).rpartition("/")[2].partition(":")[2]
        if "@sha256:" not in one["image"] and tag in ("", "latest"):
            yield f"{one['name']}: image {one['image']} needs a tag that stays, or a digest"
        for variable in one.get("environment", ()):
            if variable["name"].endswith(SECRETS):
                yield f"{variable['name']} stands in the open: it belongs to the secrets"
    yield from _own_container(own[0], is_service=service in SERVICES)


def _own_container(own: Mapping[str, Any], *, is_service: bool) -> Iterator[str]:
    if own.get("user") in (None, "0", "root", "0:0"):
        yield "must not run as root"
    plain = {one["name"]: one["value"] for one in own.get("environment", ())}
    stop = own.get("stopTimeout", 30)
    if stop > LONGEST_STOP_S:
        yield f"stopTimeout is {stop}: Fargate waits {LONGEST_STOP_S} s at most"
    if not is_service:
        return
    if DEADLINE not in plain or stop < float(plain[DEADLINE]) + 5:
        yield f"stopTimeout must be 5 s above {DEADLINE} at least"
    if "/health/live" not in str(own.get("healthCheck", {}).get("command")):
        yield "its health check must ask /health/live: what depends on others would restart it for their sake"


def _service(environment: Environment, service: str) -> Iterator[Finding]:
    where = f"deploy/ecs/services/{service}"
    if not environment.has(service, SERVICE_FILE):
        return
    for file_name in ("alarms.json", "log-filters.json", "scalable-target.json", "scaling-policies.json"):
        if not environment.has(service, file_name):
            yield Finding(where, f"has no {file_name}")
            return
    try:
        document = environment.document(service, SERVICE_FILE)
        alarms = {one["AlarmName"] for one in environment.document(service, "alarms.json")}
        target = environment.document(service, "scalable-target.json")
        groups = environment.document(service, "target-groups.json") if document.get("loadBalancers") else []
        containers = environment.document(service, TASK_FILE, image=IMAGE)["containerDefinitions"]
    except (DeployError, ValueError, KeyError):
        return  # said already, with its file
    deployment = document.get("deploymentConfiguration", {})
    if deployment.get("deploymentCircuitBreaker") != {"enable": True, "rollback": True}:
        yield Finding(where, "needs the deployment circuit breaker, with roll-back")
    if deployment.get("minimumHealthyPercent", 0) < 100:
        yield Finding(where, "a roll-out must keep all replicas: minimumHealthyPercent 100")
    for name in deployment.get("alarms", {}).get("alarmNames", ()):
        if name not in alarms:
            yield Finding(where, f"its roll-out heeds the alarm {name}, which is not there")
    if f"{environment.name}-{service}-not-ready" not in deployment.get("alarms", {}).get("alarmNames", ()):
        yield Finding(where, "its roll-out must heed the alarm not-ready: no health check asks that for long")
    partitions = min(topic.partitions for topic in ALL_TOPICS if service in topic.groups)
    if target["MaxCapacity"] > partitions:
        yield Finding(where, f"MaxCapacity {target['MaxCapacity']} is above its {partitions} partitions")
    for group in groups:
        if group.get("HealthCheckPath") != TARGET_HEALTH:
            yield Finding(where, f"its target group must ask {TARGET_HEALTH}: ECS ends what fails there")
        if len(group["Name"]) > LONGEST_TARGET_GROUP:
            yield Finding(
                where, f"the target group's name {group['Name']} is longer than {LONGEST_TARGET_GROUP}"
            )
    ports = {port["containerPort"] for one in containers for port in one.get("portMappings", ())}
    for balancer in document.get("loadBalancers", ()):
        if balancer["containerPort"] not in ports:
            yield Finding(where, f"no container has the port {balancer['containerPort']}")


def _paths(environment: Environment, root: Path) -> Iterator[Finding]:
    """The load balancer knows the same paths as the gateway."""
    wanted = gateway_paths((root / GATEWAY_TEMPLATE).read_text(encoding="utf-8"))
    routed: dict[str, str] = {}
    priorities: list[int] = []
    for service in environment.services():
        if not environment.has(service, "listener-rules.json"):
            continue
        where = f"deploy/ecs/services/{service}/listener-rules.json"
        for rule in environment.document(service, "listener-rules.json"):
            priorities.append(rule["Priority"])
            conditions = {one["Field"]: one for one in rule["Conditions"]}
            paths = conditions["path-pattern"]["PathPatternConfig"]["Values"]
            hosts = conditions.get("host-header", {}).get("HostHeaderConfig", {}).get("Values", [])
            if len(paths) + len(hosts) > MOST_PATHS:
                yield Finding(where, f"rule {rule['Priority']} has more than {MOST_PATHS} values")
            routed |= {path.removesuffix("*"): service for path in paths}
    if len(set(priorities)) < len(priorities):
        yield Finding(str(ECS), "two listener rules have one priority")
    for path, service in sorted(wanted.items() ^ routed.items()):
        yield Finding(str(ECS), f"{path} → {service}: the gateway and the listener rules differ")


def _collector(environment: Environment) -> Iterator[Finding]:
    where = str(ECS / COLLECTOR_FILE)
    try:
        config = yaml.safe_load(environment.values["collector"])
        pipelines = config["service"]["pipelines"].values()
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        yield Finding(where, f"cannot be read: {error}")
        return
    for pipeline in pipelines:
        for kind in ("receivers", "processors", "exporters"):
            for name in pipeline.get(kind, ()):
                if name not in config.get(kind, {}):
                    yield Finding(
                        where, f"a pipeline wants the {kind.removesuffix('s')} {name}, which is not there"
                    )
