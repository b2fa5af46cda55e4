"""What a check found, and the programs that checks ask."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PROGRAM_TIMEOUT_S = 120.0  # promtool's tests of the rules take some 5 s; a busy machine takes its time


@dataclass(frozen=True, order=True)
class Finding:
    """Something wrong: in which file or object, and what."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


class MissingProgram(Exception):
    """A check's program is not on this machine; the message says where it comes from."""


def find_program(name: str, comes_from: str) -> str:
    """The program from PATH, beside this Python, or where Debian puts what is for root. Raises MissingProgram."""
    path = os.pathsep.join(
        (str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath), "/usr/sbin")
    )
    found = shutil.which(name, path=path)
    if found is None:
        raise MissingProgram(f"{name} is not on this machine: {comes_from}")
    return found


def run_program(argv: Sequence[str], cwd: Path | None = None) -> tuple[int, str]:
    """Exit code, and what it said on stdout and stderr."""
    done = subprocess.run(
        list(argv),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=PROGRAM_TIMEOUT_S,
        check=False,
    )
    return done.returncode, done.stdout.decode(errors="replace").strip()


def lines_as_findings(where: str, code: int, output: str) -> list[Finding]:
    """None where the program was content; else each line it said."""
    if code == 0:
        return []
    return [Finding(where, line.strip()) for line in output.splitlines() if line.strip()] or [
        Finding(where, f"refused with code {code} and no word")
    ]
