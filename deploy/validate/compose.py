"""docker-compose.yml: the compose schema, and what every container there must have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from deploy.validate.findings import Finding, MissingProgram, find_program, lines_as_findings, run_program

COMPOSE = Path("docker-compose.yml")
PROVIDERS = Path("deploy/compose/grafana-dashboards.yml")
SCREENS = "deploy/observability/grafana"
NODE = Path(__file__).parent / "node"
RULES = Path(__file__).with_name("dclint.yml")
LOCAL_TAG = ":local"  # built here, never pulled
LOOPBACK = "127.0.0.1:"


def check_compose(root: Path) -> list[Finding]:
    """The file as a whole, then each service of it."""
    node = find_program("node", "install Node.js 20 or newer")
    dclint = NODE / "node_modules" / "dclint" / "bin" / "dclint.cjs"
    if not dclint.is_file():
        raise MissingProgram("dclint is not on this machine: make deploy-tools installs it (npm)")
    code, output = run_program([node, str(dclint), "--config", str(RULES), str(COMPOSE)], cwd=root)
    if code != 0:
        return lines_as_findings(str(COMPOSE), code, output)
    services: dict[str, Any] = yaml.safe_load((root / COMPOSE).read_text(encoding="utf-8"))["services"]
    return [
        *(one for name, service in services.items() for one in _service(name, service, services)),
        *_dashboards(root, services),
    ]


def _service(name: str, service: Mapping[str, Any], services: Mapping[str, Any]) -> Iterator[Finding]:
    where = f"{COMPOSE}: {name}"
    tag = str(service["image"]).rpartition("/")[2].partition(":")[2]
    if tag in ("", "latest"):
        yield Finding(where, f"image {service['image']} needs a pinned tag")
    if "mem_limit" not in service:
        yield Finding(where, "has no mem_limit")
    if "max-size" not in service.get("logging", {}).get("options", {}):
        yield Finding(where, "its log is not rotated")
    if service.get("restart") == "no":
        if not service.get("healthcheck", {}).get("disable"):
            yield Finding(where, "is a job: nothing answers its health check")
    elif "healthcheck" not in service and not str(service["image"]).endswith(LOCAL_TAG):
        yield Finding(where, "has no health check")
    if str(service["image"]).endswith(LOCAL_TAG) and "platform" not in service:
        yield Finding(where, "states no platform")
    for port in service.get("ports", ()):
        if not str(port).startswith(LOOPBACK):
            yield Finding(where, f"port {port} is not on loopback")
    depends = service.get("depends_on", {})
    for other, how in depends.items():
        ends = services[other].get("restart") == "no"
        wanted = "service_completed_successfully" if ends else "service_healthy"
        if how.get("condition") != wanted:
            yield Finding(where, f"must wait for {other} by {wanted}")


def _dashboards(root: Path, services: Mapping[str, Any]) -> Iterator[Finding]:
    """Grafana is told of a folder, and the dashboards are mounted there."""
    mounted = {
        volume.split(":")[1]
        for service in services.values()
        for volume in service.get("volumes", ())
        if volume.startswith(f"./{SCREENS}:")
    }
    for provider in yaml.safe_load((root / PROVIDERS).read_text(encoding="utf-8"))["providers"]:
        folder = provider["options"]["path"]
        if folder not in mounted:
            yield Finding(str(PROVIDERS), f"looks for dashboards in {folder}, where nothing is mounted")
