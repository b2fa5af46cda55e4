"""An alarm nobody can act on, or on a number nobody tells, is worse than none; so is a runbook whose commands fail."""

from __future__ import annotations

import importlib.util
import re
from importlib.metadata import entry_points
from typing import Any

import pytest
import typer
import yaml

from deploy.local.settings import PROJECT
from deploy.observability.declared import declared, misnamed
from weelo_cli.main import GROUP, build
from weelo_common.events.topics import TIMERS_COMMANDS

HERE = PROJECT / "deploy" / "observability"
RUNBOOK = (PROJECT / "docs" / "runbook.md").read_text()
CODE = "\n".join(
    path.read_text() for folder in ("libs", "services") for path in PROJECT.glob(f"{folder}/*/src/**/*.py")
)
RULES: list[dict[str, Any]] = [
    rule
    for path in sorted(HERE.glob("*.rules.yml"))
    for group in yaml.safe_load(path.read_text())["groups"]
    for rule in group["rules"]
]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
RECORDS = {rule["record"] for rule in RULES if "record" in rule}
METRICS = declared()
SERVED = {name for metric in METRICS.values() for name in metric.series}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("alert") or rule["record"])
def test_every_rule_asks_only_for_what_is_told(rule: dict[str, Any]) -> None:
    assert list(misnamed(rule["expr"], METRICS, frozenset(RECORDS))) == []


def test_every_probe_that_an_alarm_names_is_one_of_a_service() -> None:
    expressions = " ".join(rule["expr"] for rule in RULES)
    named = {probe for text in re.findall(r'check=~?"([^"]+)"', expressions) for probe in text.split("|")}
    assert named
    assert named <= set(re.findall(r'health\.check\("([^"]+)"', CODE))


def test_the_alarm_on_unowned_timers_knows_how_many_partitions_there_are() -> None:
    assert ALERTS["TimersUnowned"]["expr"].endswith(f" < {TIMERS_COMMANDS.partitions}")


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alarm_says_how_bad_it_is_and_where_its_section_stands(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["runbook"] == f"docs/runbook.md#{alert.lower()}"


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alarm_has_its_section_with_what_it_means_how_to_look_and_what_to_do(alert: str) -> None:
    sections = re.findall(rf"^### {alert}\n(.*?)(?=^##|\Z)", RUNBOOK, re.MULTILINE | re.DOTALL)
    assert len(sections) == 1
    for part in ("**means**", "**look**", "**do**"):
        assert part in sections[0].lower()


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alarm_rings_in_a_test_of_promtool(alert: str) -> None:
    tests = [
        asked
        for path in HERE.glob("*.rules.test.yml")
        for case in yaml.safe_load(path.read_text())["tests"]
        for asked in case["promql_expr_test"]
    ]
    rung = [sample["labels"] for asked in tests for sample in asked["exp_samples"] if "labels" in sample]
    assert any(f'alertname="{alert}"' in labels for labels in rung)


def test_every_metric_that_the_runbook_names_is_told() -> None:
    named = set(re.findall(r"`(weelo_\w+)", RUNBOOK))
    assert named
    assert named <= {*SERVED, *METRICS}


def test_every_message_that_the_runbook_quotes_is_written() -> None:
    quoted = set(re.findall(r'"([A-Z][^"\n]+)"', RUNBOOK))
    assert quoted
    assert {message for message in quoted if f'"{message}"' not in CODE} == set()


def commands(program: str) -> list[str]:
    """The command lines of the runbook that begin with a word: in code spans, and in blocks."""
    blocks = re.findall(r"^```sh\n(.*?)^```", RUNBOOK, re.MULTILINE | re.DOTALL)
    lines = [line.partition(" #")[0].strip() for block in blocks for line in block.splitlines()]
    spans = re.findall(
        r"`([^`\n]+)`", re.sub(r"^```sh\n.*?^```", "", RUNBOOK, flags=re.MULTILINE | re.DOTALL)
    )
    return sorted({line for line in [*lines, *spans] if line.startswith(f"{program} ")})


APP, PROBLEMS = build(entry_points(group=GROUP))


@pytest.mark.parametrize("line", commands("weelo"))
def test_every_weelo_command_of_the_runbook_is_there_and_takes_what_it_is_given(line: str) -> None:
    assert PROBLEMS == []
    command: Any = typer.main.get_command(APP)
    words = line.split()[1:]
    while getattr(command, "commands", None):
        name = words.pop(0) if words else ""
        assert name in command.commands, f"there is no command {name!r} in {line!r}"
        command = command.commands[name]
    options = {name: one for one in command.params for name in one.opts if one.param_type_name == "option"}
    given = 0
    while words:
        word = words.pop(0)
        if word.startswith("-"):
            assert word in options, f"{line!r} has no {word}"
            if not options[word].is_flag:
                assert words, f"{word} of {line!r} wants a value"
                words.pop(0)
        else:
            given += 1
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    assert sum(one.required for one in arguments) <= given <= len(arguments)


@pytest.mark.parametrize("line", commands("python"))
def test_every_script_of_the_runbook_is_there(line: str) -> None:
    module = line.split()[2]
    assert importlib.util.find_spec(module) is not None
