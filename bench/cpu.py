"""CPU time of processes, from /proc: what a figure cost, whatever else the machine was doing."""

from __future__ import annotations

import os
from pathlib import Path

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int, *, with_children: bool = False) -> float:
    """User and system time of a process so far; ``with_children`` adds its children, those that ended too.

    A connection of PostgreSQL is a child of its postmaster, so that is how a server is measured.
    """
    fields = _fields(pid)
    if fields is None:
        return 0.0
    own = (int(fields[11]) + int(fields[12])) * _TICK_S
    if not with_children:
        return own
    ended = (int(fields[13]) + int(fields[14])) * _TICK_S
    return own + ended + sum(cpu_seconds(child) for child in _children(pid))


def machine_cpu_seconds() -> float:
    """What all cores together have worked so far, for whomever; waiting for a disk is no work."""
    user, nice, system, _, _, irq, softirq, steal = map(
        int, Path("/proc/stat").read_text().split(maxsplit=9)[1:9]
    )
    return (user + nice + system + irq + softirq + steal) * _TICK_S


def _children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()] if path.exists() else []


def _fields(pid: int) -> list[str] | None:
    """The fields after the command's name; the first is the state. None where the process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
