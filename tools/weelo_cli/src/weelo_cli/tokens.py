"""Makes users' tokens for a local stack, with the private key that the stack made for itself.

In production tokens come from the login service; there this finds no key.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

ROLES = ("customer", "captain", "transporter", "ops")
ALGORITHM = "RS256"
PRIVATE_KEY_NAME = "jwt_private.pem"
DEFAULT_RUN_DIR = ".run/local"  # where `make up` puts everything, unless WEELO_RUN_DIR says otherwise
DEFAULT_LIFETIME_S = 24 * 60 * 60  # a working day with some to spare
MAX_SUBJECT_LENGTH = 64  # characters, as the services take them


class TokenError(Exception):
    """What stands in the way of a token, in one line."""


def default_keys_dir(env: Mapping[str, str]) -> Path:
    """Where the keys of the stack lie that the environment means."""
    if named := env.get("WEELO_KEYS_DIR"):
        return Path(named)
    return Path(env.get("WEELO_RUN_DIR") or DEFAULT_RUN_DIR) / "keys"


def read_private_key(keys_dir: Path) -> str:
    """The key that signs users' tokens of this stack.

    Raises:
        TokenError: there is none, or it cannot be read.
    """
    path = keys_dir / PRIVATE_KEY_NAME
    try:
        return path.read_text()
    except OSError as error:
        raise TokenError(
            f"cannot read {path} ({error.strerror}): start the stack first (make up), or set WEELO_KEYS_DIR"
        ) from None


def make_token(
    private_key: str | RSAPrivateKey,
    role: str,
    subject: str,
    *,
    name: str | None = None,
    phone: str | None = None,
    lifetime_s: float = DEFAULT_LIFETIME_S,
    issuer: str = "weelo",
    audience: str = "weelo-apps",
) -> str:
    """A bearer token. A ``lifetime_s`` below 0 gives one that has ended, for tests.

    Reading a key from its text takes some 60 ms: whoever makes many tokens gives the key read once.

    Raises:
        TokenError: an unknown role, or a subject that no service takes.
    """
    if role not in ROLES:
        raise TokenError(f"role must be one of {', '.join(ROLES)}, not {role!r}")
    if not 1 <= len(subject) <= MAX_SUBJECT_LENGTH:
        raise TokenError(f"the id must have 1 to {MAX_SUBJECT_LENGTH} characters")
    now = time.time()
    claims: dict[str, object] = {
        "iss": issuer,
        "aud": audience,
        "sub": subject,
        "role": role,
        "iat": int(now),
        "exp": int(now + lifetime_s),
    }
    if name is not None:
        claims["name"] = name
    if phone is not None:
        claims["phone"] = phone
    return jwt.encode(claims, private_key, algorithm=ALGORITHM)
