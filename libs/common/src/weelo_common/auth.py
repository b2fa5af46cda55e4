"""Bearer tokens of the apps: one algorithm, fixed by the settings and never by a token's header."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

import jwt

from weelo_common.settings import UserTokenSettings, secret_text

MAX_TOKEN_LENGTH = 8192  # characters; a longer one is refused unread
MAX_ID_LENGTH = 64


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


class TokenVerifier:
    """Checks tokens against one key."""

    def __init__(self, *, algorithm: str, key: str, issuer: str, audience: str, leeway_s: int) -> None:
        """Raises ValueError where the key does not fit the algorithm."""
        self._algorithm = algorithm
        self._issuer = issuer
        self._audience = audience
        self._leeway_s = leeway_s
        try:
            self._key = jwt.get_algorithm_by_name(algorithm).prepare_key(key)
        except (ValueError, TypeError, jwt.PyJWTError) as error:
            raise ValueError(f"the key for {algorithm} tokens cannot be read: {error}") from None

    @classmethod
    def from_settings(cls, settings: UserTokenSettings) -> TokenVerifier:
        """The verifier that the settings describe.

        Raises:
            ValueError: a key is missing or unreadable; the text names the setting.
        """
        if settings.jwt_algorithm == "HS256":
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

    def verify(self, token: str) -> Principal:
        """Who the token speaks for.

        Raises:
            InvalidToken: it does not hold.
        """
        if len(token) > MAX_TOKEN_LENGTH:
            raise InvalidToken("the token is too long")
        try:
            claims = jwt.decode(
                token,
                self._key,
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


def _text(value: object) -> str:
    """The claim's text without what PostgreSQL cannot store: NUL and lone surrogates."""
    if not isinstance(value, str):
        return ""
    return value.encode(errors="ignore").decode().replace("\x00", "")[:200]
