"""Who may talk to whom in the cluster: network policies, services, routes, and how many may consume."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from deploy.local.provision import SERVICES
from deploy.validate.findings import Finding
from deploy.validate.manifests import Manifest, Rendered, name_of
from weelo_common.events.topics import ALL_TOPICS

REACH = "reach.weelo/"
GATEWAY_TEMPLATE = Path("deploy/gateway/nginx.conf.template")
PLACEHOLDER_HOST = "weelo.invalid"


def check_traffic(rendered: Rendered, root: Path) -> Iterator[Finding]:
    """Everything between pods."""
    yield from _deny_by_default(rendered)
    yield from _policies(rendered)
    yield from _reach(rendered)
    yield from _services(rendered)
    yield from _autoscalers(rendered)
    yield from _budgets(rendered)
    yield from _routes(rendered, root)


def _deny_by_default(rendered: Rendered) -> Iterator[Finding]:
    for policy in rendered.kind("NetworkPolicy"):
        spec = policy["spec"]
        both = set(spec.get("policyTypes", ())) == {"Ingress", "Egress"}
        if spec["podSelector"] == {} and both and not spec.get("ingress") and not spec.get("egress"):
            return
    yield Finding(f"overlay {rendered.overlay}", "no network policy denies all by default")


def _policies(rendered: Rendered) -> Iterator[Finding]:
    """No rule may let everybody or every port through: an empty list means just that."""
    for policy in rendered.kind("NetworkPolicy"):
        for direction, peers in (("ingress", "from"), ("egress", "to")):
            for rule in policy["spec"].get(direction, ()):
                if not rule.get(peers) or {} in rule[peers]:
                    yield Finding(name_of(policy), f"an {direction} rule without `{peers}` lets all through")
                if not rule.get("ports"):
                    yield Finding(name_of(policy), f"an {direction} rule without ports opens all of them")
                for peer in rule.get(peers) or ():
                    if str(peer.get("ipBlock", {}).get("cidr", "")).endswith("/0"):
                        yield Finding(name_of(policy), f"an {direction} rule for the whole internet")
        types = policy["spec"].get("policyTypes") or ["none"]
        if not set(types) <= {"Ingress", "Egress"}:
            yield Finding(name_of(policy), f"policyTypes must be said: Ingress, Egress or both, not {types}")


def _selects(selector: Manifest, labels: Mapping[str, str]) -> bool:
    wanted: Mapping[str, str] = selector.get("matchLabels", {})
    return wanted.items() <= labels.items()


def _reach(rendered: Rendered) -> Iterator[Finding]:
    """Every label that asks for a way out has a policy that opens it, and each service has its own needs only."""
    policies = rendered.kind("NetworkPolicy")
    for workload in rendered.workloads():
        for label in (label for label in workload.labels if label.startswith(REACH)):
            opened = any(
                policy["spec"].get("egress")
                and policy["spec"]["podSelector"].get("matchLabels") == {label: "yes"}
                for policy in policies
            )
            given = rendered.overlay == "dev" and label == f"{REACH}login"  # the key comes as a setting there
            if not opened and not given:
                yield Finding(workload.where, f"{label} has no policy that opens the way")
        if workload.kind == "Deployment" and f"{REACH}postgres" not in workload.labels:
            yield Finding(workload.where, f"cannot reach its database: no label {REACH}postgres")
        if workload.name == "expiry" and workload.labels.keys() & {f"{REACH}redis", f"{REACH}login"}:
            yield Finding(workload.where, "expiry needs neither Redis nor the users' keys")


def _services(rendered: Rendered) -> Iterator[Finding]:
    pods = list(rendered.workloads())
    for service in rendered.kind("Service"):
        chosen = [one for one in pods if _selects({"matchLabels": service["spec"]["selector"]}, one.labels)]
        if len(chosen) != 1:
            yield Finding(name_of(service), f"selects the pods of {len(chosen)} workloads, not of one")
            continue
        ports = {port["name"] for container in chosen[0].containers for port in container.get("ports", ())}
        for port in service["spec"]["ports"]:
            if port.get("targetPort") not in ports:
                yield Finding(name_of(service), f"targetPort {port.get('targetPort')} is no port of its pods")


def _autoscalers(rendered: Rendered) -> Iterator[Finding]:
    for scaler in rendered.kind("HorizontalPodAutoscaler"):
        name, spec = scaler["spec"]["scaleTargetRef"]["name"], scaler["spec"]
        if rendered.find("Deployment", name) is None:
            yield Finding(name_of(scaler), f"there is no Deployment {name}")
        partitions = [topic.partitions for topic in ALL_TOPICS if name in topic.groups]
        if partitions and spec["maxReplicas"] > min(partitions):
            yield Finding(
                name_of(scaler),
                f"maxReplicas {spec['maxReplicas']} is above its {min(partitions)} partitions",
            )
        if spec.get("minReplicas", 1) > spec["maxReplicas"]:
            yield Finding(name_of(scaler), "minReplicas is above maxReplicas")
        if rendered.overlay == "production" and spec.get("minReplicas", 1) < 2:
            yield Finding(name_of(scaler), "production wants two replicas at least")


def _budgets(rendered: Rendered) -> Iterator[Finding]:
    for budget in rendered.kind("PodDisruptionBudget"):
        name = budget["metadata"]["name"]
        deployment = rendered.find("Deployment", name)
        labels = deployment["spec"]["template"]["metadata"]["labels"] if deployment else {}
        if not _selects(budget["spec"]["selector"], labels):
            yield Finding(name_of(budget), "selects no pod of a Deployment of its name")
        if budget["spec"].get("maxUnavailable") != 1:
            yield Finding(name_of(budget), "maxUnavailable must be 1")


def _routes(rendered: Rendered, root: Path) -> Iterator[Finding]:
    routed: dict[str, str] = {}
    for route in rendered.kind("HTTPRoute"):
        if PLACEHOLDER_HOST in route["spec"]["hostnames"]:
            yield Finding(name_of(route), f"the overlay must name its hosts instead of {PLACEHOLDER_HOST}")
        for rule in route["spec"]["rules"]:
            yield from _backends(rendered, route, rule)
            paths = [match["path"]["value"] for match in rule["matches"]]
            if ("/ws" in paths) != (rule["timeouts"]["request"] == "0s"):
                yield Finding(
                    name_of(route), f"{', '.join(paths)}: only a socket may, and must, be without a time-out"
                )
            routed |= dict.fromkeys(paths, rule["backendRefs"][0]["name"])
    wanted = gateway_paths((root / GATEWAY_TEMPLATE).read_text(encoding="utf-8"))
    for path in sorted(wanted.items() ^ routed.items()):
        yield Finding(
            f"overlay {rendered.overlay}", f"{path[0]} → {path[1]}: the gateway and the routes differ"
        )


def _backends(rendered: Rendered, route: Manifest, rule: Mapping[str, Any]) -> Iterator[Finding]:
    for backend in rule["backendRefs"]:
        service = rendered.find("Service", backend["name"]) or {"spec": {"ports": []}}
        if backend["port"] not in [port["port"] for port in service["spec"]["ports"]]:
            yield Finding(
                name_of(route), f"there is no Service {backend['name']} with port {backend['port']}"
            )


def gateway_paths(template: str) -> dict[str, str]:
    """The paths that nginx's template passes on, each with its service."""
    found: dict[str, str] = {}
    for match in re.finditer(r"location (=|~) (\S+) \{\n(.*?)\n        \}", template, re.DOTALL):
        how, path, body = match.groups()
        passed = re.search(r"proxy_pass http://(\w+);", body)
        if passed is None:
            continue
        service = passed[1].removesuffix("_sockets").replace("_", "-")
        if service not in SERVICES:
            continue
        plain = path.removeprefix("^").removesuffix("(?:/|$)")
        alternatives = re.fullmatch(r"(.*)\(\?:(.*)\)", plain)
        for one in alternatives[2].split("|") if alternatives and how == "~" else [""]:
            found[(alternatives[1] if alternatives else plain) + one] = service
    return found
