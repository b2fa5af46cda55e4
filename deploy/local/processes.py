"""Child processes: start with a log file, wait until ready, signal, stop, start again.

Every long-running child goes through `Nursery`, so that none outlives this process, however it ends. Nothing
here ends a process that it did not start: children are known by their pid and reaped here.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from deploy.local.errors import StackError

LAUNCHER = Path(__file__).with_name("die_with_parent.py")
READY_POLL_S = 0.05  # a start takes 0.1 to 5 s: finer polling would only take CPU from what is starting
LOG_TAIL_LINES = 12  # enough to see why a server did not start
LOG_TAIL_BYTES = 16_384
KILL_TIMEOUT_S = 10.0  # SIGKILL is not refused; what takes longer hangs in the kernel


@dataclass(frozen=True)
class Account:
    """An operating system user to become: its numbers and its name."""

    uid: int
    gid: int
    name: str


@dataclass(frozen=True)
class Command:
    """What to run. `death_signal` is sent by the kernel when this process dies, `stop_signal` by `stop()`."""

    name: str
    argv: Sequence[str]
    log_path: Path
    env: Mapping[str, str]
    cwd: Path | None = None
    account: Account | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    death_signal: signal.Signals = signal.SIGKILL
    stop_timeout_s: float = 20.0
    own_session: bool = True  # a Ctrl-C on the terminal must reach us alone: we stop the children in order
    quiet: bool = field(default=True)  # False: the child writes to our own stdout and stderr


def launcher_argv(command: Command) -> list[str]:
    """The command line that runs `command` through the launcher, in this very process's child."""
    account = command.account
    ids = (str(account.uid), str(account.gid)) if account else ("-", "-")
    return [
        sys.executable,
        "-I",
        "-S",
        str(LAUNCHER),
        str(int(command.death_signal)),
        str(os.getpid()),
        *ids,
        "--",
        *command.argv,
    ]


class Nursery:
    """Forks all children from one thread that lives as long as the stack.

    The kernel counts the THREAD that forked as the parent: a child started from a short-lived worker thread
    would get its death signal as soon as that thread ends.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="nursery")

    def spawn(self, command: Command) -> subprocess.Popen[bytes]:
        """Start `command`; returns at once. Raises OSError where the fork fails."""
        return self._thread.submit(self._spawn, command).result()

    def close(self) -> None:
        """End the thread. Children that still run get their death signal: stop them first."""
        self._thread.shutdown(wait=True)

    @staticmethod
    def _spawn(command: Command) -> subprocess.Popen[bytes]:
        if not command.quiet:
            return subprocess.Popen(
                launcher_argv(command),
                env=dict(command.env),
                cwd=command.cwd,
                start_new_session=command.own_session,
            )
        with command.log_path.open("ab") as log:
            return subprocess.Popen(
                launcher_argv(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(command.env),
                cwd=command.cwd,
                start_new_session=command.own_session,
            )


class Child:
    """One process of the stack. Methods are for one thread at a time; a stopped child can be started again."""

    def __init__(self, nursery: Nursery, command: Command) -> None:
        self.command = command
        self._nursery = nursery
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0  # where in the log this run of the child begins
        self._wanted = False  # False once we ended it: then an end is no surprise

    @property
    def name(self) -> str:
        return self.command.name

    @property
    def pid(self) -> int:
        """Raises StackError where it was never started."""
        if self._process is None:
            raise StackError(f"{self.name} was not started")
        return self._process.pid

    @property
    def log_path(self) -> Path:
        return self.command.log_path

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def died(self) -> bool:
        """True where the process ended though nobody asked it to."""
        return self._wanted and not self.running

    @property
    def exit_code(self) -> int | None:
        """None while it runs or was never started; negative for a signal's number."""
        return None if self._process is None else self._process.poll()

    def start(self) -> None:
        if self.running:
            return
        log = self.command.log_path
        self._log_start = log.stat().st_size if log.exists() else 0
        self._process = self._nursery.spawn(self.command)
        self._wanted = True

    def wait_until(self, is_ready: Callable[[], bool], timeout_s: float) -> None:
        """Return once `is_ready()` says so. Raises StackError where the child ends first or time runs out."""
        deadline = time.monotonic() + timeout_s
        while not is_ready():
            if not self.running:
                raise StackError(
                    f"{self.name} ended with code {self.exit_code} at its start", self.log_tail()
                )
            if time.monotonic() > deadline:
                raise StackError(f"{self.name} did not answer within {timeout_s:.0f} s", self.log_tail())
            time.sleep(READY_POLL_S)

    def wait_for_answer(self, ask: Callable[[], str | None], timeout_s: float) -> str:
        """What `ask()` answers, once it answers anything. Raises as `wait_until` does."""
        answers: list[str] = []

        def answered() -> bool:
            answer = ask()
            if answer is not None:
                answers.append(answer)
            return answer is not None

        self.wait_until(answered, timeout_s)
        return answers[0]

    def wait(self, timeout_s: float) -> int:
        """The exit code. Raises subprocess.TimeoutExpired where it still runs after `timeout_s`."""
        if self._process is None:
            raise StackError(f"{self.name} was not started")
        return self._process.wait(timeout_s)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._wanted = False
        if self._process is not None and self.running:
            self._process.kill()
            self._process.wait(KILL_TIMEOUT_S)

    def terminate(self) -> None:
        """Ask for an orderly end, without waiting for it."""
        self._wanted = False
        self._signal(self.command.stop_signal)

    def stop(self) -> None:
        """An orderly end; SIGKILL where it takes longer than the command's `stop_timeout_s`. Waits for the end."""
        if self._process is None or not self.running:
            self._wanted = False
            return
        self.thaw()  # a frozen process would sit on its signal until the time-out
        self.terminate()
        try:
            self._process.wait(self.command.stop_timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def freeze(self) -> None:
        """SIGSTOP: the process keeps its sockets and locks and does nothing."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def log_tail(self, lines: int = LOG_TAIL_LINES) -> str:
        """The last lines that this run of the child wrote."""
        if not self.log_path.exists():
            return ""
        with self.log_path.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start, size - LOG_TAIL_BYTES))
            text = log.read().decode(errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self.running:
            self._process.send_signal(number)


def run_to_end(command: Command, timeout_s: float) -> str:
    """Run a short command to its end and return what it printed. Like every child it dies with us.

    Raises StackError where it fails (with its last lines) or takes longer than `timeout_s`.
    """
    try:
        done = subprocess.run(
            launcher_argv(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(command.env),
            cwd=command.cwd,
            timeout=timeout_s,
            start_new_session=command.own_session,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise StackError(f"{command.name} took longer than {timeout_s:.0f} s") from error
    output = done.stdout.decode(errors="replace")
    with command.log_path.open("a", encoding="utf-8") as log:
        log.write(output)
    if done.returncode != 0:
        tail = "\n".join(output.splitlines()[-LOG_TAIL_LINES:])
        raise StackError(f"{command.name} failed with code {done.returncode}", tail)
    return output
