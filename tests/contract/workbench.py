"""A copy of what the contract is made from, to be broken on purpose and put through the tool as `make lint` runs it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from deploy.local.settings import PROJECT

COPIED = ("libs/common/src/weelo_common", "tools/contracts", "schemas", "tests/contract/golden")
EVENTS = "libs/common/src/weelo_common/events"
PATIENCE_S = 60.0  # the tool takes a fraction of a second; two cores may be busy


@dataclass(frozen=True)
class Workbench:
    """The copy, in a folder of the test's own."""

    folder: Path

    @classmethod
    def in_folder(cls, folder: Path) -> Workbench:
        """A fresh copy of the project's contract."""
        for part in COPIED:
            shutil.copytree(PROJECT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "tools" / "__init__.py").touch()
        return cls(folder)

    def edit(self, path: str, old: str, new: str) -> None:
        """Change the one place where ``old`` stands in a file."""
        place = self.folder / path
        text = place.read_text()
        assert text.count(old) == 1, f"{path} holds {old!r} {text.count(old)} times"
        place.write_text(text.replace(old, new))

    def run(self, command: str) -> tuple[int, str]:
        """Exit code and all output of ``python -m tools.contracts <command>`` on the copy."""
        env = os.environ | {
            "PYTHONPATH": f"{self.folder / 'libs/common/src'}:{self.folder}",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        done = subprocess.run(
            [sys.executable, "-m", "tools.contracts", command],
            cwd=self.folder,
            env=env,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr
