"""Idempotency keys: how one is read from the headers, and the fingerprint of a request.

After draft-ietf-httpapi-idempotency-key-header: the value is a structured-field string, in quotes; apps in the field
send it bare, so both are understood. Pure; it must never log a key, because callers put anything into one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence

import orjson

HEADERS = ("X-Idempotency-Key", "Idempotency-Key")
MAX_KEY_LENGTH = 255  # characters
_VISIBLE_ASCII = re.compile(r"[\x21-\x7e]+")
_QUOTED = re.compile(r'"((?:[^"\\]|\\["\\])*)"')
_ESCAPED = re.compile(r'\\(["\\])')


class MalformedKey(Exception):
    """The header cannot be taken as an idempotency key; ``header`` names it, the text says what is wrong."""

    def __init__(self, header: str, problem: str) -> None:
        super().__init__(problem)
        self.header = header


def key_of(values: Mapping[str, Sequence[str]]) -> str | None:
    """The key from all values of both headers (by their names in ``HEADERS``); None where there is none.

    Raises:
        MalformedKey: a value is malformed, or two differ.
    """
    found: str | None = None
    for header in HEADERS:
        for value in values.get(header, ()):
            key = _unquoted(header, value.strip(" \t"))
            if found is not None and key != found:
                raise MalformedKey(header, "the idempotency headers have different values")
            found = key
    return found


def fingerprint(understood: object) -> bytes:
    """SHA-256 (32 bytes) of the canonical JSON of what was understood: sorted names, no spaces, UTF-8."""
    return hashlib.sha256(orjson.dumps(understood, option=orjson.OPT_SORT_KEYS)).digest()


def _unquoted(header: str, value: str) -> str:
    if value.startswith('"'):
        quoted = _QUOTED.fullmatch(value)
        if quoted is None:
            raise MalformedKey(
                header, "a quoted key must end with its quote and escape only quotes and backslashes"
            )
        value = _ESCAPED.sub(r"\1", quoted.group(1))
    if not 1 <= len(value) <= MAX_KEY_LENGTH or _VISIBLE_ASCII.fullmatch(value) is None:
        raise MalformedKey(header, f"must have 1 to {MAX_KEY_LENGTH} visible ASCII characters")
    return value
