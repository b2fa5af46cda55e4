"""A service as a process of its own, for tests that kill it, read its log, or call it from threads."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploy.local.processes import Child, Command, Nursery

START_PATIENCE_S = 60.0  # a busy machine takes long over the imports alone


class RunningService:
    """One service. Started again after a kill it has another port: ask for ``base_url`` each time."""

    def __init__(
        self, nursery: Nursery, package: str, log_path: Path, environment: Mapping[str, str]
    ) -> None:
        env = {"PATH": os.environ["PATH"], **environment}
        argv = (sys.executable, "-m", package)
        self._name = package
        self._child = Child(nursery, Command(package, argv, log_path, env, cwd=log_path.parent))
        self._log_path = log_path
        self._port = 0

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start it; returns once it serves."""
        seen = self._log_path.stat().st_size if self._log_path.exists() else 0
        self._child.start()
        give_up_at = time.monotonic() + START_PATIENCE_S
        while True:
            for line in self._lines(seen):
                if line.get("message") == "Service started":
                    self._port = line["httpPort"]
                    return
            if time.monotonic() > give_up_at or not self._child.running:
                raise TimeoutError(f"{self._name} did not start: {self._child.log_tail()}")
            time.sleep(0.02)  # a file tells nobody that it grew

    def kill(self) -> None:
        """``kill -9``."""
        self._child.kill()

    def stop(self) -> None:
        """SIGTERM, and its end."""
        self._child.stop()

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def exit_code(self) -> int | None:
        return self._child.exit_code

    @property
    def running(self) -> bool:
        return self._child.running

    def log(self) -> str:
        """Everything it said, over all its lives."""
        return self._log_path.read_text()

    def _lines(self, start: int) -> list[dict[str, Any]]:
        with self._log_path.open("rb") as log:
            log.seek(start)
            whole = log.read().rpartition(b"\n")[0]
        return [json.loads(line) for line in whole.splitlines() if line.startswith(b"{")]
