"""The JSON documents of deploy/ecs/services, filled in with one environment's values.

A placeholder `${name}` inside a text becomes that value's text; a text that is nothing but a placeholder becomes the
value itself, so that `"${subnets}"` may become a list. Nothing here talks to AWS, and no account stands in a document.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SERVICES_FOLDER = "services"
COLLECTOR_FILE = "collector.yaml"
PLACEHOLDER = re.compile(r"\$\{([A-Za-z][A-Za-z.-]*)\}")
SERVICE_FILE = "service.json"
TASK_FILE = "task-definition.json"
BLUE_GREEN_FILE = "blue-green.json"


class DeployError(Exception):
    """Why a command cannot go on, in one line for people."""


@dataclass(frozen=True)
class Call:
    """The operation of AWS that a document is the input of; `many`: the document is a list of inputs."""

    api: str
    operation: str
    many: bool = False


CALLS: Mapping[str, Call] = {
    TASK_FILE: Call("ecs", "RegisterTaskDefinition"),
    "target-groups.json": Call("elbv2", "CreateTargetGroup", many=True),
    "listener-rules.json": Call("elbv2", "CreateRule", many=True),
    "log-filters.json": Call("logs", "PutMetricFilter", many=True),
    "alarms.json": Call("cloudwatch", "PutMetricAlarm", many=True),
    SERVICE_FILE: Call("ecs", "CreateService"),
    "scalable-target.json": Call("application-autoscaling", "RegisterScalableTarget"),
    "scaling-policies.json": Call("application-autoscaling", "PutScalingPolicy", many=True),
}


@dataclass(frozen=True)
class Environment:
    """One environment's values, and where the documents lie."""

    values: Mapping[str, Any]
    folder: Path = HERE

    @classmethod
    def load(cls, path: Path, folder: Path = HERE) -> Environment:
        """Raises DeployError where the file is none of ours."""
        try:
            values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DeployError(f"{path} cannot be read: {error}") from error
        for name in ("name", "region", "cluster", "registry"):
            if not values.get(name):
                raise DeployError(f"{path} says no {name}")
        collector = (folder / COLLECTOR_FILE).read_text(encoding="utf-8")
        values["collector"] = fill(collector, values)
        return cls(values, folder)

    @property
    def name(self) -> str:
        return str(self.values["name"])

    @property
    def cluster(self) -> str:
        return str(self.values["cluster"])

    @property
    def registry(self) -> str:
        return str(self.values["registry"])

    @property
    def region(self) -> str:
        return str(self.values["region"])

    def services(self) -> list[str]:
        """The folders of deploy/ecs/services; `topics` is a job and no service."""
        return sorted(path.name for path in (self.folder / SERVICES_FOLDER).iterdir() if path.is_dir())

    def has(self, service: str, file_name: str) -> bool:
        return (self.folder / SERVICES_FOLDER / service / file_name).is_file()

    def document(self, service: str, file_name: str, **more: Any) -> Any:
        """A document filled in. Raises DeployError for a service or a value that is not there."""
        path = self.folder / SERVICES_FOLDER / service / file_name
        if not path.is_file():
            raise DeployError(f"{service} has no {file_name}; there are {', '.join(self.services())}")
        return fill(json.loads(path.read_text(encoding="utf-8")), {**self.values, **more})


def fill(document: Any, values: Mapping[str, Any]) -> Any:
    """The document with every placeholder filled in. Raises DeployError that names one without a value."""
    if isinstance(document, dict):
        return {name: fill(value, values) for name, value in document.items()}
    if isinstance(document, list):
        return [fill(value, values) for value in document]
    if not isinstance(document, str):
        return document
    whole = PLACEHOLDER.fullmatch(document)
    if whole:
        return _value(whole[1], values)
    return PLACEHOLDER.sub(lambda match: str(_value(match[1], values)), document)


def _value(name: str, values: Mapping[str, Any]) -> Any:
    if name not in values:
        raise DeployError(f"the environment says no {name}")
    return values[name]
