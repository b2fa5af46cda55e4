"""The words of ``/ws``: frames in, frames out, close codes, and how much a client may talk. Pure: no I/O, no clock.

Whatever a client sends, reading it gives a frame or ``BadFrame``, never another error.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

MAX_EPOCH_CHARACTERS = 64  # our epochs have 36; anything longer was never ours
MAX_OFFSET = 2**63 - 1  # the database's bigint


class CloseCode(IntEnum):
    """Why the server closes a socket. After the first three a client must not come back as it is.

    The library itself closes with 1002 who breaks RFC 6455 and with 1009 whose frame is too long.
    """

    BAD_FRAME = 4400
    NOT_AUTHENTICATED = 4401
    FORBIDDEN_ORIGIN = 4403
    TOKEN_EXPIRED = 4408
    TOO_MANY_CONNECTIONS = 4409
    TOO_SLOW_OR_CHATTY = 4429
    NOT_UTF_8 = 1007
    TOO_BIG = 1009
    INTERNAL_ERROR = 1011
    GOING_DOWN = 1012


class BadFrame(Exception):
    """A client's frame that is none of the contract's; the socket is closed with 4400."""


@dataclass(frozen=True, slots=True)
class Resume:
    """Where a client stands: the last offset that it has seen of a stream."""

    epoch: str
    offset: int


@dataclass(frozen=True, slots=True)
class Auth:
    """The first frame. Without a token, that of the handshake's ``Authorization`` header counts."""

    token: str | None
    resume: Resume | None


@dataclass(frozen=True, slots=True)
class Ack:
    """The client has handled everything up to this offset."""

    offset: int


@dataclass(frozen=True, slots=True)
class Ping:
    """The client asks for a sign of life."""


ClientFrame = Auth | Ack | Ping


def parse(message: str | bytes) -> ClientFrame:
    """A client's frame.

    Raises:
        BadFrame: its text, fit for a close reason, says what is wrong.
    """
    if not isinstance(message, str):
        raise BadFrame("frames are text")
    try:
        frame = json.loads(message)
    except (ValueError, RecursionError):
        raise BadFrame("not JSON") from None
    if not isinstance(frame, dict):
        raise BadFrame("not a JSON object")
    match frame.get("type"):
        case "auth":
            return Auth(_token(frame), _resume(frame))
        case "ack":
            return Ack(_offset(frame, "offset"))
        case "ping":
            return Ping()
        case _:
            raise BadFrame("unknown type")


def ready_frame(
    *, user_id: str, role: str, epoch: str, offset: int, recovered: bool, server_time_ms: int
) -> bytes:
    """The answer to ``auth``; ``offset`` is where the stream stands."""
    return _dump(
        {
            "type": "ready",
            "userId": user_id,
            "role": role,
            "epoch": epoch,
            "offset": offset,
            "recovered": recovered,
            "serverTimeMs": server_time_ms,
        }
    )


def event_head(offset: int) -> bytes:
    """How an event frame begins; the rest of it is stored."""
    return b'{"type":"event","offset":%d,' % offset


def skip_frame(first: int, last: int) -> bytes:
    """Offsets that are not worth sending any more, both ends included."""
    return b'{"type":"skip","from":%d,"to":%d}' % (first, last)


def pong_frame(server_time_ms: int) -> bytes:
    """The answer to ``ping``."""
    return b'{"type":"pong","serverTimeMs":%d}' % server_time_ms


def rejoin(resume: Resume | None, *, epoch: str, head: int, floor: int) -> tuple[int, bool]:
    """Where a socket goes on in a stream, and whether all that it missed follows.

    Without a resume, or where the history is gone or was never ours, it starts at the head.
    """
    if resume is None or resume.epoch != epoch or not floor <= resume.offset <= head:
        return head, False
    return resume.offset, True


class Allowance:
    """A token bucket: ``burst`` frames at once, ``per_s`` in the long run. Times are seconds of one steady clock."""

    __slots__ = ("_at", "_burst", "_left", "_per_s")

    def __init__(self, per_s: float, burst: float, now_s: float) -> None:
        self._per_s = per_s
        self._burst = burst
        self._left = burst
        self._at = now_s

    def take(self, now_s: float) -> bool:
        """Pay for one frame; False where nothing is left."""
        self._left = min(self._burst, self._left + (now_s - self._at) * self._per_s)
        self._at = now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True


def _token(frame: dict[str, Any]) -> str | None:
    token = frame.get("token")
    if token is None:
        return None
    if not isinstance(token, str) or not token.isascii():
        raise BadFrame("token: must be ASCII text")
    return token


def _resume(frame: dict[str, Any]) -> Resume | None:
    resume = frame.get("resume")
    if resume is None:
        return None
    if not isinstance(resume, dict):
        raise BadFrame("resume: must be an object")
    epoch = resume.get("epoch")
    if not isinstance(epoch, str) or len(epoch) > MAX_EPOCH_CHARACTERS:
        raise BadFrame("resume.epoch: must be text")
    return Resume(epoch, _offset(resume, "resume.offset"))


def _offset(frame: dict[str, Any], name: str) -> int:
    offset = frame.get("offset")
    if not isinstance(offset, int) or isinstance(offset, bool) or not 0 <= offset <= MAX_OFFSET:
        raise BadFrame(f"{name}: must be a whole number from 0")
    return offset


def _dump(frame: dict[str, Any]) -> bytes:
    return json.dumps(frame, separators=(",", ":"), ensure_ascii=False).encode()
