"""A real Prometheus that reads the city's services each second, with our rules."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import yaml

from deploy.local.ports import HOST, free_block
from deploy.local.processes import Child, Command, Nursery
from deploy.local.services import ServiceProcess
from deploy.local.settings import PROJECT
from deploy.observability.generated import rule_groups

READY_TIMEOUT_S = 60.0
WINDOW = "1m"  # what Grafana would put in for $__rate_interval, at this scrape interval and zoom


class Prometheus:
    """One Prometheus on 127.0.0.1; start it with ``reading``."""

    def __init__(self, base_url: str) -> None:
        self._client = httpx.Client(base_url=f"{base_url}/api/v1", timeout=30.0)

    def ask(self, path: str, **parameters: str) -> Any:
        """The ``data`` of an answer; an answer that is an error fails with its text."""
        answer = self._client.get(path, params=parameters)
        document = answer.json()
        assert document["status"] == "success", f"{parameters}: {document.get('error')}"
        return document["data"]

    def values(self, expression: str) -> list[float]:
        """The numbers that a query finds now; NaN is none."""
        found = self.ask("/query", query=expression.replace("$__rate_interval", WINDOW))
        numbers = [float(one["value"][1]) for one in found["result"]]
        return [number for number in numbers if not math.isnan(number)]

    def rules(self) -> list[dict[str, Any]]:
        """Every rule, as Prometheus sees it."""
        return [rule for group in self.ask("/rules")["groups"] for rule in group["rules"]]

    def told(self, job: str) -> dict[str, str]:
        """The families that a job tells, with or without series, each with its type."""
        families = self.ask("/targets/metadata", match_target=json_label("job", job))
        return {one["metric"]: one["type"] for one in families}

    def close(self) -> None:
        self._client.close()


def json_label(name: str, value: str) -> str:
    return f"{{{name}={json.dumps(value)}}}"


@contextlib.contextmanager
def reading(program: str, folder: Path, services: Mapping[str, ServiceProcess]) -> Iterator[Prometheus]:
    """A Prometheus that has begun; it ends here, and its data stay in the folder."""
    groups = [
        {name: value for name, value in group.items() if name != "interval"} for group in rule_groups(PROJECT)
    ]
    (folder / "all.rules.yml").write_text(yaml.safe_dump({"groups": groups}))
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": ["all.rules.yml"],
        "scrape_configs": [
            {"job_name": name, "static_configs": [{"targets": [process.base_url.removeprefix("http://")]}]}
            for name, process in services.items()
        ],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_block()
    argv = (
        program,
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={HOST}:{port}",
    )
    nursery = Nursery()
    child = Child(nursery, Command("prometheus", argv, folder / "prometheus.log", {"PATH": "/usr/bin:/bin"}))
    base_url = f"http://{HOST}:{port}"

    def ready() -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{base_url}/-/ready", timeout=1.0).status_code == 200
        return False

    try:
        child.start()
        child.wait_until(ready, READY_TIMEOUT_S)
        prometheus = Prometheus(base_url)
        try:
            yield prometheus
        finally:
            prometheus.close()
    finally:
        child.stop()
        nursery.close()
