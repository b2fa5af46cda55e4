"""What people type: moments, environments, settings of a service, and where the system is."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
from datetime import UTC, datetime, timedelta
from importlib.metadata import entry_points
from pathlib import Path

import asyncpg
import pytest
from typer.testing import CliRunner, Result

from deploy.local.keys import ensure_keys
from weelo_cli.connections import SERVICES, Surroundings
from weelo_cli.conventions import BadInput
from weelo_cli.main import GROUP, build
from weelo_cli.moments import BEGINNING, moment_of
from weelo_cli.reading import open_reader
from weelo_common.kafka import KafkaUnavailable

SSL_REQUEST = bytes([0, 0, 0, 8]) + (80877103).to_bytes(4)  # PostgreSQL's message protocol, 55.7
TLS_HANDSHAKE = b"\x16\x03"  # RFC 8446, 5.1: a record of a handshake
NOW = datetime(2026, 2, 3, 10, 8, 28, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("10m", NOW - timedelta(minutes=10)),
        ("2h", NOW - timedelta(hours=2)),
        ("3d", NOW - timedelta(days=3)),
        ("45s", NOW - timedelta(seconds=45)),
        ("beginning", BEGINNING),
        ("2026-02-03T10:08:28.123Z", NOW.replace(microsecond=123_000)),
        ("2026-02-03T15:38:28+05:30", NOW),
        ("999999d", BEGINNING),
    ],
)
def test_a_moment_is_ago_or_a_time_or_the_beginning(text: str, moment: datetime) -> None:
    assert moment_of(text, "--since", NOW) == moment


@pytest.mark.parametrize("text", ["", "yesterday", "10", "-5m", "10 m", "2026-02-30T00:00:00Z", "1e3s"])
def test_anything_else_is_no_moment_and_the_option_is_named(text: str) -> None:
    with pytest.raises(BadInput, match="--since"):
        moment_of(text, "--since", NOW)


def weelo(*arguments: str, env: dict[str, str] | None = None) -> Result:
    app, problems = build(entry_points(group=GROUP))
    assert problems == []
    return CliRunner(env=env).invoke(app, list(arguments))


@pytest.fixture
def order_api_env(tmp_path: Path) -> Path:
    keys = ensure_keys(tmp_path / "keys")
    path = tmp_path / "order-api.env"
    path.write_text(
        "# as docker takes them\n"
        "POSTGRES_DSN=postgresql://weelo:hush-hush@db:5432/weelo_order_api\n"
        "export KAFKA_BOOTSTRAP_SERVERS='kafka:9092'\n\n"
        'REDIS_URL="rediss://:also-hush@redis:6379/0"\n'
        "HTTP_PORT=8000\n"
        f"JWT_PUBLIC_KEY_FILE={keys.jwt_public}\n"
        f"OFFER_TOKEN_JWKS_FILE={keys.offer_jwks}\n"
    )
    return path


def test_settings_are_told_with_their_defaults_and_never_a_secret(order_api_env: Path) -> None:
    said = weelo("config", "check", "order-api", "--env-file", str(order_api_env), "--json")
    assert said.exit_code == 0, said.output
    settings = {row["name"]: row for row in json.loads(said.stdout)["settings"]}
    assert (settings["HTTP_PORT"]["value"], settings["HTTP_PORT"]["isDefault"]) == (8000, False)
    assert (settings["ORDER_LIFETIME_S"]["value"], settings["ORDER_LIFETIME_S"]["isDefault"]) == (60, True)
    assert settings["KAFKA_BOOTSTRAP_SERVERS"]["value"] == "kafka:9092"
    assert "hush" not in said.output
    assert "hush" not in weelo("config", "check", "order-api", "--env-file", str(order_api_env)).output


def test_everything_that_is_wrong_is_named_at_once_without_the_values(order_api_env: Path) -> None:
    text = order_api_env.read_text().replace("HTTP_PORT=8000", "HTTP_PORT=hush1\nORDER_LIFETIME_S=hush2")
    order_api_env.write_text(text.replace("kafka:9092", "hush3"))
    said = weelo("config", "check", "order-api", "--env-file", str(order_api_env))
    assert said.exit_code == 1
    names = {line.partition(":")[0] for line in said.stdout.splitlines()}
    assert names == {"HTTP_PORT", "ORDER_LIFETIME_S", "KAFKA_BOOTSTRAP_SERVERS"}
    assert "hush" not in said.output


def test_the_environment_is_as_before_after_a_check(order_api_env: Path) -> None:
    before = dict(os.environ)
    weelo("config", "check", "order-api", "--env-file", str(order_api_env))
    assert dict(os.environ) == before


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_names_its_settings(service: str) -> None:
    said = weelo("config", "check", service, "--env-file", os.devnull)
    assert said.exit_code == 1  # an empty environment starts no service
    assert "POSTGRES_DSN: Field required" in said.stdout


def test_a_line_that_is_none_is_named_by_its_number_alone(tmp_path: Path) -> None:
    path = tmp_path / "broken.env"
    path.write_text("A=1\nhush hush\n")
    said = weelo("config", "check", "order-api", "--env-file", str(path))
    assert (said.exit_code, said.stderr) == (2, f"{path} line 2 is not NAME=value\n")


def test_a_local_stack_is_taken_whole_or_not_at_all(tmp_path: Path) -> None:
    record = tmp_path / "stack.json"
    recorded = {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", "POSTGRES_DSN_EXPIRY": "postgresql://local"}
    record.write_text(json.dumps({"env": recorded}))
    local = Surroundings.of({"WEELO_STACK_FILE": str(record)})
    assert (local.env["POSTGRES_DSN_EXPIRY"], local.local_stack) == ("postgresql://local", record)
    elsewhere = {"WEELO_STACK_FILE": str(record), "KAFKA_BOOTSTRAP_SERVERS": "kafka.example.com:9092"}
    assert Surroundings.of(elsewhere).env == elsewhere
    assert Surroundings.of(elsewhere).local_stack is None


def test_without_a_system_one_line_says_what_to_set(tmp_path: Path) -> None:
    said = weelo("outbox", env={"WEELO_RUN_DIR": str(tmp_path), "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"})
    assert said.exit_code == 2
    assert said.stderr.startswith("POSTGRES_LEDGER_DSN_ORDER_API is not set")
    assert said.stderr.count("\n") == 1


def test_every_command_has_help_with_an_example() -> None:
    groups = weelo("--help").stdout
    for name in sorted(one.name for one in entry_points(group=GROUP)):
        assert name in groups
    for command in (
        ["config", "check"],
        ["dispatch", "explain"],
        *(["dlq", one] for one in ("list", "show", "retry", "drop")),
        *(["events", one] for one in ("tail", "replay")),
        ["lag"],
        ["ledger", "verify"],
        ["order", "show"],
        ["outbox"],
        *(["parked", one] for one in ("list", "replay", "drop")),
        ["token"],
        *(["topics", one] for one in ("check", "apply")),
    ):
        said = weelo(*command, "--help")
        assert said.exit_code == 0
        assert "Example:" in said.stdout, command
        assert "--json" in said.stdout, command


def test_postgresql_is_reached_as_the_services_reach_it(tmp_path: Path) -> None:
    assert Surroundings({}).postgres_tls() is None  # the DSN says
    assert Surroundings({"POSTGRES_TLS": "disable"}).postgres_tls() is False
    unchecked = Surroundings({"POSTGRES_TLS": "require"}).postgres_tls()
    checked = Surroundings({"POSTGRES_TLS": "verify-full"}).postgres_tls()
    assert isinstance(unchecked, ssl.SSLContext)
    assert isinstance(checked, ssl.SSLContext)
    assert unchecked.verify_mode == ssl.CERT_NONE
    assert (checked.verify_mode, checked.check_hostname) == (ssl.CERT_REQUIRED, True)
    with pytest.raises(BadInput, match="POSTGRES_TLS: must be one of"):
        Surroundings({"POSTGRES_TLS": "perhaps"}).postgres_tls()
    with pytest.raises(BadInput, match="POSTGRES_TLS_CA_FILE: FileNotFoundError"):
        Surroundings(
            {"POSTGRES_TLS": "verify-ca", "POSTGRES_TLS_CA_FILE": str(tmp_path / "none.pem")}
        ).postgres_tls()


async def test_a_command_asks_postgresql_for_tls_where_the_environment_does() -> None:
    asked: list[bytes] = []

    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.read(8))
        writer.close()

    async with await asyncio.start_server(server, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        dsn = f"postgresql://nobody@127.0.0.1:{port}/none?sslmode=disable"
        weelo = Surroundings({"POSTGRES_LEDGER_DSN_EXPIRY": dsn, "POSTGRES_TLS": "require"})
        with pytest.raises((OSError, asyncpg.PostgresError)):
            async with weelo.reading("expiry"):
                pass
    assert asked[0] == SSL_REQUEST


async def test_a_command_asks_kafka_for_tls_where_the_environment_does(tmp_path: Path) -> None:
    asked: list[bytes] = []

    async def broker(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.read(2))
        writer.close()

    async with await asyncio.start_server(broker, "127.0.0.1", 0) as listener:
        sasl = {
            "KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{listener.sockets[0].getsockname()[1]}",
            "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
            "KAFKA_SASL_USERNAME": "weelo-cli",
            "KAFKA_SASL_PASSWORD": "hush1",
            "KAFKA_REQUEST_DEADLINE_S": "20",
        }
        with pytest.raises(KafkaUnavailable):
            async with open_reader(Surroundings(sasl).kafka()):
                pass
        with pytest.raises(BadInput, match="KAFKA_SSL_CAFILE: there is no such file"):
            Surroundings({**sasl, "KAFKA_SSL_CAFILE": str(tmp_path / "none.pem")}).kafka()
        with pytest.raises(BadInput, match="KAFKA_SASL_USERNAME"):
            Surroundings({**sasl, "KAFKA_SASL_PASSWORD": ""}).kafka()
    assert set(asked) == {TLS_HANDSHAKE}


def test_a_dsn_that_is_none_is_named_and_not_quoted() -> None:
    dsns = {
        f"POSTGRES_LEDGER_DSN_{name}": "postgresql://…" for name in ("ORDER_API", "DISPATCHER", "NOTIFIER")
    }
    with pytest.raises(BadInput, match="POSTGRES_LEDGER_DSN_EXPIRY is no PostgreSQL DSN") as refused:
        Surroundings({**dsns, "POSTGRES_LEDGER_DSN_EXPIRY": "hush1@postgres"}).check_databases()
    assert "hush1" not in str(refused.value)
