"""The notifier's settings; the variable of each is its name in upper case."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from weelo_common.settings import Port, RedisSettings, Seconds, ServiceSettings, UserTokenSettings

Count = Annotated[int, Field(ge=1, le=1_000_000)]


class Settings(RedisSettings, UserTokenSettings, ServiceSettings):
    """Where the sockets are served, and what one client may take of the process."""

    ws_host: str = "127.0.0.1"
    ws_port: Port
    ws_allowed_origins: str = ""
    """Origins of web pages that may connect, separated by commas; ``*`` lets all. Apps, which send none, always may."""
    ws_auth_deadline_s: Seconds = 5.0
    """From the open socket to its ``auth`` frame; also the time for the handshake itself."""
    ws_max_unauthenticated: Count = 100
    ws_max_sockets: Count = 10_000
    """Sockets of this process; more get 503 at the handshake."""
    ws_max_per_user: Count = 5
    ws_max_frame_bytes: Annotated[int, Field(ge=1024, le=1024 * 1024)] = 64 * 1024
    ws_queue_bytes: Annotated[int, Field(ge=4 * 1024, le=1024 * 1024)] = 128 * 1024
    """What may wait in the process for one socket. More waits in its stream, in PostgreSQL, so little is enough."""
    ws_send_buffer_bytes: Annotated[int, Field(ge=0, le=16 * 1024 * 1024)] = 128 * 1024
    """What may wait in the kernel for one socket; 0 leaves it to the kernel, which goes up to some megabytes."""
    ws_slow_deadline_s: Seconds = 5.0
    """A client that does not make room in its full queue for this long is closed with 4429."""
    ws_read_wait_s: Seconds = 10.0
    """For a turn to read a stream from PostgreSQL; a new socket that waits longer is closed with 1012."""
    ws_messages_per_s: Annotated[float, Field(gt=0, le=10_000)] = 10.0
    ws_messages_burst: Count = 60
    """Frames of one client; an ``ack`` of a frame that was sent costs nothing."""
    ws_ping_interval_s: Seconds = 20.0
    ws_ping_deadline_s: Seconds = 20.0
    """A client that sends nothing for this long after a ping is gone; looked at once an interval."""
    ws_close_deadline_s: Seconds = 2.0
    """For the closing handshake; then the connection is cut."""
    ws_drain_wait_s: Annotated[float, Field(ge=0, le=600)] = 0.0
    """Going down: from not ready to the first close, for the load balancer to notice."""
    ws_drain_spread_s: Annotated[float, Field(ge=0, le=600)] = 3.0
    """Going down: the time over which the sockets are closed; keep both below SHUTDOWN_DEADLINE_S."""
    heads_check_s: Seconds = 2.0
    """How often the streams of connected users are compared with what was sent: a lost wake-up costs no more."""

    @field_validator("ws_allowed_origins")
    @classmethod
    def _origins_are_origins(cls, value: str) -> str:
        for origin in filter(None, (part.strip() for part in value.split(","))):
            if origin != "*" and ("://" not in origin or origin.endswith("/")):
                raise ValueError(f"{origin[:60]!r} is no origin such as https://app.example.com")
        return value

    def allowed_origins(self) -> frozenset[str]:
        """The origins of ``WS_ALLOWED_ORIGINS``."""
        return frozenset(filter(None, (part.strip() for part in self.ws_allowed_origins.split(","))))
