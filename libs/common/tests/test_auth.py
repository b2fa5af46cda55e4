"""Users' tokens: one algorithm, whatever a token's header says."""

from __future__ import annotations

import base64
import datetime as dt
import json

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from weelo_common.auth import InvalidToken, Role, TokenVerifier

SECRET = "a secret of at least sixty-four bytes, so that every HMAC may use it, and then some"
CLAIMS: dict[str, object] = {
    "sub": "c-1",
    "role": "customer",
    "iss": "weelo",
    "aud": "weelo-apps",
    "exp": dt.datetime(2100, 1, 1, tzinfo=dt.UTC),
}


def verifier(algorithm: str, key: str) -> TokenVerifier:
    return TokenVerifier(algorithm=algorithm, key=key, issuer="weelo", audience="weelo-apps", leeway_s=10)


@pytest.fixture(scope="module")
def private_key() -> RSAPrivateKey:
    return generate_private_key(65537, 2048)


def public_pem(key: RSAPrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def unsigned() -> str:
    parts = [{"alg": "none", "typ": "JWT"}, CLAIMS | {"exp": 4_000_000_000}]
    return (
        ".".join(base64.urlsafe_b64encode(json.dumps(p).encode()).decode().rstrip("=") for p in parts) + "."
    )


@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
def test_a_token_of_another_algorithm_is_refused_though_its_key_is_right(algorithm: str) -> None:
    assert verifier("HS256", SECRET).verify(jwt.encode(CLAIMS, SECRET, "HS256")).role is Role.CUSTOMER
    with pytest.raises(InvalidToken):
        verifier("HS256", SECRET).verify(jwt.encode(CLAIMS, SECRET, algorithm))


@pytest.mark.parametrize("algorithm", ["RS384", "RS512", "PS256"])
def test_a_token_of_the_same_rsa_key_but_another_algorithm_is_refused(
    private_key: RSAPrivateKey, algorithm: str
) -> None:
    taken = verifier("RS256", public_pem(private_key))
    assert taken.verify(jwt.encode(CLAIMS, private_key, "RS256")).user_id == "c-1"
    with pytest.raises(InvalidToken):
        taken.verify(jwt.encode(CLAIMS, private_key, algorithm))


def test_an_unsigned_token_is_refused(private_key: RSAPrivateKey) -> None:
    with pytest.raises(InvalidToken):
        verifier("RS256", public_pem(private_key)).verify(unsigned())
