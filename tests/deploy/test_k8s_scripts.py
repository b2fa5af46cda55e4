"""On Kubernetes the jobs come before the services, one service after the other, and a failure stops what follows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

import pytest
import yaml
from dotenv import dotenv_values

from deploy.compose.prepare import env_text
from deploy.k8s.dev_secrets import secrets
from deploy.k8s.roll_out import RollOutError, roll_out
from deploy.local.keys import ensure_keys
from deploy.local.settings import PROJECT
from deploy.validate.findings import find_program, run_program

PRODUCTION = PROJECT / "deploy/k8s/overlays/production"


@dataclass
class Cluster:
    """Stands for a cluster: kubectl renders for real, and what would reach the cluster is noted."""

    failing: str = "nothing"
    failed_job: str = "none"
    has_namespace: bool = True
    paused_s: float = 0.0
    asked: list[str] = field(default_factory=list)

    def __call__(self, arguments: Sequence[str]) -> str:
        line = " ".join(arguments)
        if arguments[0] == "kustomize":
            code, output = run_program([find_program("kubectl", ""), *arguments])
            assert code == 0, output
            return output
        self.asked.append(line)
        if self.failing in line:
            raise RollOutError(f"kubectl {arguments[0]} failed: no")
        if arguments[:2] == ["get", "namespace"]:
            return f"namespace/{arguments[2]}" if self.has_namespace else ""
        if arguments[:2] == ["get", "job"]:
            return json.dumps({"status": self._status(arguments[2])})
        return ""

    def _status(self, job: str) -> dict[str, object]:
        """A job's, as `kubectl get job --output=json` tells it: still running when first asked."""
        if sum(f"get job {job} " in line for line in self.asked) < 2:
            return {"active": 1, "conditions": [{"type": "Complete", "status": "False"}]}
        if job == self.failed_job:
            message = "Job has reached the specified backoff limit"
            return {"failed": 4, "conditions": [{"type": "Failed", "status": "True", "message": message}]}
        return {"succeeded": 1, "conditions": [{"type": "Complete", "status": "True"}]}

    def pause(self, seconds: float) -> None:
        self.paused_s += seconds

    def first(self, *words: str) -> int:
        return next(n for n, line in enumerate(self.asked) if all(word in line for word in words))


def test_topics_and_migrations_end_before_any_service_is_touched() -> None:
    cluster = Cluster()
    roll_out(PRODUCTION, cluster, dry_run=False, say=lambda line: None, pause=cluster.pause)
    served = cluster.first("apply", "weelo/stage=serve")
    for job in ("topics", "migrate-order-api", "migrate-dispatcher", "migrate-notifier", "migrate-expiry"):
        assert cluster.first("delete job", job) < cluster.first("get job", job) < served
    order = [line.split("deployment/")[1].split()[0] for line in cluster.asked if line.startswith("rollout")]
    assert order == ["expiry", "notifier", "dispatcher", "order-api"]


@pytest.mark.parametrize(
    ("failing", "untouched"),
    [("get job migrate-notifier", "weelo/stage=serve"), ("deployment/notifier", "name=order-api")],
)
def test_what_fails_stops_what_comes_after_it(failing: str, untouched: str) -> None:
    cluster = Cluster(failing)
    with pytest.raises(RollOutError):
        roll_out(PRODUCTION, cluster, dry_run=False, say=lambda line: None, pause=cluster.pause)
    assert not any(
        f" {untouched}" in line or f",app.kubernetes.io/{untouched}" in line for line in cluster.asked
    )


def test_a_job_that_fails_ends_the_roll_out_at_once_with_where_to_look() -> None:
    cluster = Cluster(failed_job="migrate-dispatcher")
    with pytest.raises(
        RollOutError, match=r"migrate-dispatcher failed: .*backoff limit.*logs job/migrate-dispatcher"
    ):
        roll_out(PRODUCTION, cluster, dry_run=False, say=lambda line: None, pause=cluster.pause)
    assert not any("weelo/stage=serve" in line for line in cluster.asked)
    assert cluster.paused_s < 60


def test_a_job_that_never_ends_ends_the_roll_out_after_its_own_deadline() -> None:
    cluster = Cluster()
    cluster._status = lambda job: {}  # type: ignore[method-assign]
    with pytest.raises(RollOutError, match="has not ended within 70 minutes"):
        roll_out(PRODUCTION, cluster, dry_run=False, say=lambda line: None, pause=cluster.pause)


def test_a_dry_run_without_the_namespace_says_so_in_one_line() -> None:
    cluster = Cluster(has_namespace=False)
    with pytest.raises(RollOutError, match="there is no namespace weelo to judge in"):
        roll_out(PRODUCTION, cluster, dry_run=True, say=lambda line: None)


def test_a_dry_run_deletes_nothing_and_lets_the_cluster_judge() -> None:
    cluster = Cluster()
    roll_out(PRODUCTION, cluster, dry_run=True, say=lambda line: None)
    judged = [line for line in cluster.asked if not line.startswith("get ")]
    assert judged
    assert all(line.startswith("apply") and "--dry-run=server" in line for line in judged)


def test_every_object_is_in_one_of_the_two_steps() -> None:
    """Step one takes all without the label, step two the label and a service's name."""
    output = Cluster()(["kustomize", str(PRODUCTION)])
    for one in yaml.safe_load_all(output):
        labels = one["metadata"].get("labels", {})
        if one["kind"] in ("Deployment", "HorizontalPodAutoscaler"):
            assert labels["weelo/stage"] == "serve"
            assert labels["app.kubernetes.io/name"] == one["metadata"]["name"]
        else:
            assert "weelo/stage" not in labels


def test_a_service_gets_its_own_secrets_and_no_others(tmp_path: Path) -> None:
    given = dotenv_values(stream=StringIO(env_text(ensure_keys(tmp_path))))
    made = {str(one["metadata"]["name"]): one["stringData"] for one in secrets(given)}  # type: ignore[index]
    private = given["OFFER_TOKEN_PRIVATE_KEY"]
    assert [name for name, values in made.items() if private in values.values()] == ["dispatcher"]  # type: ignore[attr-defined]
    for name in ("order-api", "dispatcher", "notifier", "expiry"):
        password = given[f"WEELO_PASSWORD_{name.replace('-', '_').upper()}"]
        holders = [other for other, values in made.items() if str(password) in str(values)]
        assert sorted(holders) == sorted([name, "postgres"])
