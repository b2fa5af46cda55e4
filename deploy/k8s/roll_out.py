"""`python -m deploy.k8s.roll_out deploy/k8s/overlays/production`: first the jobs, then the services one by one.

Everything but the Deployments and their autoscalers is applied, with fresh jobs for topics and migrations; they are
waited for; only then do the services follow. A job that fails stops it all, with the former version still running.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

SERVE = "weelo/stage=serve"  # the label of what comes after the jobs
JOB_TIMEOUT_S = 4200  # longer than a job's own activeDeadlineSeconds
JOB_POLL_S = 2.0
ROLL_OUT_TIMEOUT_S = 900
# Who reads an event is rolled out before who writes it: a new field then meets readers that know it.
ORDER = ("expiry", "notifier", "dispatcher", "order-api")

Kubectl = Callable[[Sequence[str]], str]


class RollOutError(Exception):
    """What stopped it, in one line."""


def kubectl(arguments: Sequence[str]) -> str:
    """What kubectl printed. Raises RollOutError with its last line where it fails."""
    done = subprocess.run(["kubectl", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        words = done.stderr.strip().splitlines() or ["without a word"]
        raise RollOutError(f"kubectl {arguments[0]} failed: {words[-1]}")
    return done.stdout


def roll_out(
    overlay: Path,
    run: Kubectl,
    *,
    dry_run: bool,
    say: Callable[[str], None],
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Raises RollOutError where a job or a roll-out fails; what comes after it is not touched."""
    objects = [one for one in yaml.safe_load_all(run(["kustomize", str(overlay)])) if one]
    namespace = next(one["metadata"]["name"] for one in objects if one["kind"] == "Namespace")
    jobs = [one["metadata"]["name"] for one in objects if one["kind"] == "Job"]
    services = sorted(
        (one["metadata"]["name"] for one in objects if one["kind"] == "Deployment"), key=ORDER.index
    )
    here = ["--namespace", namespace]
    apply = ["apply", "--kustomize", str(overlay), *(["--dry-run=server"] if dry_run else [])]
    if dry_run and not run(["get", "namespace", namespace, "--ignore-not-found", "--output=name"]):
        raise RollOutError(f"there is no namespace {namespace} to judge in: make it first, or roll out")
    if not dry_run:
        say(f"fresh jobs: {', '.join(jobs)}")
        run(["delete", "job", *jobs, *here, "--ignore-not-found", "--wait"])  # a job's template never changes
    run([*apply, "--selector", f"{SERVE.replace('=', '!=')}"])
    if not dry_run:
        for job in jobs:
            _wait_for(job, namespace, run, pause)
            say(f"{job}: done")
    for service in services:
        run([*apply, "--selector", f"{SERVE},app.kubernetes.io/name={service}"])
        if not dry_run:
            run(["rollout", "status", f"deployment/{service}", *here, f"--timeout={ROLL_OUT_TIMEOUT_S}s"])
        say(f"{service}: {'would be taken' if dry_run else 'rolled out'}")


def _wait_for(job: str, namespace: str, run: Kubectl, pause: Callable[[float], None]) -> None:
    """`kubectl wait` looks for one condition: for `Complete`, it would sit out its time-out beside a failed job."""
    for _ in range(int(JOB_TIMEOUT_S / JOB_POLL_S)):
        status = json.loads(run(["get", "job", job, "--namespace", namespace, "--output=json"])).get(
            "status", {}
        )
        held = {one["type"]: one for one in status.get("conditions", ()) if one["status"] == "True"}
        if "Complete" in held:
            return
        if "Failed" in held:
            why = held["Failed"].get("message") or "without a word"
            raise RollOutError(f"{job} failed: {why} (kubectl --namespace {namespace} logs job/{job})")
        pause(JOB_POLL_S)
    raise RollOutError(f"{job} has not ended within {JOB_TIMEOUT_S // 60} minutes")


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, or 1 with one line on stderr."""
    parser = argparse.ArgumentParser(prog="python -m deploy.k8s.roll_out", description="Roll an overlay out.")
    parser.add_argument("overlay", type=Path)
    parser.add_argument("--dry-run", action="store_true", help="let the cluster judge, and change nothing")
    options = parser.parse_args(argv)
    try:
        roll_out(options.overlay, kubectl, dry_run=options.dry_run, say=print)
    except RollOutError as error:
        print(f"roll-out: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
