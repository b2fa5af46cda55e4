"""A phone's side of HTTP: one person, one token, deadlines, and answers as the apps read them.

It reads the envelope of the contract and nothing deeper. It must never raise for an answer of a server, whatever
its status: callers decide by `Answer.status` and `Answer.code`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

import httpx

CALL_DEADLINE_S = 10.0  # a phone's patience; the services answer or say 503 well before
MAX_CONNECTIONS = 64  # as many calls at once as one small machine serves
MAX_TRIES = 5  # of one call whose reply was lost or that met a 503
FIRST_PAUSE_S = 0.25  # doubled with each try: about 4 s in all
API = "/api/v1"


class Unanswered(Exception):
    """No whole answer came: refused, cut off, or past the deadline. The same call may be sent again."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the services listen, without a trailing slash."""

    order_api: str
    dispatcher: str
    notifier: str
    socket: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: `data` of a success, or `code` and the error's `data`. `seconds` from the first byte sent."""

    status: int
    code: str
    data: Mapping[str, Any]
    body: bytes
    replayed: bool
    seconds: float

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300


def new_client() -> httpx.AsyncClient:
    """The connections all phones of this process share. The caller closes it."""
    return httpx.AsyncClient(
        timeout=CALL_DEADLINE_S,
        limits=httpx.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_CONNECTIONS),
        trust_env=False,  # a proxy of the machine has no business with its loopback
    )


class Phone:
    """One person's app: who they are, and calls in their name."""

    def __init__(self, client: httpx.AsyncClient, person_id: str, token: str) -> None:
        self._client = client
        self.person_id = person_id
        self.nickname = person_id.partition("-")[2] or person_id  # without the evening's prefix, for watchers
        self.token = token

    async def call(
        self,
        method: str,
        url: str,
        body: Mapping[str, Any] | None = None,
        *,
        idempotency_key: str | None = None,
    ) -> Answer:
        """Send one call and read its answer.

        Raises:
            Unanswered: no whole answer came within `CALL_DEADLINE_S`.
        """
        headers = {"authorization": f"Bearer {self.token}"}
        if idempotency_key is not None:
            headers["x-idempotency-key"] = idempotency_key
        began = time.perf_counter()
        try:
            response = await self._client.request(method, url, json=body, headers=headers)
        except httpx.TransportError as error:
            raise Unanswered(f"{method} {httpx.URL(url).path}: {type(error).__name__}") from error
        return read_answer(response, time.perf_counter() - began)

    async def insist(
        self,
        method: str,
        url: str,
        body: Mapping[str, Any],
        random: Random,
        *,
        idempotency_key: str | None = None,
    ) -> Answer:
        """The same call again after a lost reply or a 503, at most `MAX_TRIES` in all, with growing pauses.

        For calls that may be repeated: all of the contract's, given a key where an order is created.

        Raises:
            Unanswered: the last try, too, had no answer.
        """
        for attempt in range(1, MAX_TRIES):
            try:
                answer = await self.call(method, url, body, idempotency_key=idempotency_key)
            except Unanswered:
                answer = None
            if answer is not None and answer.status != 503:
                return answer
            await asyncio.sleep(random.uniform(0, FIRST_PAUSE_S * 2**attempt))  # full jitter
        return await self.call(method, url, body, idempotency_key=idempotency_key)


def read_answer(response: httpx.Response, seconds: float) -> Answer:
    """The contract's envelope; an answer that is none has the code `NOT_AN_ENVELOPE`."""
    try:
        envelope = response.json()
        if envelope["success"]:
            code, data = "", envelope["data"]
        else:
            error = envelope["error"]
            code, data = error["code"], error.get("data") or {}
    except (ValueError, KeyError, TypeError):
        code, data = "NOT_AN_ENVELOPE", {}
    replayed = response.headers.get("idempotent-replayed") == "true"
    return Answer(response.status_code, code, data, response.content, replayed, seconds)
