"""Settings from the environment: typed, with a unit in the name and a default wherever one is safe.

The variable of a field is its name in upper case. A setting that is missing or wrong stops the start with one
line that names it; its value is never printed.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

Seconds = Annotated[float, Field(gt=0, le=3600)]
PostgresTls = Literal["from-dsn", "disable", "require", "verify-ca", "verify-full"]
Port = Annotated[int, Field(ge=0, le=65_535)]  # 0 lets the system choose, as tests do
SettingsT = TypeVar("SettingsT", bound=BaseSettings)

_HOST_AND_PORT = re.compile(r"^[A-Za-z0-9_.-]+:[0-9]{1,5}$|^\[[0-9A-Fa-f:]+\]:[0-9]{1,5}$")


def _one_of_schemes(*schemes: str) -> AfterValidator:
    """A URL of one of these schemes, with a host or a path."""

    def check(url: SecretStr) -> SecretStr:
        try:
            parts = urlsplit(url.get_secret_value())
            whole = parts.scheme in schemes and bool(parts.netloc or parts.path)
            _ = parts.port
        except ValueError:
            whole = False
        if not whole:
            raise ValueError(f"must be a URL that begins with {' or '.join(f'{s}://' for s in schemes)}")
        return url

    return AfterValidator(check)


def _hosts_and_ports(text: str) -> str:
    if not all(_HOST_AND_PORT.match(one.strip()) for one in text.split(",")):
        raise ValueError("must be host:port, several by comma")
    return text


class Settings(BaseSettings):
    """How every settings class reads the environment: unknown names are others', an empty value is none."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True, env_ignore_empty=True)


class PostgresSettings(Settings):
    """The service's own database. TLS is asked for in the DSN (``sslmode``, ``sslrootcert``) or here."""

    postgres_dsn: Annotated[SecretStr, _one_of_schemes("postgresql", "postgres")]
    postgres_tls: PostgresTls = "from-dsn"
    postgres_tls_ca_file: Path | None = None
    postgres_pool_min: Annotated[int, Field(ge=0, le=100)] = 2
    postgres_pool_max: Annotated[int, Field(ge=2, le=200)] = 12  # the sweep alone needs two
    postgres_connect_deadline_s: Seconds = 3.0
    postgres_acquire_deadline_s: Seconds = 2.0
    """How long a request waits for a free connection before it answers 503."""
    postgres_statement_timeout_s: Seconds = 5.0
    postgres_lock_timeout_s: Seconds = 3.0
    postgres_idle_in_transaction_timeout_s: Seconds = 10.0
    """A frozen process holds a row no longer than this."""
    sweep_period_s: Seconds = 120.0


class KafkaSettings(Settings):
    """The brokers, how to reach them, and the deadlines of every talk with them."""

    kafka_bootstrap_servers: Annotated[str, AfterValidator(_hosts_and_ports)]
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    kafka_sasl_username: str | None = None
    kafka_sasl_password: SecretStr | None = None
    kafka_ssl_cafile: Path | None = None
    kafka_ssl_certfile: Path | None = None
    kafka_ssl_keyfile: Path | None = None
    kafka_topic_prefix: Annotated[str, Field(pattern=r"^[a-zA-Z0-9._-]{0,60}$")] = ""
    """Put before every topic and group, so that environments can share a cluster."""
    kafka_producer_idempotence: bool = True
    """Off only for a broker that refuses idempotent producers; then one batch a partition is in flight."""
    kafka_replication_factor: Annotated[int, Field(ge=-1, le=9)] = -1
    """For the topics job; -1 takes the brokers' own default."""
    kafka_request_deadline_s: Seconds = 5.0
    kafka_session_timeout_s: Annotated[float, Field(ge=6, le=300)] = 10.0
    """A consumer that died is replaced after this."""
    kafka_fetch_max_wait_ms: Annotated[int, Field(ge=1, le=5000)] = 250
    """How long a broker may hold a fetch that has nothing yet; one that has something answers at once."""
    kafka_max_poll_records: Annotated[int, Field(ge=1, le=10_000)] = 500
    kafka_partition_queue_records: Annotated[int, Field(ge=1, le=100_000)] = 1000
    """A partition whose queue holds more is paused until it is half empty."""
    kafka_lag_ready_records: Annotated[int, Field(ge=1)] = 10_000
    """A consumer further behind than this is not ready."""
    kafka_silence_ready_s: Seconds = 15.0
    """A consumer that heard nothing from a broker for this long is not ready."""

    @model_validator(mode="after")
    def _sasl_is_whole(self) -> Self:
        if self.kafka_security_protocol.startswith("SASL") and not (
            self.kafka_sasl_username and self.kafka_sasl_password
        ):
            raise ValueError(
                "KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD go with KAFKA_SECURITY_PROTOCOL=SASL…"
            )
        return self


class ServiceSettings(PostgresSettings, KafkaSettings):
    """What every service has."""

    http_host: str = "127.0.0.1"
    http_port: Port
    http_request_deadline_s: Seconds = 4.0
    """A request that is not answered by then gets a 503, whatever it waits for; the apps wait 10 s."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    shutdown_deadline_s: Seconds = 20.0
    """From SIGTERM to the exit; keep it below the orchestrator's grace period."""
    otel_exporter_otlp_endpoint: str | None = None
    """Where traces go by OTLP over HTTP; without it none leave."""
    otel_traces_sample_ratio: Annotated[float, Field(ge=0, le=1)] = 1.0
    relay_poll_s: Seconds = 0.01
    """How often the relay looks for rows that another process wrote."""
    relay_gather_s: Seconds = 0.01
    """How far apart a relay under load begins its passes, under heavy load 2.5 times as far; few rows do not wait."""
    relay_batch_rows: Annotated[int, Field(ge=1, le=10_000)] = 2000
    """Rows read, sent and deleted together."""
    relay_lease_s: Annotated[float, Field(ge=1, le=60)] = 3.0

    @model_validator(mode="after")
    def _lease_ends_before_a_late_batch(self) -> Self:
        # Without idempotence a batch that the client still retries could come after those of the next owner.
        if not self.kafka_producer_idempotence and self.relay_lease_s > self.kafka_request_deadline_s:
            raise ValueError(
                "RELAY_LEASE_S must not be above KAFKA_REQUEST_DEADLINE_S while KAFKA_PRODUCER_IDEMPOTENCE is off"
            )
        return self


class RedisSettings(Settings):
    """Redis only speeds things up: short deadlines, no retries, a breaker."""

    redis_url: Annotated[SecretStr, _one_of_schemes("redis", "rediss", "unix")]
    redis_deadline_s: Seconds = 0.3
    redis_breaker_failures: Annotated[int, Field(ge=1)] = 3
    redis_breaker_pause_s: Seconds = 1.0
    redis_pool_max: Annotated[int, Field(ge=1, le=1000)] = 64


class UserTokenSettings(Settings):
    """How the apps' bearer tokens are checked: one algorithm, fixed here and never by a token's header."""

    jwt_algorithm: Literal["RS256", "ES256", "EdDSA", "HS256"] = "RS256"
    jwt_public_key: SecretStr | None = None
    jwt_public_key_file: Path | None = None
    jwt_jwks_url: Annotated[SecretStr, _one_of_schemes("https", "http")] | None = None
    """Where the login service publishes its keys; then no key is given here."""
    jwt_jwks_refresh_s: Annotated[float, Field(ge=10, le=86_400)] = 300.0
    jwt_jwks_refetch_s: Annotated[float, Field(ge=1, le=3600)] = 60.0
    """The least time between two fetches for an unknown key id."""
    jwt_secret: SecretStr | None = None
    jwt_issuer: Annotated[str, Field(min_length=1)] = "weelo"
    jwt_audience: Annotated[str, Field(min_length=1)] = "weelo-apps"
    jwt_leeway_s: Annotated[int, Field(ge=0, le=30)] = 10

    @model_validator(mode="after")
    def _key_fits_algorithm(self) -> Self:
        if self.jwt_algorithm == "HS256":
            if self.jwt_secret is None or len(self.jwt_secret.get_secret_value().encode()) < 32:
                raise ValueError("JWT_SECRET must have at least 32 bytes for HS256")
        elif all(key is None for key in (self.jwt_public_key, self.jwt_public_key_file, self.jwt_jwks_url)):
            raise ValueError(
                f"JWT_PUBLIC_KEY, JWT_PUBLIC_KEY_FILE or JWT_JWKS_URL is needed for {self.jwt_algorithm}"
            )
        return self


def secret_text(value: SecretStr | None, file: Path | None, name: str) -> str:
    """A secret given as a variable or as a file.

    Raises:
        ValueError: neither was given, or the file cannot be read; the text names the setting.
    """
    if value is not None:
        return value.get_secret_value()
    if file is None:
        raise ValueError(f"{name} or {name}_FILE is missing")
    try:
        return file.read_text()
    except OSError as error:
        raise ValueError(f"{name}_FILE cannot be read: {error.strerror}") from None


def load(settings_class: type[SettingsT]) -> SettingsT:
    """Settings from the environment; ends the process with one line that names what is wrong."""
    try:
        return settings_class()
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False)[0]
        name = ".".join(str(part) for part in problem["loc"]).upper()
        text = problem["msg"].removeprefix("Value error, ")
        sys.exit(f"bad setting: {name + ': ' if name else ''}{text}")
