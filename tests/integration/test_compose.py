"""docker-compose.yml and the local stack give the services the same settings, and .env holds all that compose wants."""

from __future__ import annotations

import json
import re
from io import StringIO
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from dotenv import dotenv_values

from deploy.compose.prepare import env_text
from deploy.local.keys import StackKeys, ensure_keys
from deploy.local.provision import SERVICES
from deploy.local.servers import Servers
from deploy.local.services import own_env
from weelo_common.offer_tokens import OfferTokenVerifier

PROJECT = Path(__file__).resolve().parents[2]
COMPOSE = (PROJECT / "docker-compose.yml").read_text()
SERVERS = Servers(
    kafka_bootstrap="kafka:9092",
    postgres_admin_dsn="postgresql://postgres@postgres/postgres",
    redis_url="redis://redis",
    kafka_name="Apache Kafka",
    postgres_name="PostgreSQL",
    redis_name="Redis",
    kafka_idempotence=True,
)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> StackKeys:
    return ensure_keys(tmp_path_factory.mktemp("compose") / "keys")


def section(service: str) -> str:
    """The text of one service in docker-compose.yml, and of what it refers to by an anchor."""
    found = re.search(rf"^  {service}:\n((?:    .*\n|\n)+)", COMPOSE, re.MULTILINE)
    assert found is not None, f"{service} is not in docker-compose.yml"
    text = found[1]
    for anchor in set(re.findall(r"\*([a-z-]+)", text)):
        defined = re.search(rf"&{anchor}\n((?:  .*\n)+?)(?=\n|    [a-z])", COMPOSE)
        text += defined[1] if defined else ""
    return text


@pytest.mark.parametrize("service", SERVICES)
def test_compose_gives_a_service_every_setting_that_the_local_stack_gives(
    service: str, keys: StackKeys
) -> None:
    names = set(own_env(service, "postgresql://own", SERVERS, keys)) - {"HTTP_HOST"}  # the image sets it
    text = section(service)
    for name in names:
        assert f"{name.removesuffix('_FILE')}:" in text, f"{service} gets no {name}"


def test_the_offers_private_key_reaches_the_dispatcher_alone() -> None:
    assert [service for service in SERVICES if "OFFER_TOKEN_PRIVATE_KEY" in section(service)] == [
        "dispatcher"
    ]


def test_expiry_gets_no_redis_and_no_users_key() -> None:
    assert not re.search(r"REDIS_URL|JWT_", section("expiry"))


def test_every_port_is_on_loopback() -> None:
    ports = re.findall(r'"([^"]*\d+:\d+)"', "\n".join(re.findall(r"ports: \[(.*)\]", COMPOSE)) + '"')
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_env_holds_everything_that_compose_insists_on(keys: StackKeys) -> None:
    wanted = set(re.findall(r"\$\{([A-Z_]+):\?", COMPOSE))
    given = dotenv_values(stream=StringIO(env_text(keys)))
    assert wanted <= {name for name, value in given.items() if value}
    example = (PROJECT / ".env.example").read_text()
    assert wanted <= set(re.findall(r"^([A-Z_]+)=", example, re.MULTILINE))


def test_the_keys_in_env_can_be_used(keys: StackKeys) -> None:
    given = dotenv_values(stream=StringIO(env_text(keys)))
    load_pem_public_key((given["JWT_PUBLIC_KEY"] or "").encode())
    load_pem_private_key((given["OFFER_TOKEN_PRIVATE_KEY"] or "").encode(), password=None)
    OfferTokenVerifier(given["OFFER_TOKEN_JWKS"] or "")
    assert (given["OFFER_TOKEN_KEY_ID"] or "none") in (given["OFFER_TOKEN_JWKS"] or "")


def test_two_laptops_get_different_passwords(keys: StackKeys) -> None:
    first, second = (dotenv_values(stream=StringIO(env_text(keys))) for _ in range(2))
    assert first["POSTGRES_PASSWORD"] != second["POSTGRES_PASSWORD"]


def test_an_env_that_is_there_keeps_its_passwords_and_gets_the_keys_of_the_folder(
    keys: StackKeys, tmp_path: Path
) -> None:
    first = env_text(keys) + "ORDER_LIFETIME_S=20\n"
    text = env_text(ensure_keys(tmp_path / "other"), first)
    assert len(text.splitlines()) == len(first.splitlines()), "no name twice"
    again = dotenv_values(stream=StringIO(text))
    before = dotenv_values(stream=StringIO(first))
    assert {name for name in before if before[name] != again[name]} == {
        "JWT_PUBLIC_KEY",
        "OFFER_TOKEN_PRIVATE_KEY",
        "OFFER_TOKEN_KEY_ID",
        "OFFER_TOKEN_JWKS",
    }
    assert again["ORDER_LIFETIME_S"] == "20"


def test_the_demo_is_told_the_servers_that_compose_runs() -> None:
    told = json.loads((PROJECT / "deploy/compose/servers.json").read_text())["servers"]
    for name, image in (("kafka", "apache/kafka"), ("postgres", "postgres"), ("redis", "redis")):
        found = re.search(rf"image: {image}:([0-9.]+)", COMPOSE)
        assert found is not None
        assert told[f"{name}_name"].endswith(f" {found[1]}")
