"""Child processes of the fan-out benchmark that are talked to by lines, the phones among them."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from deploy.local.settings import PROJECT


class Talker:
    """A child process that answers lines with lines."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str] | None = None, mark: str = "") -> None:
        self._mark = mark
        self.process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=PROJECT, env=env
        )

    def say(self, line: str) -> None:
        """Send a line."""
        assert self.process.stdin is not None  # noqa: S101 - it is a pipe
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        """The next line that begins with the mark, without it."""
        assert self.process.stdout is not None  # noqa: S101 - it is a pipe
        for line in self.process.stdout:
            if line.startswith(self._mark):
                return line.removeprefix(self._mark).strip()
        sys.exit(f"{self.process.args!r} ended with {self.process.wait()}")

    def ask(self, line: str) -> str:
        """Send a line and return its answer."""
        self.say(line)
        return self.hear()

    def end(self) -> None:
        """End it and wait for that."""
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.communicate(timeout=20)
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def talking(argv: Sequence[str], env: Mapping[str, str] | None = None, mark: str = "") -> Iterator[Talker]:
    """A child process for as long as it is needed."""
    talker = Talker(argv, env, mark)
    try:
        yield talker
    finally:
        talker.end()


@contextlib.contextmanager
def phones(port: int, count: int, **more: Any) -> Iterator[Talker]:
    """Connected phones in a process of their own."""
    with talking([sys.executable, "-m", "bench.fanout_phones"]) as talker:
        answer = talker.ask(json.dumps({"port": port, "sockets": count} | more))
        if answer != "open":
            sys.exit(f"the phones say {answer!r}")
        yield talker
