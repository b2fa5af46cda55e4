"""What every command shares: how it answers, how it fails, and how it asks before it changes anything.

- ``--json`` gives one JSON document on stdout (a stream gives one a line); without it come lines for people.
- A command that changes something says what it would do and does it only with ``--yes``.
- Exit codes: 0 done, or all is well; 1 it is not as it should be, or the command refuses; 2 bad input or a bad setting;
  3 something that is needed does not answer.
- Names, phone numbers, addresses and tokens are never printed (``redaction``).
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

import asyncpg
import typer

from weelo_common.clock import format_time
from weelo_common.kafka import KafkaUnavailable
from weelo_common.postgres import DatabaseUnavailable

EXIT_NOT_WELL = 1
EXIT_BAD_INPUT = 2
EXIT_UNAVAILABLE = 3
EXIT_INTERRUPTED = 130  # as a shell counts a Ctrl-C

NOT_YET = "nothing was changed: add --yes to do it"

Json = Annotated[bool, typer.Option("--json", help="Answer with one JSON document on stdout.")]
Yes = Annotated[
    bool, typer.Option("--yes", help="Do it. Without this the command only says what it would do.")
]


class CommandError(Exception):
    """Why a command ends, in one line for people, without personal data."""

    exit_code = EXIT_NOT_WELL


class Refused(CommandError):
    """It could be done, and must not be, as things are."""


class BadInput(CommandError):
    """An argument, an option or a setting is wrong; the line names it."""

    exit_code = EXIT_BAD_INPUT


class Unavailable(CommandError):
    """A server or a service that is needed does not answer; the same command may succeed later."""

    exit_code = EXIT_UNAVAILABLE


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command found or did: for programs, and for people."""

    document: Mapping[str, Any]
    lines: Sequence[str]
    exit_code: int = 0


STREAMED = Answer({}, ())
"""The answer of a command that has printed all it had to say."""


def preview(would: Mapping[str, Any], lines: Sequence[str]) -> Answer:
    """The answer of a changing command without ``--yes``; ``lines`` say what it would do."""
    return Answer({"done": False, "would": dict(would)}, [*lines, NOT_YET])


def run(work: Coroutine[Any, Any, Answer], as_json: bool) -> None:
    """Do the work of a command, print its answer and end with its exit code; so it stands last in every command."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # what it would say, we say below
    try:
        answer = asyncio.run(work)
    except CommandError as error:
        fail(error, as_json)
    except KafkaUnavailable as error:
        fail(Unavailable(f"Kafka is not available: {error}"), as_json)
    except (
        DatabaseUnavailable,
        asyncpg.PostgresError,
        asyncpg.InterfaceError,
        OSError,
        TimeoutError,
    ) as error:
        fail(Unavailable(f"PostgreSQL is not available: {type(error).__name__}: {error}"), as_json)
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None
    else:
        say(answer, as_json)


def say(answer: Answer, as_json: bool) -> None:
    """Print an answer; leaves the command where its exit code is not 0."""
    if answer is STREAMED:
        return
    if as_json:
        typer.echo(json_text(answer.document, indent=2))
    else:
        for line in answer.lines:
            typer.echo(line)
    if answer.exit_code:
        raise typer.Exit(answer.exit_code)


def fail(error: CommandError, as_json: bool) -> None:
    """Print why a command ends, and end it.

    Raises:
        typer.Exit: always, with the error's exit code.
    """
    if as_json:
        typer.echo(json_text({"error": str(error)}, indent=2))
    typer.echo(str(error), err=True)
    raise typer.Exit(error.exit_code) from None


def json_text(document: object, indent: int | None = None) -> str:
    """JSON as every command writes it; times as the contract has them."""
    return json.dumps(document, ensure_ascii=False, indent=indent, default=_encode)


def _encode(value: object) -> str:
    if isinstance(value, datetime):
        return format_time(value)
    return str(value)
