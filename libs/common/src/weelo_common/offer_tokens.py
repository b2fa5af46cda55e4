"""Offer tokens: what the dispatcher signs and order-api verifies without asking it (Ed25519).

The private key is the dispatcher's alone. A token's ``exp`` is an orderly bound that is not checked here: the order's
row decides whether an accept comes in time.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

ALGORITHM = "EdDSA"
MAX_TOKEN_LENGTH = (
    8192  # characters; the longest ids of emoji alone make some 6,500. A longer one is refused unread
)
_TEXT_CLAIMS = {
    "offer_id": "jti",
    "captain_id": "sub",
    "order_id": "orderId",
    "transporter_id": "transporterId",
    "vehicle_type": "vehicleType",
    "vehicle_subtype": "vehicleSubtype",
    "vehicle_number": "vehicleNumber",
}


class InvalidOfferToken(Exception):
    """The token is forged, altered, or signed by a key that is not trusted."""


@dataclass(frozen=True, slots=True)
class OfferClaims:
    """What an offer promises to one captain."""

    offer_id: str
    captain_id: str
    order_id: str
    transporter_id: str
    vehicle_type: str
    vehicle_subtype: str
    vehicle_number: str
    expires_at: datetime


class OfferTokenSigner:
    """Signs offers with the dispatcher's private key."""

    def __init__(self, private_key_pem: str, key_id: str) -> None:
        """Raises ValueError where the PEM holds no Ed25519 private key."""
        key = load_pem_private_key(private_key_pem.encode(), password=None)
        if not isinstance(key, Ed25519PrivateKey):
            raise ValueError("OFFER_TOKEN_PRIVATE_KEY must be an Ed25519 private key in PEM")
        self._key = key
        self._key_id = key_id

    def sign(self, claims: OfferClaims) -> str:
        """The token of one offer; ``exp`` is ``expires_at`` rounded up to the second."""
        payload: dict[str, object] = {claim: getattr(claims, name) for name, claim in _TEXT_CLAIMS.items()}
        payload["exp"] = math.ceil(claims.expires_at.timestamp())
        return jwt.encode(payload, self._key, algorithm=ALGORITHM, headers={"kid": self._key_id})


class OfferTokenVerifier:
    """Verifies offers against the public keys that are trusted, found by ``kid``."""

    def __init__(self, jwks_json: str) -> None:
        """Raises ValueError where the text is no JWKS of Ed25519 keys, each with a ``kid``."""
        try:
            entries = json.loads(jwks_json)["keys"]
            self._keys = {entry["kid"]: jwt.PyJWK(entry, algorithm=ALGORITHM).key for entry in entries}
        except (ValueError, KeyError, TypeError, jwt.PyJWTError) as error:
            raise ValueError(f"OFFER_TOKEN_JWKS is no JWKS of Ed25519 keys with kid: {error}") from None
        if not self._keys or not all(isinstance(key, Ed25519PublicKey) for key in self._keys.values()):
            raise ValueError("OFFER_TOKEN_JWKS must hold Ed25519 public keys")

    def verify(self, token: str) -> OfferClaims:
        """What the token promises.

        Raises:
            InvalidOfferToken: it does not hold.
        """
        if len(token) > MAX_TOKEN_LENGTH:
            raise InvalidOfferToken("the offer token is too long")
        try:
            key = self._keys[jwt.get_unverified_header(token)["kid"]]
            claims = jwt.decode(
                token,
                key,
                algorithms=[ALGORITHM],
                options={"verify_exp": False, "require": ["jti", "sub", "exp"]},
            )
            values = {name: claims[claim] for name, claim in _TEXT_CLAIMS.items()}
            expires_at = datetime.fromtimestamp(int(claims["exp"]), UTC)
        except (jwt.PyJWTError, KeyError, ValueError, TypeError, OverflowError, OSError):
            raise InvalidOfferToken("the offer token is not valid") from None
        if not all(isinstance(value, str) for value in values.values()):
            raise InvalidOfferToken("the offer token is not valid")
        return OfferClaims(**values, expires_at=expires_at)
