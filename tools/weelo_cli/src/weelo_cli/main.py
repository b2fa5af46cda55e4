"""``weelo``: puts the commands of all plug-ins under one name. It holds no command itself.

A plug-in is an installed package with an entry point in the group ``weelo.commands``. It names a ``typer.Typer``, whose
commands appear under the entry point's name, or a function, which is the one command of that name. One that cannot
be loaded is named on stderr, and the others work.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import EntryPoint, entry_points
from inspect import isfunction

import typer

GROUP = "weelo.commands"


def build(plugins: Iterable[EntryPoint]) -> tuple[typer.Typer, list[str]]:
    """The whole command line, and one line for each plug-in that could not be taken. Two of one name: the first."""
    app = typer.Typer(
        name="weelo",
        help="Operate Weelo dispatch. Where the system is comes from the environment, else from the local stack of "
        "`make up`. What changes something acts only with --yes. docs/cli.md tells more.",
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
        if isinstance(commands, typer.Typer):
            app.add_typer(commands, name=plugin.name)
        elif isfunction(commands):
            app.command(plugin.name)(commands)
        else:
            problems.append(
                f"plug-in {plugin.name} ({plugin.value}) is left out: it is neither a typer.Typer nor a function"
            )
            continue
        taken.add(plugin.name)
    return app, problems


def wanted(plugins: Iterable[EntryPoint], first_word: Sequence[str]) -> list[EntryPoint]:
    """The plug-ins to load for a command line: those of its first word, or all where that names none.

    Loading all of them takes longer than most commands do.
    """
    found = list(plugins)
    return [one for one in found if one.name in first_word] or found


def main() -> None:
    """Run the command that the arguments name."""
    app, problems = build(wanted(entry_points(group=GROUP), sys.argv[1:2]))
    for problem in problems:
        print(f"weelo: {problem}", file=sys.stderr)
    app()


def _root() -> None:
    """Keeps ``weelo <plug-in> <command>`` even while there is only one plug-in."""
