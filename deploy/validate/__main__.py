"""`python -m deploy.validate`: every check in turn, each in one line, and what it found below."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from deploy.local.settings import PROJECT
from deploy.validate.compose import check_compose
from deploy.validate.ecs import check_ecs
from deploy.validate.findings import Finding, MissingProgram
from deploy.validate.gateway import check_gateway
from deploy.validate.images import check_images
from deploy.validate.kubernetes import check_kubernetes
from deploy.validate.observability import check_observability
from deploy.validate.prometheus import check_prometheus
from deploy.validate.scripts import check_scripts
from deploy.validate.settings import check_settings

CHECKS: Mapping[str, Callable[[Path], list[Finding]]] = {
    "images": check_images,
    "compose": check_compose,
    "gateway": check_gateway,
    "kubernetes": check_kubernetes,
    "ecs": check_ecs,
    "settings": check_settings,
    "prometheus": check_prometheus,
    "observability": check_observability,
    "scripts": check_scripts,
}


def main(root: Path = PROJECT) -> int:
    """Returns the exit code: 0 only where every check ran and found nothing."""
    failed = False
    for name, check in CHECKS.items():
        started = time.monotonic()
        try:
            found = check(root)
            word = "ok" if not found else f"{len(found)} found"
        except MissingProgram as missing:
            found, word = [], f"could not run: {missing}"
            failed = True
        failed = failed or bool(found)
        print(f"{name:<13} {time.monotonic() - started:5.1f} s  {word}")
        for one in found:
            print(f"    {one}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
