"""The settings' defaults are the contract's, and a bad one stops the start with one line that names it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from order_api.settings import Settings

GOOD = {
    "POSTGRES_DSN": "postgresql://nobody@127.0.0.1:9/nothing",
    "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9",
    "REDIS_URL": "redis://127.0.0.1:9/0",
    "JWT_ALGORITHM": "HS256",
    "JWT_SECRET": "x" * 32,
    "OFFER_TOKEN_JWKS": (
        '{"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "k",'
        ' "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}'  # RFC 8037, appendix A.2
    ),
    "HTTP_PORT": "0",
}


def test_where_nothing_is_set_the_contracts_numbers_hold() -> None:
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    assert defaults["order_lifetime_s"] == 60
    assert defaults["creates_per_minute"] == 30
    assert (defaults["replay_cache_s"], defaults["idempotency_keep_h"]) == (5 * 60, 24)
    assert defaults["lock_ms"] == 10_000
    assert (defaults["redis_deadline_s"], defaults["redis_breaker_pause_s"]) == (0.3, 1)
    assert (defaults["jwt_algorithm"], defaults["jwt_jwks_refetch_s"], defaults["sweep_period_s"]) == (
        "RS256",
        60,
        120,
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ORDER_LIFETIME_S", "sixty"),
        ("CREATES_PER_MINUTE", "0"),
        ("LOCK_MS", "-1"),
        ("POSTGRES_DSN", ""),
        ("OFFER_TOKEN_JWKS", ""),
        ("OFFER_TOKEN_JWKS", "not json"),
        ("OFFER_TOKEN_JWKS", '{"keys": []}'),
        ("JWT_SECRET", "short"),
    ],
)
def test_a_bad_setting_stops_the_start_with_one_line_that_names_it(name: str, value: str) -> None:
    env = {"PATH": os.environ["PATH"]} | GOOD | {name: value}
    ended = subprocess.run(
        [sys.executable, "-m", "order_api"], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    lines = ended.stderr.strip().splitlines()
    assert ended.returncode != 0
    assert len(lines) == 1, ended.stderr
    assert name in lines[0]
    assert value not in lines[0] or len(value) < 8
