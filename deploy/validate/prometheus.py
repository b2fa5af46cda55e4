"""Prometheus: what it is told to read, the alert rules, and the rules' own tests, where there are any."""

from __future__ import annotations

from pathlib import Path

from deploy.validate.findings import Finding, find_program, lines_as_findings, run_program

CONFIGS = "deploy/**/prometheus.yml"
RULES = "deploy/**/*.rules.yml"
RULE_TESTS = "deploy/**/*.rules.test.yml"


def check_prometheus(root: Path) -> list[Finding]:
    """promtool's word on each file."""
    promtool = find_program("promtool", "Debian: apt-get install prometheus")
    found: list[Finding] = []
    for pattern, command in (
        (CONFIGS, ("check", "config", "--syntax-only")),
        (RULES, ("check", "rules", "--lint-fatal")),
        (RULE_TESTS, ("test", "rules")),
    ):
        for path in sorted(root.glob(pattern)):
            code, output = run_program([promtool, *command, str(path)])
            found += lines_as_findings(str(path.relative_to(root)), code, output)
    return found
