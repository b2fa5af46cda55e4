"""``weelo ledger verify``: judge the running system; exit 0 only where all statements hold."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from weelo_cli.connections import Surroundings
from weelo_cli.conventions import Answer, BadInput, Json, Unavailable, run
from weelo_cli.ledger.report import shown
from weelo_cli.ledger.verify import QUIET_DEADLINE_S, LedgerConfig, LedgerError, verify

app = typer.Typer(
    help="The ledger: that no order is lost, doubled or given twice. Reads only.", no_args_is_help=True
)

Answered = Annotated[
    Path | None, typer.Option(help="File of the order ids that clients were answered 201 with.")
]
QuietDeadline = Annotated[
    float, typer.Option("--quiet-deadline-s", min=0, max=3600, help="How long to wait for traffic to end.")
]


@app.callback()
def _group() -> None:
    """Keeps ``weelo ledger verify`` although there is one command."""


@app.command("verify")
def verify_command(
    answered: Answered = None, quiet_deadline_s: QuietDeadline = QUIET_DEADLINE_S, as_json: Json = False
) -> None:
    """Judge every statement, once traffic has ended. Exits 1 where one does not hold.

    Example: weelo ledger verify --answered answered.txt
    """
    run(_verify(answered, quiet_deadline_s), as_json)


async def _verify(answered: Path | None, quiet_deadline_s: float) -> Answer:
    known = read_answered(answered) if answered else []
    try:
        config = LedgerConfig.from_env(Surroundings.found().env, known)
    except LedgerError as error:
        raise BadInput(f"ledger: {error}") from None
    try:
        report = await verify(replace(config, quiet_deadline_s=quiet_deadline_s))
    except LedgerError as error:
        raise Unavailable(f"ledger: {error}") from None
    evidence = {name: shown(found) for name, found in report.evidence.items()}
    document = {"ok": report.ok, **report.statements, "evidence": evidence, "counts": dict(report.counts)}
    return Answer(document, report.lines(), 0 if report.ok else 1)


def read_answered(path: Path) -> list[str]:
    """Order ids, one a line or as one JSON list.

    Raises:
        BadInput: the file cannot be read.
    """
    try:
        text = path.read_text()
        ids = json.loads(text) if text.lstrip().startswith("[") else text.split()
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot read {path}: {error}") from None
    return [str(order_id) for order_id in ids]
