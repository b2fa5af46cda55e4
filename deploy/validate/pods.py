"""What a pod must have that the schema does not ask for: the `restricted` standard, limits, probes, a way to end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from deploy.validate.findings import Finding
from deploy.validate.manifests import IMAGE_PREFIX, Manifest, Rendered, Workload

HOST_NAMESPACES = ("hostNetwork", "hostPID", "hostIPC")
# The volumes that the Pod Security Standard `restricted` allows.
VOLUMES = frozenset(
    {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
)
DEADLINE_SETTING = "SHUTDOWN_DEADLINE_S"
SPARE_S = 5  # of the grace period, after the wait and the service's own deadline
PROBES = {"startupProbe": "/health/live", "livenessProbe": "/health/live", "readinessProbe": "/health/ready"}


def check_pods(rendered: Rendered) -> Iterator[Finding]:
    """Every pod of the overlay."""
    for workload in rendered.workloads():
        yield from _restricted(workload)
        for container in workload.containers:
            yield from _container(workload, container)
        if workload.is_ours:
            yield from _ours(workload)
        if workload.kind == "Deployment":
            yield from _serves(rendered, workload)
        if workload.kind == "Job":
            yield from _job(rendered, workload)


def _restricted(workload: Workload) -> Iterator[Finding]:
    pod, where = workload.pod, workload.where
    for name in HOST_NAMESPACES:
        if pod.get(name):
            yield Finding(where, f"{name} is not allowed to a restricted pod")
    security: Manifest = pod.get("securityContext", {})
    if security.get("runAsNonRoot") is not True or security.get("runAsUser") == 0:
        yield Finding(where, "runAsNonRoot must be true, and runAsUser not 0")
    if security.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield Finding(where, "seccompProfile must be RuntimeDefault")
    if pod.get("automountServiceAccountToken") is not False:
        yield Finding(where, "automountServiceAccountToken must be false")
    for volume in pod.get("volumes", ()):
        if kinds := set(volume) - {"name"} - VOLUMES:
            yield Finding(where, f"volume {volume['name']}: {', '.join(sorted(kinds))} is not allowed")


def _container(workload: Workload, container: Manifest) -> Iterator[Finding]:
    where = f"{workload.where}, container {container['name']}"
    security: Manifest = container.get("securityContext", {})
    if security.get("allowPrivilegeEscalation") is not False or security.get("privileged"):
        yield Finding(where, "allowPrivilegeEscalation must be false")
    if security.get("capabilities", {}).get("drop") != ["ALL"] or security.get("capabilities", {}).get("add"):
        yield Finding(where, "capabilities must drop ALL and add none")
    for port in container.get("ports", ()):
        if "hostPort" in port:
            yield Finding(where, "hostPort is not allowed")
    for kind in ("requests", "limits"):
        for resource in ("cpu", "memory"):
            if resource not in container.get("resources", {}).get(kind, {}):
                yield Finding(where, f"resources.{kind} has no {resource}")
    image = str(container["image"])
    tag = image.rpartition("/")[2].partition(":")[2]
    if "@sha256:" not in image and tag in ("", "latest"):
        yield Finding(where, f"image {image} needs a tag that stays, or a digest")
    if IMAGE_PREFIX in image and security.get("readOnlyRootFilesystem") is not True:
        yield Finding(where, "readOnlyRootFilesystem must be true")
    for variable in container.get("env", ()):
        name = str(variable["name"])
        if "value" in variable and name.endswith(("_DSN", "_PASSWORD", "_PRIVATE_KEY", "_SECRET")):
            yield Finding(where, f"{name} stands in the manifest: secrets come from outside")


def _ours(workload: Workload) -> Iterator[Finding]:
    if workload.pod.get("serviceAccountName", "default") == "default":
        yield Finding(workload.where, "needs a service account of its own")


def _serves(rendered: Rendered, workload: Workload) -> Iterator[Finding]:
    where, name = workload.where, workload.name
    deployment = rendered.find("Deployment", name) or {}
    spec: Manifest = deployment["spec"]
    main: Manifest = workload.pod["containers"][0]
    for probe, path in PROBES.items():
        asked = main.get(probe, {}).get("httpGet", {}).get("path")
        if asked != path:
            yield Finding(where, f"{probe} must ask {path}, not {asked}")
    if "replicas" in spec:
        yield Finding(where, "replicas is the autoscaler's")
    if spec.get("strategy", {}).get("rollingUpdate", {}).get("maxUnavailable") != 0:
        yield Finding(where, "a roll-out must keep all replicas: maxUnavailable 0")
    spread = {one["topologyKey"] for one in workload.pod.get("topologySpreadConstraints", ())}
    if not {"topology.kubernetes.io/zone", "kubernetes.io/hostname"} <= spread:
        yield Finding(where, "must spread over zones and hosts")
    selector: Manifest = spec["selector"]["matchLabels"]
    if not selector.items() <= workload.labels.items():
        yield Finding(where, "its selector does not match its own pods")
    yield from _grace(rendered, workload, main)
    for kind in (
        "Service",
        "ServiceAccount",
        "HorizontalPodAutoscaler",
        "PodDisruptionBudget",
        "NetworkPolicy",
    ):
        if rendered.find(kind, name) is None:
            yield Finding(where, f"has no {kind}")


def _grace(rendered: Rendered, workload: Workload, main: Manifest) -> Iterator[Finding]:
    """Rules 27 and 28: wait for the gateways, then drain, all before the kubelet kills."""
    command = main.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", [])
    if len(command) != 2 or command[0] != "sleep" or not str(command[1]).isdigit():
        yield Finding(workload.where, "preStop must wait (sleep) for the gateways")
        return
    deadline = settings_of(rendered, main).get(DEADLINE_SETTING)
    if deadline is None:
        yield Finding(workload.where, f"{DEADLINE_SETTING} must be set beside the grace period")
        return
    needed = int(command[1]) + float(deadline) + SPARE_S
    grace = workload.pod.get("terminationGracePeriodSeconds", 30)
    if grace < needed:
        yield Finding(workload.where, f"terminationGracePeriodSeconds is {grace}, needed are {needed:.0f}")


def _job(rendered: Rendered, workload: Workload) -> Iterator[Finding]:
    job = rendered.find("Job", workload.name) or {}
    for name in ("backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished"):
        if name not in job["spec"]:
            yield Finding(workload.where, f"has no {name}")
    if workload.pod.get("restartPolicy") != "Never":
        yield Finding(
            workload.where, "restartPolicy must be Never: a new pod for a new try, and the logs of both"
        )


def settings_of(rendered: Rendered, container: Manifest) -> dict[str, Any]:
    """The environment that ConfigMaps of the overlay and the manifest itself give, secrets left out."""
    env: dict[str, Any] = {}
    for source in container.get("envFrom", ()):
        if reference := source.get("configMapRef"):
            env |= (rendered.find("ConfigMap", reference["name"]) or {}).get("data", {})
    return env | {one["name"]: one["value"] for one in container.get("env", ()) if "value" in one}
