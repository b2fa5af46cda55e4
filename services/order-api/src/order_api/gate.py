"""The gate before a create, in Redis: replay, lock and rate limit in one round trip, and one on the way out.

Only a shortcut. Whatever Redis forgets, invents or does not answer, PostgreSQL decides the same; without Redis there is
no lock and no rate limit, and the customer still gets one order.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from dataclasses import dataclass
from typing import Any

from redis.exceptions import NoScriptError

from order_api.intake_store import StoredAnswer
from weelo_common.outage_log import OutageLog
from weelo_common.redis_client import RedisClient, RedisUnavailable

log = logging.getLogger(__name__)

RATE_WINDOW_S = 60  # the limit is "a minute"
_FINGERPRINT_BYTES = 32
_ORDER_ID_BYTES = 36
_STATUS_BYTES = 3

# KEYS: replay, lock, rate. ARGV: has a key, token, lock ms, creates allowed in the window, window ms.
ENTER = """
if ARGV[1] == '1' then
  local kept = redis.call('GET', KEYS[1])
  if kept then return {1, kept} end
end
if not redis.call('SET', KEYS[2], ARGV[2], 'NX', 'PX', ARGV[3]) then return {2} end
local creates = redis.call('INCR', KEYS[3])
if creates == 1 then redis.call('PEXPIRE', KEYS[3], ARGV[5]) end
if creates > tonumber(ARGV[4]) then
  redis.call('DEL', KEYS[2])
  return {3, redis.call('PTTL', KEYS[3])}
end
return {0}
"""
# KEYS: replay, lock. ARGV: token, replay ms, the answer to keep or ''. Only the lock's own token deletes it.
LEAVE = """
if ARGV[3] ~= '' then redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[2]) end
if redis.call('GET', KEYS[2]) == ARGV[1] then return redis.call('DEL', KEYS[2]) end
return 0
"""
_SHA1 = {
    script: hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest() for script in (ENTER, LEAVE)
}


@dataclass(frozen=True, slots=True)
class Replay:
    """An earlier create under this key was answered so."""

    answer: StoredAnswer


@dataclass(frozen=True, slots=True)
class Busy:
    """Another create of this customer is in flight."""


@dataclass(frozen=True, slots=True)
class TooMany:
    """The customer made too many creates in this window; it ends in ``retry_after_s`` seconds."""

    retry_after_s: int


@dataclass(frozen=True, slots=True)
class Names:
    """What one create's slots are called in Redis. Hashed: ids are opaque, and braces mean something in a cluster."""

    replay: str
    lock: str
    rate: str


@dataclass(frozen=True, slots=True)
class Entered:
    """Go on. ``locked`` is false where Redis did not answer; leave all the same."""

    names: Names
    token: str
    locked: bool


class Gate:
    """One customer's creates pass one after the other."""

    def __init__(self, redis: RedisClient, *, lock_ms: int, replay_s: int, creates_per_minute: int) -> None:
        self._redis = redis
        self._lock_ms = lock_ms
        self._replay_ms = replay_s * 1000
        self._creates = creates_per_minute
        self._outages = OutageLog(
            log, begins="Creates go on without Redis", ends="Creates go through Redis again"
        )
        self._leaving: set[asyncio.Task[None]] = set()  # the loop itself holds tasks only weakly

    async def enter(
        self, customer_id: str, endpoint: str, key: str | None
    ) -> Replay | Busy | TooMany | Entered:
        """Look for a replay, then take the lock, then count the create."""
        names = _names(customer_id, endpoint, key)
        # A new one each time: the same customer's other request must not own the lock.
        token = os.urandom(16).hex()
        has_key = "1" if key else "0"
        try:
            found: list[Any] = await self._run(
                ENTER,
                (3, names.replay, names.lock, names.rate),
                (has_key, token, self._lock_ms, self._creates, RATE_WINDOW_S * 1000),
            )
        except RedisUnavailable as error:
            self._outages.waits(str(error))
            return Entered(names, token, locked=False)
        except asyncio.CancelledError:
            # The request's deadline. Redis may give the lock all the same; commands are done in their order.
            self._leave_beside(Entered(names, token, locked=True), customer_id)
            raise
        self._outages.goes_on()
        code = int(found[0])
        if code == 1:
            answer = _unpacked(found[1])
            if answer is not None:
                return Replay(answer)
            log.warning("Kept answer in Redis is malformed", extra={"customerId": customer_id})
            return Entered(names, token, locked=False)
        if code == 2:
            return Busy()
        if code == 3:
            return TooMany(max(1, -(-int(found[1]) // 1000)))
        log.info("Lock acquired", extra={"customerId": customer_id})
        return Entered(names, token, locked=True)

    async def leave(
        self, entered: Entered, customer_id: str, key: str | None, answer: StoredAnswer | None
    ) -> None:
        """Keep the answer for replays, if there is one under a key, and give the lock back."""
        packed = _packed(answer) if answer is not None and key is not None else b""
        names = entered.names
        try:
            released: int = await self._run(
                LEAVE, (2, names.replay, names.lock), (entered.token, self._replay_ms, packed)
            )
        except RedisUnavailable as error:
            if entered.locked:
                log.warning("Lock left to run out", extra={"customerId": customer_id, "reason": str(error)})
            return
        if packed:
            log.info("Idempotency cached", extra={"customerId": customer_id})
        if released:
            log.info("Lock released", extra={"customerId": customer_id})

    def _leave_beside(self, entered: Entered, customer_id: str) -> None:
        """Give the lock back when nobody can wait for it; Redis' own deadline bounds it."""
        leaving = asyncio.create_task(self.leave(entered, customer_id, None, None), name="gate: leave")
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)

    async def _run(self, script: str, keys: tuple[Any, ...], arguments: tuple[Any, ...]) -> Any:
        """Run a script; ``keys`` begins with their number."""
        try:
            return await self._redis.command("EVALSHA", _SHA1[script], *keys, *arguments)
        except NoScriptError:  # a Redis that was restarted or flushed
            return await self._redis.command("EVAL", script, *keys, *arguments)


def _names(customer_id: str, endpoint: str, key: str | None) -> Names:
    customer = f"order-api:{{{_digest(customer_id)}}}"
    return Names(f"{customer}:replay:{_digest(endpoint, key or '')}", f"{customer}:lock", f"{customer}:rate")


def _digest(*parts: str) -> str:
    return hashlib.sha256("\x00".join(parts).encode()).hexdigest()[:32]


def _packed(answer: StoredAnswer) -> bytes:
    return answer.fingerprint + answer.order_id.encode() + f"{answer.status:03d}".encode() + answer.body


def _unpacked(packed: bytes) -> StoredAnswer | None:
    id_end = _FINGERPRINT_BYTES + _ORDER_ID_BYTES
    status = packed[id_end : id_end + _STATUS_BYTES]
    order_id = packed[_FINGERPRINT_BYTES:id_end]
    if len(status) < _STATUS_BYTES or not status.isdigit() or not order_id.isascii():
        return None
    return StoredAnswer(
        fingerprint=packed[:_FINGERPRINT_BYTES],
        status=int(status),
        body=packed[id_end + _STATUS_BYTES :],
        order_id=order_id.decode(),
    )
