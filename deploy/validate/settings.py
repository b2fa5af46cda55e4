"""Every environment that we write is one that the service starts with: read by its own Settings class.

A name that is misspelt would be ignored at the start, and the default taken: so an unknown name is a finding too.
Secrets stand here by a value of their kind, for only their names are written anywhere.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_settings import BaseSettings

from deploy.ecs.documents import TASK_FILE, DeployError, Environment
from deploy.ecs.revisions import variables
from deploy.k8s.dev_secrets import secret_names
from deploy.local.provision import SERVICES
from deploy.local.services import MODULES
from deploy.validate.compose import COMPOSE
from deploy.validate.ecs import ECS, EXAMPLE, IMAGE
from deploy.validate.findings import Finding
from deploy.validate.images import DOCKERFILE
from deploy.validate.manifests import OVERLAYS, Rendered, render
from deploy.validate.pods import settings_of

# A value of the kind of each secret, for the classes to read.
SPECIMENS = {
    "POSTGRES_DSN": "postgresql://service:secret@postgres/database",
    "REDIS_URL": "rediss://redis:6379/0",
    "KAFKA_SASL_USERNAME": "service",
    "KAFKA_SASL_PASSWORD": "secret",
    "JWT_PUBLIC_KEY": "-----BEGIN PUBLIC KEY-----",
    "OFFER_TOKEN_JWKS": '{"keys": []}',
    "OFFER_TOKEN_PRIVATE_KEY": "-----BEGIN PRIVATE KEY-----",
    "OFFER_TOKEN_KEY_ID": "key-1",
}
# What reads the environment of each kind of job.
JOBS = {
    "topics": ("weelo_common.settings", "KafkaSettings"),
    "migrate": ("weelo_common.lifecycle", "MigrationSettings"),
}
# Of the shared settings these belong to some services and jobs only; to the others they say nothing.
SHARED = re.compile(r"^(JWT_|KAFKA_REPLICATION_FACTOR$)")


def check_settings(root: Path) -> list[Finding]:
    """Compose, both overlays, and the tasks of ECS."""
    image = image_environment((root / DOCKERFILE).read_text(encoding="utf-8"))
    found: list[Finding] = []
    for where, service, env in (*_compose(root), *_overlays(root), *_tasks(root)):
        found += [Finding(where, problem) for problem in problems(service, {**image, **env}, env)]
    return found


def settings_class(reader: str) -> type[BaseSettings]:
    """The service's own or the job's. It reads what it is given here, not this machine's environment."""
    module, name = JOBS[reader] if reader in JOBS else (f"{MODULES[reader]}.settings", "Settings")
    own: type[BaseSettings] = getattr(importlib.import_module(module), name)

    given_alone = classmethod(lambda cls, settings_cls, init_settings, **others: (init_settings,))
    return type(own.__name__, (own,), {"settings_customise_sources": given_alone})


def problems(service: str, env: Mapping[str, str], written: Iterable[str]) -> Iterator[str]:
    """What the class says of the environment, and what in it the class does not know."""
    cls = settings_class(service)
    for name in sorted(set(written)):
        if service not in JOBS and name.lower() not in cls.model_fields and not SHARED.match(name):
            yield f"{service} knows no setting {name}"
    try:
        given: dict[str, Any] = {name.lower(): value for name, value in env.items() if value}
        read: Callable[..., BaseSettings] = cls
        read(**{name: value for name, value in given.items() if name in cls.model_fields})
    except ValidationError as error:
        for one in error.errors():
            yield f"{service}: {'.'.join(str(part) for part in one['loc']).upper() or 'settings'}: {one['msg']}"


def image_environment(dockerfile: str) -> dict[str, str]:
    """What the last stage sets."""
    last = dockerfile[dockerfile.rindex("\nFROM ") :]
    return dict(re.findall(r"\b([A-Z_]+)=([^\s\\]+)", last[: last.index("USER ")]))


def _compose(root: Path) -> Iterator[tuple[str, str, dict[str, str]]]:
    services = yaml.safe_load((root / COMPOSE).read_text(encoding="utf-8"))["services"]
    for name in services:
        reader = name.partition("-")[0] if name not in SERVICES else name
        if reader in JOBS or reader in SERVICES:
            written = services[name].get("environment", {})
            env = {key: _compose_value(key, str(value)) for key, value in written.items()}
            yield f"{COMPOSE}: {name}", reader, env


def _compose_value(name: str, value: str) -> str:
    """`${NAME:-60}` is 60, `${NAME:?…}` a secret's specimen, and a password in a DSN any word."""
    default = re.fullmatch(r"\$\{\w+:-(.*)\}", value)
    if default:
        return default[1]
    if re.fullmatch(r"\$\{\w+:\?.*\}", value):
        return SPECIMENS.get(name, value)
    return re.sub(r"\$\{\w+\}", "word", value)


def _overlays(root: Path) -> Iterator[tuple[str, str, dict[str, str]]]:
    for folder in sorted((root / OVERLAYS).iterdir()):
        rendered, _ = render(root, folder.name)
        if rendered is None:
            continue  # said by the check of the manifests
        for service in SERVICES:
            deployment = rendered.find("Deployment", service)
            if deployment is None:
                continue
            container = deployment["spec"]["template"]["spec"]["containers"][0]
            env = {name: str(value) for name, value in settings_of(rendered, container).items()}
            secrets = {name: SPECIMENS.get(name, "") for name in _secrets(rendered, service)}
            yield f"{folder.name}: Deployment {service}", service, env | secrets
        for job in rendered.kind("Job"):
            container = job["spec"]["template"]["spec"]["containers"][0]
            env = {name: str(value) for name, value in settings_of(rendered, container).items()}
            name = job["metadata"]["name"]
            given = ["POSTGRES_DSN"] if name != "topics" else _secrets(rendered, name)
            secrets = {key: SPECIMENS.get(key, "") for key in given}
            yield f"{folder.name}: Job {name}", name.partition("-")[0], env | secrets


def _secrets(rendered: Rendered, service: str) -> Iterable[str]:
    outside = rendered.find("ExternalSecret", service)
    if outside is None:
        return secret_names(service)
    return [one["secretKey"] for one in outside["spec"]["data"]]


def _tasks(root: Path) -> Iterator[tuple[str, str, dict[str, str]]]:
    try:
        environment = Environment.load(root / EXAMPLE, root / ECS)
        for service in (*SERVICES, "topics"):
            if environment.has(service, TASK_FILE):
                task = environment.document(service, TASK_FILE, image=IMAGE)
                given = variables(task, service)
                env = {**given.plain, **{name: SPECIMENS.get(name, "") for name in given.secret}}
                yield f"deploy/ecs/services/{service}/{TASK_FILE}", service, env
    except (DeployError, json.JSONDecodeError):
        return  # said by the check of the documents
