"""deploy/k8s: both overlays rendered, held against the schemas of Kubernetes, and against what those let pass."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import kubernetes_validate

from deploy.k8s.roll_out import ORDER
from deploy.local.provision import SERVICES
from deploy.validate.findings import Finding
from deploy.validate.foreign_kinds import FOREIGN
from deploy.validate.manifests import OVERLAYS, Rendered, name_of, render
from deploy.validate.pods import check_pods
from deploy.validate.traffic import check_traffic

VERSIONS = ("1.31", "1.37")  # the oldest and the newest Kubernetes that the manifests are for
PSA_LABEL = "pod-security.kubernetes.io/enforce"
DEV = "dev"
DASHBOARD_LABEL = "grafana_dashboard"  # what Grafana's sidecar looks for
NAME_LABEL = "app.kubernetes.io/name"
# Argo CD: everything else comes in wave 0 of a sync, so that a job's pod finds its ConfigMap, secret and account.
WAVE, HOOK = "argocd.argoproj.io/sync-wave", "argocd.argoproj.io/hook"
JOBS_WAVE = 1


def check_kubernetes(root: Path) -> list[Finding]:
    """Every overlay. A manifest that a schema refuses is not looked at any further."""
    found: list[Finding] = []
    for folder in sorted((root / OVERLAYS).iterdir()):
        rendered, problems = render(root, folder.name)
        found += problems
        if rendered is None:
            continue
        against_schemas = list(_schemas(rendered))
        found += against_schemas
        if not against_schemas:
            found += [
                Finding(f"{folder.name}: {one.where}", one.what)
                for check in (
                    check_pods(rendered),
                    check_traffic(rendered, root),
                    _namespaces(rendered),
                    _references(rendered),
                    _watched(rendered),
                    _waves(rendered),
                )
                for one in check
            ]
    return found


def _schemas(rendered: Rendered) -> Iterator[Finding]:
    for one in rendered.objects:
        for problem in _schema_problems(json.dumps(one, sort_keys=True)):
            yield Finding(f"{rendered.overlay}: {name_of(one)}", problem)


@functools.lru_cache(maxsize=1024)  # the overlays have most objects in common
def _schema_problems(text: str) -> tuple[str, ...]:
    one = json.loads(text)
    if one.get("kind") in FOREIGN:
        errors = jsonschema.Draft202012Validator(FOREIGN[one["kind"]]).iter_errors(one)
        return tuple(f"{error.json_path}: {error.message}" for error in errors)
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(one, version, strict=True)
        except kubernetes_validate.SchemaNotFoundError:
            return (f"{one.get('apiVersion')} {one.get('kind')} is no kind that Kubernetes {version} has",)
        except kubernetes_validate.ValidationError as error:
            path = ".".join(str(part) for part in error.path)
            return (f"{path}: {str(error).splitlines()[0]} (Kubernetes {version})",)
    return ()


def _namespaces(rendered: Rendered) -> Iterator[Finding]:
    spaces = rendered.kind("Namespace")
    if len(spaces) != 1 or spaces[0]["metadata"].get("labels", {}).get(PSA_LABEL) != "restricted":
        yield Finding(f"overlay {rendered.overlay}", f"one namespace, with {PSA_LABEL}: restricted")
        return
    name = spaces[0]["metadata"]["name"]
    for one in rendered.objects:
        if one["kind"] != "Namespace" and one["metadata"].get("namespace") != name:
            yield Finding(name_of(one), f"is not in the namespace {name}")


def _references(rendered: Rendered) -> Iterator[Finding]:
    """Secrets come from outside, and all that a pod refers to is there."""
    for secret in rendered.kind("Secret"):
        yield Finding(name_of(secret), "a secret's value must not stand in a manifest")
    outside = {one["spec"]["target"]["name"] for one in rendered.kind("ExternalSecret")}
    for workload in rendered.workloads():
        for container in workload.containers:
            for source in container.get("envFrom", ()):
                for key, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
                    reference = source.get(key)
                    if reference is None or reference.get("optional"):
                        continue
                    known = reference["name"] in outside or rendered.overlay == DEV
                    if rendered.find(kind, reference["name"]) is None and not (kind == "Secret" and known):
                        yield Finding(workload.where, f"there is no {kind} {reference['name']}")
        account = workload.pod.get("serviceAccountName")
        if account is not None and rendered.find("ServiceAccount", account) is None:
            yield Finding(workload.where, f"there is no ServiceAccount {account}")


def _watched(rendered: Rendered) -> Iterator[Finding]:
    """Grafana's sidecar finds the dashboards, and the Prometheus operator the port of every service."""
    if not any(DASHBOARD_LABEL in one["metadata"].get("labels", {}) for one in rendered.kind("ConfigMap")):
        yield Finding(f"overlay {rendered.overlay}", f"no ConfigMap has the label {DASHBOARD_LABEL}")
    pods = {one.labels.get(NAME_LABEL): one for one in rendered.workloads() if one.kind == "Deployment"}
    for monitor in rendered.kind("PodMonitor"):
        spec = monitor["spec"]
        named = {
            name
            for expression in spec["selector"].get("matchExpressions", ())
            if expression["key"] == NAME_LABEL
            for name in expression.get("values", ())
        }
        for service in SERVICES:
            if service not in named or service not in pods:
                yield Finding(name_of(monitor), f"does not read {service}")
                continue
            ports = {port.get("name") for one in pods[service].containers for port in one.get("ports", ())}
            for endpoint in spec["podMetricsEndpoints"]:
                if endpoint["port"] not in ports:
                    yield Finding(
                        name_of(monitor), f"reads the port {endpoint['port']}, which {service} has not"
                    )


def _waves(rendered: Rendered) -> Iterator[Finding]:
    """With Argo CD things come in the order of roll_out.py: the jobs first, then service after service."""
    for one in rendered.objects:
        said = one["metadata"].get("annotations", {})
        if one["kind"] == "Job":
            wanted: int | None = JOBS_WAVE
            if said.get(HOOK) != "Sync":
                yield Finding(name_of(one), f"{HOOK} must be Sync: before that its pod lacks what it needs")
        elif one["kind"] in ("Deployment", "HorizontalPodAutoscaler"):
            wanted = JOBS_WAVE + 1 + ORDER.index(one["metadata"]["name"])
        else:
            wanted = None
        if said.get(WAVE) != (None if wanted is None else str(wanted)):
            yield Finding(name_of(one), f"{WAVE} must be {wanted}, the place that roll_out.py gives it")
