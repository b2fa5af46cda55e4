"""Users' tokens: one algorithm, whatever a token's header says."""

from __future__ import annotations

import base64
import datetime as dt
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from weelo_common.auth import MAX_KNOWN_HEADERS, InvalidToken, Principal, Role, TokenVerifier

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


_NOW = int(time.time())
_MOMENTS = st.one_of(
    st.integers(-1000, 1000).filter(lambda away: abs(abs(away) - 10) > 3).map(lambda away: _NOW + away),
    st.floats(_NOW + 100, _NOW + 200),
    st.sampled_from([True, None, 0, 2**70, str(_NOW + 500), "soon", [_NOW + 500]]),
)
_CLAIMS = st.fixed_dictionaries(
    {
        "sub": st.sampled_from(["c-1", "c" * 64, "c" * 65, "", 7, None]),
        "role": st.sampled_from(["customer", "ops", "admin", 7, ["ops"], None]),
        "iss": st.sampled_from(["weelo", "weelo", "weelo", "other", ["weelo"], None]),
        "aud": st.sampled_from(["weelo-apps", "weelo-apps", ["weelo-apps", "other"], "other", [], None]),
        "exp": st.one_of(st.just(_NOW + 500), _MOMENTS),
    },
    optional={
        "iat": _MOMENTS,
        "nbf": _MOMENTS,
        "jti": st.sampled_from(["t-1", 7, None]),
        "name": st.sampled_from(["A", 7]),
        "weird": st.sampled_from([{"a": [1.5]}, 2**80, "\u2028"]),
    },
)


def outcome(taken: TokenVerifier, token: str) -> Principal | str:
    try:
        return taken.verify(token)
    except InvalidToken as refusal:
        return str(refusal)


@given(_CLAIMS)
@settings(max_examples=300, deadline=None)
def test_a_verifier_that_knows_the_header_judges_every_token_as_a_fresh_one_does(
    claims: dict[str, Any],
) -> None:
    knows = verifier("HS256", SECRET)
    knows.verify(jwt.encode(CLAIMS, SECRET, "HS256"))
    token = ".".join(
        [
            jwt.encode(CLAIMS, SECRET, "HS256").partition(".")[0],
            base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("="),
        ]
    )
    signature = jwt.get_algorithm_by_name("HS256").sign(token.encode(), SECRET.encode())
    token += "." + base64.urlsafe_b64encode(signature).decode().rstrip("=")
    # A second may end between two judgements: a token may have run out, or begun, meanwhile.
    before = outcome(verifier("HS256", SECRET), token)
    judged = outcome(knows, token)
    assert judged in (before, outcome(verifier("HS256", SECRET), token))


def test_the_headers_that_are_known_stay_few() -> None:
    taken = verifier("HS256", SECRET)
    for number in range(2 * MAX_KNOWN_HEADERS):
        for _ in range(2):
            token = jwt.encode(CLAIMS, SECRET, "HS256", headers={"kid": str(number)})
            assert taken.verify(token).user_id == "c-1"
    assert len(taken._known_headers) == MAX_KNOWN_HEADERS
