"""The folder of one stack: who holds it, and the file that records what runs in it.

A lock on a file of the folder says whether a stack runs there: the kernel lets go of it when the holder dies,
so a stale file or a reused pid cannot lie. Never deletes a folder's logs or keys.
"""

import fcntl
import json
import os
import time
from pathlib import Path
from typing import Any

from deploy.local.errors import FolderInUse

STACK_FILE = "stack.json"
LOCK_FILE = "lock"
LOCK_POLL_S = 0.05


class RunFolder:
    """`path` is made where it is missing. The lock is this process's until `release()` or its end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stack_file = path / STACK_FILE
        self._lock_fd: int | None = None

    def acquire(self) -> None:
        """Hold the folder. Raises FolderInUse where another stack does."""
        if not self._try_lock():
            raise FolderInUse(
                f"a stack already runs in {self.path} (process {self.holder()}): stop it first, "
                "or set WEELO_RUN_DIR and WEELO_PORT_BASE for another beside it"
            )

    def release(self) -> None:
        """Let go, and remove the record of what ran."""
        if self._lock_fd is not None:
            self.stack_file.unlink(missing_ok=True)
            os.close(self._lock_fd)
            self._lock_fd = None

    def held(self) -> bool:
        """Whether any process, this one too, runs a stack here."""
        if self._lock_fd is not None:
            return True
        if not (self.path / LOCK_FILE).exists():
            return False
        if self._try_lock():
            self._unlock()
            return False
        return True

    def holder(self) -> int:
        """The pid that the holder wrote; 0 where it has not yet. Means something only while `held()`."""
        text = (self.path / LOCK_FILE).read_text(encoding="ascii").strip()
        return int(text) if text.isdigit() else 0

    def wait_free(self, timeout_s: float) -> bool:
        """True once nobody holds the folder, False where that takes longer than `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while self.held():
            if time.monotonic() > deadline:
                return False
            time.sleep(LOCK_POLL_S)
        return True

    def write_record(self, record: dict[str, Any]) -> None:
        """Replace stack.json as a whole. It holds passwords: only its owner reads it."""
        unfinished = self.stack_file.with_suffix(".new")
        unfinished.unlink(missing_ok=True)
        unfinished.touch(mode=0o600)
        unfinished.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        unfinished.replace(self.stack_file)

    def read_record(self) -> dict[str, Any]:
        """What runs here; empty where nothing does or it is still starting."""
        try:
            record: dict[str, Any] = json.loads(self.stack_file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        return record

    def _try_lock(self) -> bool:
        self.path.mkdir(parents=True, exist_ok=True)
        fd = os.open(self.path / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        os.ftruncate(fd, 0)
        os.write(fd, str(os.getpid()).encode("ascii"))
        self._lock_fd = fd
        return True

    def _unlock(self) -> None:
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None
