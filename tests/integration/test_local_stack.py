"""The local stack leaves nothing behind, says what is wrong, and keeps the services' databases apart."""

import asyncio
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pytest

from deploy.local.accounts import remove_folder
from deploy.local.errors import FolderInUse, StackError
from deploy.local.keys import ensure_keys
from deploy.local.ports import HOST, OFFSETS, check_free, free_block
from deploy.local.postgres import find_binaries
from deploy.local.processes import Child, Command, Nursery
from deploy.local.provision import SERVICES
from deploy.local.run_folder import RunFolder
from deploy.local.servers import Servers
from deploy.local.services import own_env, passed_through
from deploy.local.settings import PROJECT, read_settings
from deploy.local.stack import LocalStack

START_TIMEOUT_S = 60
END_TIMEOUT_S = 30
SUPERVISE = (sys.executable, "-m", "deploy.local", "supervise", "--servers-only")


def fast_env(run_dir: Path) -> dict[str, str]:
    """Servers that start in half a second: which broker it is does not matter to who ends whom."""
    given = {"KAFKA_BOOTSTRAP_SERVERS", "POSTGRES_DSN", "REDIS_URL", "TEST_STACK"}
    env = {name: value for name, value in os.environ.items() if name not in given}
    return env | {
        "KAFKA": "tansu",
        "WEELO_PG_FSYNC": "off",
        "WEELO_PORT_BASE": "free",
        "WEELO_RUN_DIR": str(run_dir),
    }


@contextmanager
def supervisor(run_dir: Path) -> Iterator[tuple["subprocess.Popen[str]", dict[str, int]]]:
    """A supervisor that holds three servers, and the servers' pids. Ended and cleaned up in any case."""
    process = subprocess.Popen(
        SUPERVISE, cwd=PROJECT, env=fast_env(run_dir), stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:  # its last line says which broker runs; then all is up and recorded
            if line.startswith("Kafka:"):
                break
        yield process, RunFolder(run_dir).read_record()["pids"]
    finally:
        process.terminate()
        process.communicate(timeout=END_TIMEOUT_S)
        remove_folder(run_dir / "postgres")


def wait_for_end(pidfds: dict[str, int]) -> set[str]:
    """The names of those that still run after `END_TIMEOUT_S`; the kernel tells when a process ends."""
    running = dict(pidfds)
    while running:
        ended, _, _ = select.select(list(running.values()), [], [], END_TIMEOUT_S)
        if not ended:
            break
        running = {name: fd for name, fd in running.items() if fd not in ended}
    for fd in pidfds.values():
        os.close(fd)
    return set(running)


@pytest.mark.parametrize("end_signal", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_supervisor_that_is_killed_or_stopped_leaves_no_process(
    tmp_path: Path, end_signal: signal.Signals
) -> None:
    with supervisor(tmp_path) as (process, pids):
        pidfds = {name: os.pidfd_open(pid) for name, pid in pids.items()}

        process.send_signal(end_signal)

        process.wait(END_TIMEOUT_S)
        assert len(pids) == 3
        assert wait_for_end(pidfds) == set()
        assert not RunFolder(tmp_path).held()


def test_a_stack_starts_in_the_folder_that_a_killed_one_left(tmp_path: Path) -> None:
    with supervisor(tmp_path) as (process, _):
        process.kill()
        process.wait(END_TIMEOUT_S)

        with supervisor(tmp_path) as (_, pids):  # at once: the killed one's PostgreSQL may still be ending
            assert len(pids) == 3


def test_a_second_stack_in_the_same_folder_is_refused_with_the_settings_that_help(tmp_path: Path) -> None:
    with supervisor(tmp_path) as (process, _):
        other = LocalStack(tmp_path, None, env=fast_env(tmp_path))

        with pytest.raises(FolderInUse, match=rf"process {process.pid}.*WEELO_RUN_DIR and WEELO_PORT_BASE"):
            other.start_servers()


def test_a_taken_port_is_named_with_its_server_and_setting(tmp_path: Path) -> None:
    base = free_block()
    port = base + OFFSETS["redis"]
    with socket.create_server((HOST, port)):
        stack = LocalStack(tmp_path, base, env=fast_env(tmp_path))

        with pytest.raises(StackError, match=rf"port {port} \(redis\) is taken: set WEELO_PORT_BASE"):
            stack.start_servers()

    check_free(base, OFFSETS)  # nothing was left listening


def test_a_child_outlives_the_thread_that_asked_for_it(tmp_path: Path) -> None:
    nursery = Nursery()
    sleeper = (sys.executable, "-c", "import time; time.sleep(60)")
    child = Child(nursery, Command(name="sleeper", argv=sleeper, log_path=tmp_path / "log", env={}))
    thread = threading.Thread(target=child.start)
    thread.start()
    thread.join()

    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(timeout_s=0.5)

    child.kill()
    nursery.close()


def test_a_child_that_ends_at_its_start_shows_its_last_words(tmp_path: Path) -> None:
    nursery = Nursery()
    failing = (sys.executable, "-c", "import sys; sys.exit('no disk left')")
    child = Child(nursery, Command(name="server", argv=failing, log_path=tmp_path / "log", env={}))
    child.start()

    with pytest.raises(StackError, match="server ended with code 1") as raised:
        child.wait_until(lambda: False, timeout_s=END_TIMEOUT_S)

    assert raised.value.detail == "no disk left"
    nursery.close()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KAFKA", "rabbit"),
        ("WEELO_PORT_BASE", "eighty"),
        ("WEELO_PORT_BASE", "70000"),
        ("WEELO_PG_FSYNC", "maybe"),
        ("TEST_STACK", "podman"),
        ("WEELO_RUN_DIR", "a:b"),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: str) -> None:
    with pytest.raises(StackError, match=f"^{name} is"):
        read_settings({name: value})


def test_each_service_gets_only_what_is_its_own(tmp_path: Path) -> None:
    keys = ensure_keys(tmp_path)
    servers = Servers("kafka:1", "postgresql://admin:secret@db/postgres", "redis://r", "", "", "", False)
    env = {name: own_env(name, f"postgresql://{name}@db/own", servers, keys) for name in SERVICES}

    assert {name for name, own in env.items() if "OFFER_TOKEN_PRIVATE_KEY_FILE" in own} == {"dispatcher"}
    assert {name for name, own in env.items() if "OFFER_TOKEN_JWKS_FILE" in own} == {"order-api"}
    assert {name for name, own in env.items() if "REDIS_URL" not in own} == {"expiry"}
    assert {name for name, own in env.items() if "JWT_PUBLIC_KEY_FILE" not in own} == {"expiry"}
    assert all(own["POSTGRES_DSN"] == f"postgresql://{name}@db/own" for name, own in env.items())
    assert not any(str(keys.jwt_private) in own.values() for own in env.values())
    assert keys.offer_private.stat().st_mode & 0o077 == 0


def test_the_callers_admin_dsn_and_keys_do_not_reach_a_service() -> None:
    env = {"POSTGRES_DSN": "admin", "OFFER_TOKEN_PRIVATE_KEY_FILE": "key", "ORDER_LIFETIME_S": "20"}

    assert passed_through(env) == {"ORDER_LIFETIME_S": "20"}


@pytest.fixture
def prefix(stack: LocalStack) -> Iterator[str]:
    """A prefix for databases of this test alone; they are dropped at its end."""
    name = f"t{uuid.uuid4().hex[:10]}_"
    yield name
    stack.remove(name)


async def statement(dsn: str, sql: str) -> str:
    connection = await asyncpg.connect(dsn, timeout=10)
    try:
        return str(await connection.execute(sql, timeout=10))
    finally:
        await connection.close()


def in_database_of(dsn: str, other_dsn: str) -> str:
    """The role of `dsn` in the database of `other_dsn`."""
    return dsn.rpartition("/")[0] + "/" + other_dsn.rpartition("/")[2]


async def test_a_service_cannot_reach_another_services_tables(stack: LocalStack, prefix: str) -> None:
    dsns = await asyncio.to_thread(stack.provision, prefix)
    for name in SERVICES:
        await statement(dsns[name], "CREATE TABLE mine (id int)")

    for name in SERVICES:
        for other in set(SERVICES) - {name}:
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied for database"):
                await statement(in_database_of(dsns[name], dsns[other]), "SELECT FROM mine")


async def test_the_ledger_role_reads_every_table_and_writes_none(stack: LocalStack, prefix: str) -> None:
    dsns = await asyncio.to_thread(stack.provision, prefix)
    for name, ledger_dsn in stack.ledger_dsns(prefix).items():
        await statement(dsns[name], "CREATE TABLE mine (id int)")

        assert await statement(ledger_dsn, "SELECT FROM mine") == "SELECT 0"
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await statement(ledger_dsn, "INSERT INTO mine VALUES (1)")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await statement(ledger_dsn, "BEGIN READ WRITE; INSERT INTO mine VALUES (1)")


async def test_every_role_has_the_three_time_limits(stack: LocalStack, prefix: str) -> None:
    dsns = await asyncio.to_thread(stack.provision, prefix)
    names = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
    for name in SERVICES:
        connection = await asyncpg.connect(dsns[name], timeout=10)
        limits = [await connection.fetchval(f"SHOW {limit}") for limit in names]
        await connection.close()

        assert limits == ["10s", "5s", "10s"]


async def test_provisioning_again_keeps_what_is_there(stack: LocalStack, prefix: str) -> None:
    dsns = await asyncio.to_thread(stack.provision, prefix)
    await statement(dsns["expiry"], "CREATE TABLE mine (id int)")

    assert await asyncio.to_thread(stack.provision, prefix) == dsns
    assert await statement(dsns["expiry"], "SELECT FROM mine") == "SELECT 0"


async def test_psql_runs_the_same_sql_as_in_the_postgres_container(stack: LocalStack, prefix: str) -> None:
    admin_dsn = stack.servers.postgres_admin_dsn
    binaries = find_binaries(os.environ["PATH"])
    passwords = {
        f"WEELO_PASSWORD_{name.replace('-', '_').upper()}": "secret" for name in (*SERVICES, "ledger")
    }
    env = passwords | {
        "WEELO_PREFIX": prefix,
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "POSTGRES_DB": admin_dsn,
    }

    await asyncio.to_thread(
        subprocess.run, [PROJECT / "deploy" / "postgres" / "init.sh"], env=env, check=True, timeout=60
    )

    dsns = await asyncio.to_thread(stack.provision, prefix)
    assert await statement(dsns["order-api"], "CREATE TABLE mine (id int)") == "CREATE TABLE"
