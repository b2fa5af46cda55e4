"""Public keys from a JWKS URL: kept in memory, renewed now and then, kept on when the URL is away.

A token signed with a key that is not known yet has the keys fetched again, at most once in a while: a login service
can roll its keys without a restart here, and rubbish tokens cannot make this service hammer it.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import logging
import time
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.error import HTTPError, URLError

import jwt
from cryptography.exceptions import UnsupportedAlgorithm

log = logging.getLogger(__name__)

MAX_JWKS_BYTES = 256 * 1024  # a key set has a few keys of a kilobyte each
FETCH_DEADLINE_S = 2.0  # with the second for its thread, well within a request's own deadline
# Whatever answers at the URL: nobody, no HTTP, no JSON, or JSON that is no key set.
_NO_KEY_SET = (
    URLError,
    OSError,
    http.client.HTTPException,
    ValueError,
    KeyError,
    TypeError,
    RecursionError,
)


class KeysUnavailable(Exception):
    """No key set could be fetched yet: whether a token holds is not known."""


class KeySet:
    """The keys of one JWKS URL that fit one algorithm, by ``kid``."""

    def __init__(self, url: str, *, algorithm: str, refresh_s: float, refetch_s: float) -> None:
        """``refresh_s`` is how often the keys are renewed, ``refetch_s`` the least time between two fetches."""
        self._url = url
        self._algorithm = algorithm
        self._refresh_s = refresh_s
        self._refetch_s = refetch_s
        self._keys: Mapping[str, Any] = {}
        self._fetched_at = float("-inf")
        self._fetching = asyncio.Lock()

    def key(self, kid: str | None) -> Any | None:
        """The key of that id; None where it is not known.

        Raises:
            KeysUnavailable: nothing was fetched yet.
        """
        if not self._keys:
            raise KeysUnavailable("no key set was fetched yet")
        return self._keys.get(kid or "")

    @property
    def trouble(self) -> str | None:
        """None once there are keys, even old ones."""
        return None if self._keys else "no key set was fetched yet"

    async def refetch(self) -> None:
        """Fetch the keys again, unless that was done a moment ago. Never raises: old keys are kept."""
        async with self._fetching:
            if time.monotonic() - self._fetched_at < self._refetch_s:
                return
            self._fetched_at = time.monotonic()
            await self._fetch()

    async def run(self, stop: asyncio.Event) -> None:
        """Fetch the keys, and renew them until stopped."""
        while True:
            async with self._fetching:
                self._fetched_at = time.monotonic()
                await self._fetch()
            if stop.is_set():
                return
            with contextlib.suppress(TimeoutError):
                pause_s = self._refresh_s if self._keys else min(self._refresh_s, self._refetch_s, 5.0)
                await asyncio.wait_for(stop.wait(), pause_s)

    async def _fetch(self) -> None:
        try:
            body = await asyncio.wait_for(asyncio.to_thread(self._read), FETCH_DEADLINE_S + 1)
            keys = self._parse(body)
        except _NO_KEY_SET as error:
            log.warning("Key set not fetched; the known keys stay", extra={"reason": type(error).__name__})
            return
        if not keys:
            log.warning("Key set holds no key for the algorithm; the known keys stay")
            return
        self._keys = keys

    def _read(self) -> bytes:
        # The scheme was checked with the settings: http or https.
        try:
            with urllib.request.urlopen(self._url, timeout=FETCH_DEADLINE_S) as answer:  # noqa: S310
                body: bytes = answer.read(MAX_JWKS_BYTES + 1)
        except HTTPError as refusal:
            refusal.close()
            raise
        if len(body) > MAX_JWKS_BYTES:
            raise ValueError("the key set is too large")
        return body

    def _parse(self, body: bytes) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for entry in json.loads(body)["keys"]:
            if not isinstance(entry, dict):
                continue
            if entry.get("use", "sig") != "sig" or entry.get("alg", self._algorithm) != self._algorithm:
                continue
            try:
                found[str(entry["kid"])] = jwt.PyJWK(entry, algorithm=self._algorithm).key
            except (jwt.PyJWTError, UnsupportedAlgorithm, KeyError, ValueError, TypeError, AttributeError):
                continue  # a key of another kind, or none at all; others of the set may fit
        return found
