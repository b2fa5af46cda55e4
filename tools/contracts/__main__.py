"""The contract's tool: ``python -m tools.contracts write`` or ``check``.

``write`` makes the schemas anew and adds to the baseline; ``check`` changes nothing. Both go through the gate first,
so that nothing which breaks v1 is ever written. The baseline only grows: nobody can take a promise back by accident.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pydantic import ValidationError

from tools.contracts.compatibility import breaks
from tools.contracts.files import (
    BASELINE,
    PROJECT,
    NoBaseline,
    baseline_text,
    differences,
    golden,
    golden_path,
    published,
    read_baseline,
    stray,
)
from tools.contracts.promise import current
from tools.contracts.samples import MissingSample, samples

ADVICE = "Within v1 only additions pass: bring the old back, or make a v2 of it beside v1."


def problems(project: Path) -> list[str]:
    """What stands against the contract as it is on the disk; empty where all is well."""
    found = _broken(project)
    if found:
        return [*found, ADVICE]
    stale = differences(project, _all_files())
    missing = [
        f"{golden_path(name)}: missing" for name in samples() if not (project / golden_path(name)).is_file()
    ]
    if stale or missing:
        return [*stale, *missing, "Run `make contracts` and commit what it writes."]
    return []


def write(project: Path) -> list[str]:
    """Write what is published, the grown baseline, and golden files of events that have none yet.

    Answers the breaks of v1 instead, and writes nothing, where there are any.
    """
    found = _broken(project)
    if found:
        return [*found, ADVICE]
    wanted = _all_files()
    for path in stray(project, wanted):
        (project / path).unlink()
    wanted |= {
        golden_path(name): golden(envelope)
        for name, envelope in samples().items()
        if not (project / golden_path(name)).exists()
    }
    for path, text in wanted.items():
        (project / path).parent.mkdir(parents=True, exist_ok=True)
        (project / path).write_text(text)
    return []


def _broken(project: Path) -> list[str]:
    return [f"broken contract: {one}" for one in breaks(read_baseline(project), current())]


def _all_files() -> dict[Path, str]:
    return published() | {BASELINE: baseline_text(current())}


def main() -> None:
    """Exit 1 with one line for each problem, where there are any."""
    parser = argparse.ArgumentParser(prog="python -m tools.contracts", description=__doc__)
    parser.add_argument("command", choices=["write", "check"])
    command = parser.parse_args().command
    try:
        found = write(PROJECT) if command == "write" else problems(PROJECT)
    except (NoBaseline, MissingSample) as error:
        found = [str(error)]
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        found = [f"tools/contracts/samples.py: the sample of {error.title}: {where}: {first['msg']}"]
    if found:
        sys.exit("\n".join(found))
    print("The event contract is as published; v1 has only grown." if command == "check" else "Written.")


if __name__ == "__main__":
    main()
