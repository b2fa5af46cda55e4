"""The dispatcher's settings: what every service has, the apps' tokens, Redis, and its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr

from weelo_common.settings import RedisSettings, Seconds, ServiceSettings, UserTokenSettings


class Settings(ServiceSettings, RedisSettings, UserTokenSettings):
    """Read from the environment: the variable of a field is its name in upper case."""

    offer_token_private_key: SecretStr | None = None
    offer_token_private_key_file: Path | None = None
    """The Ed25519 key, in PEM, that signs offers; it is the dispatcher's alone."""
    offer_token_key_id: Annotated[str, Field(min_length=1, max_length=100)]
    transporter_cache_s: Annotated[int, Field(ge=1, le=3600)] = 300
    position_batch_s: Seconds = 0.02
    """How long positions of many requests are gathered into one record."""
    position_ack_deadline_s: Seconds = 1.0
    """How long a request with positions waits for Kafka before it is answered."""
    order_keep_days: Annotated[float, Field(gt=7, le=365)] = 8.0
    """Longer than Kafka keeps order events (7 days), so that a late repeat meets its order."""
    explain_keep_hours: Annotated[float, Field(gt=0, le=8760)] = 48.0
    """How long what each wave considered is kept."""
