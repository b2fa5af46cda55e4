"""``weelo``: puts the commands of all plug-ins under one name. It holds no command itself.

A plug-in is an installed package with an entry point in the group ``weelo.commands`` that names a ``typer.Typer``; its
commands appear under the entry point's name. A plug-in that cannot be loaded is named on stderr, and the others work.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points

import typer

GROUP = "weelo.commands"


def build(plugins: Iterable[EntryPoint]) -> tuple[typer.Typer, list[str]]:
    """The whole command line, and one line for each plug-in that could not be taken. Two of one name: the first."""
    app = typer.Typer(
        name="weelo",
        help="Operate Weelo dispatch. Settings come from the environment, as for the services.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,  # they would print the values of variables
    )
    app.callback()(_root)
    problems: list[str] = []
    taken: set[str] = set()
    for plugin in sorted(plugins, key=lambda one: (one.name, one.value)):
        if plugin.name in taken:
            problems.append(f"plug-in {plugin.name} ({plugin.value}) is left out: the name is taken")
            continue
        try:
            commands = plugin.load()
        except Exception as error:  # noqa: BLE001 - others' code must not take away our commands
            problems.append(
                f"plug-in {plugin.name} ({plugin.value}) is left out: {type(error).__name__}: {error}"
            )
            continue
        if not isinstance(commands, typer.Typer):
            problems.append(f"plug-in {plugin.name} ({plugin.value}) is left out: it is no typer.Typer")
            continue
        taken.add(plugin.name)
        app.add_typer(commands, name=plugin.name)
    return app, problems


def main() -> None:
    """Run the command that the arguments name."""
    app, problems = build(entry_points(group=GROUP))
    for problem in problems:
        print(f"weelo: {problem}", file=sys.stderr)
    app()


def _root() -> None:
    """Keeps ``weelo <plug-in> <command>`` even while there is only one plug-in."""
