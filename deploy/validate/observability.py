"""Dashboards and alarms: the files are what their descriptions make, and every query asks for what services tell."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from deploy.observability.declared import Metric, declared, misnamed
from deploy.observability.generated import HERE, SCREENS, deployed_files, rule_groups
from deploy.validate.findings import Finding

COMMAND = "python -m deploy.observability"


def check_observability(root: Path) -> list[Finding]:
    """The rules first: of rules that cannot be read nothing can be made."""
    try:
        groups = rule_groups(root)
    except (yaml.YAMLError, KeyError, TypeError) as error:
        return [Finding(str(HERE), f"rules cannot be read: {error}")]
    metrics = declared()
    records = frozenset(rule["record"] for group in groups for rule in group["rules"] if "record" in rule)
    found = list(_rules(groups, metrics, records))
    wanted = deployed_files(root)
    for path in sorted((root / SCREENS).iterdir()):
        if path.relative_to(root) not in wanted:
            found.append(
                Finding(str(path.relative_to(root)), f"is made by nobody: `{COMMAND}` makes the others")
            )
    for relative, text in wanted.items():
        path = root / relative
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            found.append(Finding(str(relative), f"is not what `{COMMAND}` makes"))
        if path.is_file() and path.suffix == ".json":
            found += _screen(path.read_text(encoding="utf-8"), str(relative), metrics, records)
    return found


def _rules(
    groups: list[dict[str, Any]], metrics: Mapping[str, Metric], records: frozenset[str]
) -> Iterator[Finding]:
    for group in groups:
        for rule in group["rules"]:
            for problem in misnamed(rule["expr"], metrics, records):
                yield Finding(str(HERE), f"{rule.get('alert') or rule.get('record')}: {problem}")


def _screen(
    text: str, where: str, metrics: Mapping[str, Metric], records: frozenset[str]
) -> Iterator[Finding]:
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        yield Finding(where, f"is no JSON: {error}")
        return
    for panel in document["panels"]:
        for target in panel.get("targets", ()):
            for problem in misnamed(target["expr"], metrics, records):
                yield Finding(where, f"{panel['title']}: {problem}")
