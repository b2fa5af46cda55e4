"""Prometheus: what it is told to read, the alert rules, and the rules' own tests, where there are any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from deploy.validate.findings import Finding, find_program, lines_as_findings, run_program

# What promtool is asked, and of which files. The rules' tests take seconds, the others none.
PARTS: Mapping[str, tuple[str, Sequence[str]]] = {
    "configs": ("deploy/**/prometheus.yml", ("check", "config", "--syntax-only")),
    "rules": ("deploy/**/*.rules.yml", ("check", "rules", "--lint-fatal")),
    "rule tests": ("deploy/**/*.rules.test.yml", ("test", "rules")),
}


def check_prometheus(root: Path) -> list[Finding]:
    """promtool's word on each file."""
    return [one for part in PARTS for one in check_part(root, part)]


def check_part(root: Path, part: str) -> list[Finding]:
    """promtool's word on the files of one of ``PARTS``."""
    promtool = find_program("promtool", "Debian: apt-get install prometheus")
    pattern, command = PARTS[part]
    found: list[Finding] = []
    for path in sorted(root.glob(pattern)):
        code, output = run_program([promtool, *command, str(path)])
        found += lines_as_findings(str(path.relative_to(root)), code, output)
    return found
