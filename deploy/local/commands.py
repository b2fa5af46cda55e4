"""The commands `up`, `down`, `status`, `servers` and `run`: arguments, signals, and what people read.

A stack in the background is a process of this module too (`supervise`), which holds it until it is told to
stop; `up` and `down` only start that process and signal it.
"""

import argparse
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from deploy.local.errors import StackError
from deploy.local.kafka_apache import fetch_jars, why_not
from deploy.local.processes import Child, Command, Nursery
from deploy.local.run_folder import RunFolder
from deploy.local.settings import PROJECT, StackSettings, read_settings
from deploy.local.stack import LocalStack, say_on_stderr

START_TIMEOUT_S = 1_000.0  # the first start fetches Kafka's jars
STOP_TIMEOUT_S = 120.0
WATCH_PERIOD_S = 1.0  # how soon a child that died is reported
COMMAND_STOP_TIMEOUT_S = 30.0


def main(argv: Sequence[str]) -> int:
    """Returns the exit code: 0, 1 with one line on stderr, or the code of what `run` ran."""
    arguments = _parser().parse_args(argv)
    try:
        settings = read_settings(os.environ)
        code: int = arguments.run(settings, arguments)
    except StackError as error:
        print(f"local stack: {error}", file=sys.stderr)
        if error.detail:
            print(error.detail, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130  # as a shell counts a Ctrl-C
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m deploy.local", description="The stack without Docker.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: object, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        return command

    add("up", up, "start everything in the background and print where it is")
    add("down", down, "stop what `up` or `servers --background` started")
    add("status", status, "say what runs")
    servers_parser = add("servers", servers, "only PostgreSQL, Redis and Kafka, until Ctrl-C")
    servers_parser.add_argument("--background", action="store_true", help="leave them running")
    run_parser = add("run", run, "start everything, run a command with its addresses, stop everything")
    run_parser.add_argument("command", nargs=argparse.REMAINDER, help="after --")
    add("fetch", fetch, "fetch what the first start would fetch (Kafka's jars), and start nothing")
    supervise_parser = add("supervise", supervise, "hold a stack until SIGTERM (used by `up`)")
    supervise_parser.add_argument("--servers-only", action="store_true")
    return parser


def _stack(settings: StackSettings) -> LocalStack:
    return LocalStack(settings.run_dir, settings.port_base, settings.kafka)


def up(settings: StackSettings, arguments: argparse.Namespace) -> int:
    del arguments
    return _start_in_background(settings, servers_only=False)


def servers(settings: StackSettings, arguments: argparse.Namespace) -> int:
    if arguments.background:
        return _start_in_background(settings, servers_only=True)
    return _hold(settings, servers_only=True)


def supervise(settings: StackSettings, arguments: argparse.Namespace) -> int:
    return _hold(settings, servers_only=arguments.servers_only)


def down(settings: StackSettings, arguments: argparse.Namespace) -> int:
    del arguments
    folder = RunFolder(settings.run_dir)
    if not folder.held():
        print(f"no stack runs in {folder.path}")
        return 0
    pid = folder.holder()
    if pid == 0:
        raise StackError(f"the stack in {folder.path} is only just starting: try again")
    os.kill(pid, signal.SIGTERM)
    if not folder.wait_free(STOP_TIMEOUT_S):
        raise StackError(f"process {pid} did not stop within {STOP_TIMEOUT_S:.0f} s")
    print("stopped")
    return 0


def status(settings: StackSettings, arguments: argparse.Namespace) -> int:
    del arguments
    folder = RunFolder(settings.run_dir)
    record = folder.read_record() if folder.held() else {}
    if not record:
        print(f"{'a stack is starting' if folder.held() else 'no stack runs'} in {folder.path}")
        return 1
    _print_addresses(folder)
    for name, pid in record["pids"].items():
        print(f"  {name:<16} process {pid} {'runs' if Path(f'/proc/{pid}').exists() else 'has ended'}")
    return 0


def fetch(settings: StackSettings, arguments: argparse.Namespace) -> int:
    del arguments
    if settings.kafka == "tansu" or settings.given_kafka or settings.docker:
        return 0
    missing = why_not(os.environ, settings.cache_dir)
    if missing and settings.kafka == "apache":
        raise StackError(f"Apache Kafka cannot run: {missing}")
    if missing:
        print(f"no Apache Kafka here: {missing}; Tansu will run instead")
        return 0
    settings.run_dir.mkdir(parents=True, exist_ok=True)
    fetch_jars(settings.cache_dir, os.environ, settings.run_dir / "kafka.log", say_on_stderr)
    return 0


def run(settings: StackSettings, arguments: argparse.Namespace) -> int:
    command = [*arguments.command]
    if command[:1] == ["--"]:
        command = command[1:]
    if not command:
        raise StackError("run needs a command: python -m deploy.local run -- COMMAND")
    stop = _StopSignal()
    with _stack(settings) as stack:
        stack.start_all()
        stack.record()
        print(stack.kafka_line(), flush=True)
        nursery = Nursery()
        child = Child(
            nursery,
            Command(
                name=command[0],
                argv=command,
                log_path=stack.run_dir / "command.log",
                env=dict(os.environ) | stack.command_env(),
                stop_timeout_s=COMMAND_STOP_TIMEOUT_S,
                own_session=False,  # it is in the foreground: a Ctrl-C reaches it too
                quiet=False,
            ),
        )
        stop.hold()  # from here on a signal ends the command first, then the stack
        child.start()
        try:
            while child.running and not stop.wait(0.1):
                pass
            child.stop()
        finally:
            child.kill()
            nursery.close()
        code = child.exit_code
    if code is None or stop.received:
        return 128 + (stop.received or signal.SIGTERM)
    return code if code >= 0 else 128 - code


def _hold(settings: StackSettings, *, servers_only: bool) -> int:
    stop = _StopSignal()
    with _stack(settings) as stack:
        if servers_only:
            stack.start_servers()
        else:
            stack.start_all()
        stack.record()
        _print_addresses(stack.folder)
        stop.hold()
        reported: set[str] = set()
        while not stop.wait(WATCH_PERIOD_S):
            for child in stack.dead():
                if child.name not in reported:
                    reported.add(child.name)
                    print(f"{child.name} ended with code {child.exit_code}:\n{child.log_tail()}", flush=True)
    return 0


def _start_in_background(settings: StackSettings, *, servers_only: bool) -> int:
    folder = RunFolder(settings.run_dir)
    if folder.held():
        if not folder.read_record():
            raise StackError(f"a stack is starting in {folder.path}")
        print(f"already up in {folder.path}")
        _print_addresses(folder)
        return 0
    settings.run_dir.mkdir(parents=True, exist_ok=True)
    log_path = settings.run_dir / "supervisor.log"
    with log_path.open("wb") as log:
        supervisor = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "deploy.local",
                "supervise",
                *(["--servers-only"] if servers_only else []),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=PROJECT,
            start_new_session=True,
        )
    try:
        _wait_until_up(folder, supervisor, log_path)
    except BaseException:
        supervisor.terminate()
        supervisor.wait(STOP_TIMEOUT_S)
        raise
    _print_addresses(folder)
    return 0


def _wait_until_up(folder: RunFolder, supervisor: "subprocess.Popen[bytes]", log_path: Path) -> None:
    shown = 0
    pause = threading.Event()
    for _ in range(int(START_TIMEOUT_S / 0.1)):
        lines = log_path.read_text(errors="replace").splitlines()
        if folder.read_record().get("supervisor_pid") == supervisor.pid:
            return
        for line in lines[shown:]:
            print(line, file=sys.stderr, flush=True)  # what it says while it starts
        shown = len(lines)
        if supervisor.poll() is not None:
            rest = log_path.read_text(errors="replace").splitlines()[shown:]
            print("\n".join(rest), file=sys.stderr)
            raise StackError("the start failed")
        pause.wait(0.1)
    raise StackError(f"not up within {START_TIMEOUT_S:.0f} s")


def _print_addresses(folder: RunFolder) -> None:
    record = folder.read_record()
    facts, env = record["servers"], record["env"]
    postgres = facts["postgres_admin_dsn"].rpartition("@")[2]
    print(f"  {facts['postgres_name']:<22} {postgres} (the admin's DSN is in {folder.stack_file})")
    print(f"  {facts['redis_name']:<22} {facts['redis_url']}")
    print(f"  {facts['kafka_name']:<22} {facts['kafka_bootstrap']}")
    services = {
        name: value for name, value in env.items() if name.startswith("WEELO_") and name.endswith("_URL")
    }
    for name, value in services.items():
        print(f"  {name:<22} {value}")
    print(record["kafka_line"])
    if services:
        print("a token: make token ROLE=customer ID=c-1 (roles: customer, captain, transporter, ops)")
        print("stop it: make down")
    sys.stdout.flush()


class _StopSignal:
    """SIGINT and SIGTERM. While the stack starts, either raises KeyboardInterrupt, so that the start is undone;
    after `hold()` they only set an event, so that the stop itself runs to its end."""

    def __init__(self) -> None:
        self.received: int = 0
        self._event = threading.Event()
        self._held = False
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)

    def hold(self) -> None:
        self._held = True

    def wait(self, timeout_s: float) -> bool:
        """True once a signal came."""
        return self._event.wait(timeout_s)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.received = number
        self._event.set()
        if not self._held:
            self._held = True  # a second Ctrl-C must not break off the cleaning up
            raise KeyboardInterrupt
