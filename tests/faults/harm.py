"""What faults do to a server: freeze or kill all of its processes at once, as a hung or dead machine would.

It touches only children of the stack under test, by their pids.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from deploy.local.processes import Child

PATIENCE_S = 20.0


def family(pid: int) -> list[int]:
    """A process and all its descendants, parents first: a PostgreSQL is one process a connection."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it ended while we looked
                # After the name, which may hold anything but ends with the last bracket: state, then parent.
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for one in found:
        found.extend(children.get(one, ()))
    return found


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _stands_still(pid: int) -> bool:
    """Whether every thread of a process has stopped, or the process is gone."""
    try:
        states = [(task / "stat").read_text().rpartition(")")[2].split()[0] for task in _threads(pid)]
    except OSError:  # a thread ended while we looked
        return False
    return all(state in "TtZX" for state in states)


def _threads(pid: int) -> list[Path]:
    with contextlib.suppress(OSError):
        return list(Path(f"/proc/{pid}/task").iterdir())
    return []


def _stop(pids: list[int]) -> None:
    """Stop processes, to their last thread: on a busy machine one may go on, and answer, after the signal was sent."""
    _signal(pids, signal.SIGSTOP)
    give_up_at = time.monotonic() + PATIENCE_S
    while not all(map(_stands_still, pids)):
        if time.monotonic() > give_up_at:
            raise AssertionError(f"not stopped: {pids}")
        time.sleep(0.001)


@contextlib.contextmanager
def frozen(server: Child) -> Iterator[None]:
    """The server hangs inside: its sockets stay open and nothing answers."""
    _stop([server.pid])  # first, so that no new child appears while the others are stopped
    pids = family(server.pid)
    _stop(pids)
    try:
        yield
    finally:
        _signal(pids[1:], signal.SIGCONT)
        _signal(pids[:1], signal.SIGCONT)


def kill_whole(server: Child) -> None:
    """``kill -9`` of the server and all its processes; returns when the server is gone."""
    _signal([server.pid], signal.SIGSTOP)
    _signal(family(server.pid)[1:], signal.SIGKILL)
    server.kill()
