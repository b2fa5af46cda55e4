"""Bearer tokens of the apps: one algorithm, fixed by the settings and never by a token's header."""

from __future__ import annotations

import asyncio
import binascii
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import jwt
import orjson

from weelo_common.jwks import KeySet
from weelo_common.settings import UserTokenSettings, secret_text

MAX_TOKEN_LENGTH = 8192  # characters; a longer one is refused unread
MAX_ID_LENGTH = 64
MAX_KNOWN_HEADERS = 32  # an issuer writes one header for each of its keys


class Role(StrEnum):
    """Who a token speaks for."""

    CUSTOMER = "customer"
    CAPTAIN = "captain"
    TRANSPORTER = "transporter"
    OPS = "ops"


class InvalidToken(Exception):
    """The token is missing a claim, expired, forged, or not ours; the text says which, never the token."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls. Name and phone are personal data: they reach no log and no event."""

    user_id: str
    role: Role
    expires_at: datetime
    name: str = field(default="", repr=False)
    phone: str = field(default="", repr=False)


class UnknownKey(InvalidToken):
    """The token names a key that is not in the key set, as far as that is known here."""


class TokenVerifier:
    """Checks tokens against one key, or against the keys of a set by the token's ``kid``."""

    def __init__(
        self, *, algorithm: str, key: str | KeySet, issuer: str, audience: str, leeway_s: int
    ) -> None:
        """Raises ValueError where the key does not fit the algorithm."""
        self._algorithm = algorithm
        self._issuer = issuer
        self._audience = audience
        self._leeway_s = leeway_s
        self._key_set = key if isinstance(key, KeySet) else None
        self._key: Any = None
        self._check = jwt.get_algorithm_by_name(algorithm)
        self._known_headers: dict[bytes, str | None] = {}
        """Headers of tokens that PyJWT found good, as they stand in the token, with their ``kid``."""
        if isinstance(key, str):
            try:
                self._key = self._check.prepare_key(key)
            except (ValueError, TypeError, jwt.PyJWTError) as error:
                raise ValueError(f"the key for {algorithm} tokens cannot be read: {error}") from None

    @classmethod
    def from_settings(cls, settings: UserTokenSettings) -> TokenVerifier:
        """The verifier that the settings describe.

        Raises:
            ValueError: a key is missing or unreadable; the text names the setting.
        """
        key: str | KeySet
        if settings.jwt_jwks_url is not None and settings.jwt_algorithm != "HS256":
            key = KeySet(
                settings.jwt_jwks_url.get_secret_value(),
                algorithm=settings.jwt_algorithm,
                refresh_s=settings.jwt_jwks_refresh_s,
                refetch_s=settings.jwt_jwks_refetch_s,
            )
        elif settings.jwt_algorithm == "HS256":
            key = secret_text(settings.jwt_secret, None, "JWT_SECRET")
        else:
            key = secret_text(settings.jwt_public_key, settings.jwt_public_key_file, "JWT_PUBLIC_KEY")
        return cls(
            algorithm=settings.jwt_algorithm,
            key=key,
            issuer=settings.jwt_issuer,
            audience=settings.jwt_audience,
            leeway_s=settings.jwt_leeway_s,
        )

    @property
    def trouble(self) -> str | None:
        """None where there is a key to check with, else what is the matter."""
        return self._key_set.trouble if self._key_set else None

    async def run(self, stop: asyncio.Event) -> None:
        """Keep the keys fresh until stopped; one fixed key needs nothing."""
        if self._key_set is None:
            await stop.wait()
        else:
            await self._key_set.run(stop)

    async def authenticate(self, token: str) -> Principal:
        """Who the token speaks for; for a key that is not known yet the key set is fetched again first.

        Raises:
            InvalidToken: it does not hold.
            KeysUnavailable: no key set could be fetched yet.
        """
        try:
            return self.verify(token)
        except UnknownKey:
            if self._key_set is None:
                raise
            await self._key_set.refetch()
            return self.verify(token)

    def verify(self, token: str) -> Principal:
        """Who the token speaks for, with the keys at hand.

        Raises:
            InvalidToken: it does not hold.
            KeysUnavailable: no key set could be fetched yet.
        """
        if len(token) > MAX_TOKEN_LENGTH:
            raise InvalidToken("the token is too long")
        claims = self._ordinary(token)
        if claims is None:
            claims = self._decoded(token)
        subject = claims["sub"]
        if (
            not isinstance(subject, str)
            or not 1 <= len(subject) <= MAX_ID_LENGTH
            or subject != _text(subject)
        ):
            raise InvalidToken(f"sub must have 1 to {MAX_ID_LENGTH} characters")
        try:
            role = Role(claims["role"])
            expires_at = datetime.fromtimestamp(int(claims["exp"]), UTC)
        except (ValueError, TypeError, OverflowError, OSError):
            raise InvalidToken("role or exp is not one we know") from None
        return Principal(
            user_id=subject,
            role=role,
            expires_at=expires_at,
            name=_text(claims.get("name")),
            phone=_text(claims.get("phone")),
        )

    def _ordinary(self, token: str) -> dict[str, Any] | None:
        """The claims of a good token that is like any other; None where PyJWT has to look.

        PyJWT spends twice the signature's time around it. What is known to it already (the header, byte for byte) or
        is plain (each claim of the usual type) needs no second thought. This must never accept what PyJWT would not.
        """
        try:
            header, payload, signature = token.encode("ascii").split(b".")
            kid = self._known_headers[header]
            key = self._key if self._key_set is None else self._key_set.key(kid)
            if key is None or not self._check.verify(b"%b.%b" % (header, payload), key, _plain(signature)):
                return None
            claims = orjson.loads(_plain(payload))
            latest = time.time() + self._leeway_s
            if (
                claims["iss"] == self._issuer
                and claims["aud"] == self._audience
                and type(claims["exp"]) is int
                and claims["exp"] > latest - 2 * self._leeway_s
                and type(claims.get("iat", 0)) is int
                and claims.get("iat", 0) <= latest
                and type(claims.get("nbf", 0)) is int
                and claims.get("nbf", 0) <= latest
                and type(claims["sub"]) is str
                and type(claims["role"]) is str
                and type(claims.get("jti", "")) is str
            ):
                return claims  # type: ignore[no-any-return]
        except (ValueError, KeyError, TypeError, AttributeError):
            pass  # PyJWT says what is the matter
        return None

    def _decoded(self, token: str) -> dict[str, Any]:
        try:
            decoded = jwt.decode_complete(
                token,
                self._key_for(token),
                algorithms=[self._algorithm],
                issuer=self._issuer,
                audience=self._audience,
                leeway=self._leeway_s,
                options={"require": ["exp", "iss", "aud", "sub", "role"]},
            )
        except jwt.ExpiredSignatureError:
            raise InvalidToken("the token has expired") from None
        except jwt.MissingRequiredClaimError as error:
            raise InvalidToken(f"the token has no {error.claim}") from None
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError) as error:
            raise InvalidToken(f"the token is not valid ({type(error).__name__})") from None
        if len(self._known_headers) >= MAX_KNOWN_HEADERS:
            del self._known_headers[next(iter(self._known_headers))]
        kid = decoded["header"].get("kid")
        self._known_headers[token.encode().partition(b".")[0]] = kid if isinstance(kid, str) else None
        return decoded["payload"]  # type: ignore[no-any-return]

    def _key_for(self, token: str) -> Any:
        if self._key_set is None:
            return self._key
        kid = jwt.get_unverified_header(token).get("kid")
        key = self._key_set.key(kid if isinstance(kid, str) else None)
        if key is None:
            raise UnknownKey("the token's key is not one we know")
        return key


def _plain(segment: bytes) -> bytes:
    """The bytes that a segment stands for.

    Raises:
        ValueError: it is not the one way to write them that RFC 7515 allows.
    """
    content = urlsafe_b64decode(segment + b"=" * (-len(segment) % 4))
    if urlsafe_b64encode(content).rstrip(b"=") != segment:
        raise binascii.Error("not base64url")
    return content


def _text(value: object) -> str:
    """The claim's text without what PostgreSQL cannot store: NUL and lone surrogates."""
    if not isinstance(value, str):
        return ""
    return value.encode(errors="ignore").decode().replace("\x00", "")[:200]
