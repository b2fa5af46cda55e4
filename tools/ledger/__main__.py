"""``python -m tools.ledger``: judge the stack that the environment names; exit 0 only when all statements hold.

Without the stack's variables in the environment it takes them from the stack that ``make up`` left running.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tools.ledger.report import shown
from tools.ledger.verify import QUIET_DEADLINE_S, LedgerConfig, LedgerError, verify

DEFAULT_RUN_DIR = ".run/local"  # where `make up` records its stack, unless WEELO_RUN_DIR says otherwise


def stack_env(env: dict[str, str]) -> dict[str, str]:
    """The environment, completed by what the running stack recorded of itself.

    Raises:
        LedgerError: the record cannot be read.
    """
    run_dir = Path(env.get("WEELO_RUN_DIR") or DEFAULT_RUN_DIR)
    path = Path(env.get("WEELO_STACK_FILE") or run_dir / "stack.json")
    if "POSTGRES_LEDGER_DSN_ORDER_API" in env or not path.exists():
        return env
    try:
        recorded = json.loads(path.read_text())["env"]
    except (OSError, ValueError, KeyError) as error:
        raise LedgerError(f"cannot read {path}: {type(error).__name__}") from None
    return {**recorded, **env}


def read_answered(path: Path) -> list[str]:
    """Order ids, one a line or as one JSON list.

    Raises:
        LedgerError: the file cannot be read.
    """
    try:
        text = path.read_text()
        ids = json.loads(text) if text.lstrip().startswith("[") else text.split()
    except (OSError, ValueError) as error:
        raise LedgerError(f"cannot read {path}: {error}") from None
    return [str(order_id) for order_id in ids]


def main(arguments: Sequence[str] | None = None) -> int:
    """0: the ledger holds; 1: it does not; 2: it could not be read."""
    parser = argparse.ArgumentParser(prog="python -m tools.ledger", description="Verify the ledger.")
    parser.add_argument(
        "--answered", type=Path, help="file of the order ids that clients were answered 201 with"
    )
    parser.add_argument(
        "--quiet-deadline-s", type=float, default=QUIET_DEADLINE_S, help="how long to wait for traffic to end"
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    options = parser.parse_args(arguments)
    try:
        answered = read_answered(options.answered) if options.answered else []
        config = LedgerConfig.from_env(stack_env(dict(os.environ)), answered)
        report = asyncio.run(verify(replace(config, quiet_deadline_s=options.quiet_deadline_s)))
    except LedgerError as error:
        print(f"ledger: {error}", file=sys.stderr)
        return 2
    if options.json:
        evidence = {name: shown(found) for name, found in report.evidence.items()}
        print(
            json.dumps(
                {"ok": report.ok, **report.statements, "evidence": evidence, "counts": dict(report.counts)},
                indent=2,
            )
        )
    else:
        print("\n".join(report.lines()))
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
