"""Settings: what is wrong is named, and no value is shown."""

from __future__ import annotations

import pytest

from weelo_common.settings import RedisSettings, ServiceSettings, UserTokenSettings, load

GOOD = {
    "POSTGRES_DSN": "postgresql://u:p@127.0.0.1/d",
    "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9092",
    "HTTP_PORT": "8001",
}


def test_the_defaults_are_enough_beside_what_only_the_deployment_knows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)
    settings = load(ServiceSettings)
    assert settings.http_port == 8001
    assert "p@127" not in repr(settings)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("POSTGRES_DSN", "", "POSTGRES_DSN"),
        ("POSTGRES_DSN", "nonsense", "POSTGRES_DSN"),
        ("POSTGRES_DSN", "postgresql://h:port/d", "POSTGRES_DSN"),
        ("KAFKA_BOOTSTRAP_SERVERS", ":::", "KAFKA_BOOTSTRAP_SERVERS"),
        ("HTTP_PORT", "eighty", "HTTP_PORT"),
        ("KAFKA_SECURITY_PROTOCOL", "TELEPATHY", "KAFKA_SECURITY_PROTOCOL"),
        ("KAFKA_SECURITY_PROTOCOL", "SASL_SSL", "KAFKA_SASL_USERNAME"),
        ("SHUTDOWN_DEADLINE_S", "-1", "SHUTDOWN_DEADLINE_S"),
        ("KAFKA_TOPIC_PREFIX", "a b", "KAFKA_TOPIC_PREFIX"),
        ("POSTGRES_POOL_MAX", "1", "POSTGRES_POOL_MAX"),
    ],
)
def test_a_bad_setting_stops_the_start_with_one_line_that_names_it(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str
) -> None:
    for good, good_value in GOOD.items():
        monkeypatch.setenv(good, good_value)
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as stopped:
        load(ServiceSettings)
    line = str(stopped.value)
    assert told in line
    assert "\n" not in line
    assert "u:p@" not in line


@pytest.mark.parametrize(
    ("env", "told"),
    [
        ({}, "JWT_PUBLIC_KEY"),
        ({"JWT_ALGORITHM": "HS256", "JWT_SECRET": "too short"}, "JWT_SECRET"),
        ({"JWT_ALGORITHM": "none"}, "JWT_ALGORITHM"),
        ({"JWT_PUBLIC_KEY": "x", "JWT_LEEWAY_S": "31"}, "JWT_LEEWAY_S"),
    ],
)
def test_token_settings_that_are_not_safe_are_refused(
    monkeypatch: pytest.MonkeyPatch, env: dict[str, str], told: str
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match=told):
        load(UserTokenSettings)


def test_a_redis_url_of_another_kind_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "http://127.0.0.1")
    with pytest.raises(SystemExit, match="REDIS_URL"):
        load(RedisSettings)


def test_a_lease_longer_than_a_late_batch_is_refused_where_the_broker_does_not_put_it_right(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in (GOOD | {"KAFKA_PRODUCER_IDEMPOTENCE": "false", "RELAY_LEASE_S": "6"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match="RELAY_LEASE_S"):
        load(ServiceSettings)
