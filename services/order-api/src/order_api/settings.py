"""Settings of order-api; the variable of a field is its name in upper case."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, SecretStr, model_validator

from weelo_common.settings import RedisSettings, ServiceSettings, UserTokenSettings


class Settings(ServiceSettings, RedisSettings, UserTokenSettings):
    """What order-api needs besides what every service has."""

    order_lifetime_s: Annotated[int, Field(ge=1, le=3600)] = 60
    """How long an order searches; the dispatcher's waves scale with it."""
    creates_per_minute: Annotated[int, Field(ge=1, le=100_000)] = 30
    """Of one customer; more get 429."""
    idempotency_keep_h: Annotated[int, Field(ge=1, le=720)] = 24
    """How long PostgreSQL keeps the answer of a create for its retries."""
    replay_cache_s: Annotated[int, Field(ge=1, le=86_400)] = 300
    """How long Redis answers such retries first."""
    lock_ms: Annotated[int, Field(ge=100, le=60_000)] = 10_000
    """A create's lock runs out after this, should its holder die."""
    offer_token_jwks: SecretStr | None = None
    offer_token_jwks_file: Path | None = None
    """The dispatcher's public keys: a JWKS of Ed25519 keys, each with a ``kid``."""

    @model_validator(mode="after")
    def _offer_keys_are_given(self) -> Self:
        if self.offer_token_jwks is None and self.offer_token_jwks_file is None:
            raise ValueError("OFFER_TOKEN_JWKS or OFFER_TOKEN_JWKS_FILE is needed")
        return self
