"""The command line is what its plug-ins make of it."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

import typer
from typer.testing import CliRunner

from weelo_cli.main import GROUP, build, wanted

ORDERS = typer.Typer()


@ORDERS.command()
def count() -> None:
    """Count."""
    typer.echo("seven orders")


@ORDERS.command()
def show() -> None:
    """Show."""


NO_APP = "not a command"


def plugin(name: str, value: str) -> EntryPoint:
    return EntryPoint(name=name, value=value, group=GROUP)


OURS = plugin("topics", "weelo_cli.topics:app")
THEIRS = plugin("orders", f"{__name__}:ORDERS")


def test_commands_of_a_plug_in_appear_under_its_name() -> None:
    app, problems = build([OURS, THEIRS])
    assert problems == []
    said = CliRunner().invoke(app, ["orders", "count"])
    assert (said.exit_code, said.stdout) == (0, "seven orders\n")


def test_a_function_is_the_one_command_of_its_name() -> None:
    app, problems = build([plugin("count", f"{__name__}:count"), OURS])
    assert problems == []
    said = CliRunner().invoke(app, ["count"])
    assert (said.exit_code, said.stdout) == (0, "seven orders\n")


def test_a_plug_in_that_cannot_be_loaded_is_named_and_the_others_work() -> None:
    broken = [plugin("gone", "no_such_package:app"), plugin("odd", f"{__name__}:NO_APP")]
    app, problems = build([*broken, OURS])
    gone, odd = problems
    assert gone.startswith("plug-in gone (no_such_package:app) is left out: ")
    assert "No module named 'no_such_package'" in gone
    assert odd.startswith("plug-in odd (")
    assert odd.endswith("it is neither a typer.Typer nor a function")
    assert "apply" in CliRunner().invoke(app, ["topics", "--help"]).stdout


def test_of_two_plug_ins_with_one_name_the_second_is_left_out_and_named() -> None:
    _, problems = build([plugin("topics", f"{__name__}:ORDERS"), OURS])
    assert len(problems) == 1
    assert "the name is taken" in problems[0]


def test_the_topics_commands_are_a_plug_in_themselves() -> None:
    assert OURS.value in {found.value for found in entry_points(group=GROUP)}


def test_only_the_plug_in_that_is_asked_for_is_loaded_and_all_where_none_is() -> None:
    both = [OURS, THEIRS]
    assert wanted(both, ["orders"]) == [THEIRS]
    assert wanted(both, ["--help"]) == wanted(both, ["oders"]) == wanted(both, []) == both
