"""Tokens that must never be accepted: forged, altered, of another kind, out of date, or of claims that say nothing.

Most are signed with the right key, by hand, so that nothing but the fault itself can be what refuses them.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Annotated, Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from fastapi import Depends
from prometheus_client import CollectorRegistry

from weelo_common.auth import MAX_TOKEN_LENGTH, InvalidToken, Role, TokenVerifier
from weelo_common.health import Health
from weelo_common.http import Principal, api_router, create_app, principal

KEY = rsa.generate_private_key(65537, 2048)
OTHER_KEY = rsa.generate_private_key(65537, 2048)
SECRET = "a secret of at least thirty-two bytes, and of some more"
NOW = int(time.time())
LEEWAY_S = 10
HEADER: dict[str, Any] = {"alg": "RS256", "typ": "JWT"}
CLAIMS: dict[str, Any] = {
    "sub": "c-1",
    "role": "customer",
    "iss": "weelo",
    "aud": "weelo-apps",
    "exp": NOW + 3600,
}
GONE = object()  # a claim that is left out


def pem(key: Any) -> str:
    text: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return text.decode()


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def rs256(signed: bytes, key: rsa.RSAPrivateKey = KEY) -> bytes:
    return key.sign(signed, padding.PKCS1v15(), SHA256())


def raw(header: bytes, payload: bytes, key: rsa.RSAPrivateKey = KEY) -> str:
    """A token of any bytes, signed by the right key."""
    signed = f"{b64(header)}.{b64(payload)}"
    return f"{signed}.{b64(rs256(signed.encode(), key))}"


def claims(**changes: Any) -> dict[str, Any]:
    return {name: value for name, value in (CLAIMS | changes).items() if value is not GONE}


def signed(header: dict[str, Any] | None = None, **changes: Any) -> str:
    """A token with other claims or another header, signed by the right key."""
    head = {name: value for name, value in (HEADER | (header or {})).items() if value is not GONE}
    return raw(json.dumps(head).encode(), json.dumps(claims(**changes)).encode())


def unsigned(algorithm: str, signature: str = "") -> str:
    header = json.dumps({"alg": algorithm, "typ": "JWT"}).encode()
    return f"{b64(header)}.{b64(json.dumps(CLAIMS).encode())}.{signature}"


def hmac_by_public_key(key_text: str) -> str:
    """The old confusion: the public key, which everybody has, taken as an HMAC secret."""
    part = unsigned("HS256").rstrip(".")
    return f"{part}.{b64(hmac.new(key_text.encode(), part.encode(), hashlib.sha256).digest())}"


def altered(part: int, how: Any) -> str:
    parts = signed().split(".")
    parts[part] = how(parts[part])
    return ".".join(parts)


def rewritten(segment: str) -> str:
    """The same bytes written another way: the last character's unused bits are not 0."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return segment[:-1] + alphabet[alphabet.index(segment[-1]) + 1]


GOOD = signed()
JWK = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(OTHER_KEY.public_key()))
BAD: dict[str, str] = {
    "nothing": "",
    "a space": " ",
    "one part": "abc",
    "two parts": GOOD.rpartition(".")[0],
    "four parts": GOOD + ".abc",
    "five parts, as an encrypted token has": GOOD + ".abc.def",
    "only dots": "..",
    "text that is no ASCII": "é.è.ê",
    "too long": GOOD + "A" * MAX_TOKEN_LENGTH,
    "two tokens": f"{GOOD},{GOOD}",
    "quoted": f'"{GOOD}"',
    "no signature": GOOD.rpartition(".")[0] + ".",
    "signature cut by a byte": GOOD[:-4],
    "signature of zeros": altered(2, lambda _: b64(b"\x00" * 256)),
    "signature in another spelling": altered(2, rewritten),
    "signature with padding too much": GOOD + "===",
    "signature turned round": altered(2, lambda part: part[::-1]),
    "signature of another token": altered(2, lambda _: signed(sub="c-2").rpartition(".")[2]),
    "another payload under the signature": altered(1, lambda _: b64(json.dumps(claims(role="ops")).encode())),
    "another header under the signature": altered(0, lambda _: b64(b'{"alg":"RS256","typ":"JWT","kid":"x"}')),
    "signed by another key": raw(json.dumps(HEADER).encode(), json.dumps(CLAIMS).encode(), OTHER_KEY),
    "algorithm none": unsigned("none"),
    "algorithm None": unsigned("None"),
    "algorithm NONE with a signature": unsigned("NONE", GOOD.rpartition(".")[2]),
    "algorithm nOnE": unsigned("nOnE"),
    "algorithm empty": signed({"alg": ""}),
    "algorithm missing": signed({"alg": GONE}),
    "algorithm a number": signed({"alg": 256}),
    "algorithm null": signed({"alg": None}),
    "algorithm a list": signed({"alg": ["RS256"]}),
    "algorithm in small letters": signed({"alg": "rs256"}),
    "algorithm with a space": signed({"alg": "RS256 "}),
    "the public key as an HMAC secret": hmac_by_public_key(pem(KEY)),
    "the public key without its last line as an HMAC secret": hmac_by_public_key(pem(KEY).strip()),
    "an empty HMAC secret": hmac_by_public_key(""),
    "an HMAC by our secret": jwt.encode(CLAIMS, SECRET, "HS256"),
    "RS384 by the right key": jwt.encode(CLAIMS, KEY, "RS384"),
    "RS512 by the right key": jwt.encode(CLAIMS, KEY, "RS512"),
    "PS256 by the right key": jwt.encode(CLAIMS, KEY, "PS256"),
    "ES256 by some key": jwt.encode(CLAIMS, ec.generate_private_key(ec.SECP256R1()), "ES256"),
    "EdDSA by some key": jwt.encode(CLAIMS, ed25519.Ed25519PrivateKey.generate(), "EdDSA"),
    "its own key in the header": jwt.encode(CLAIMS, OTHER_KEY, "RS256", headers={"jwk": JWK}),
    "its own key's address in the header": jwt.encode(
        CLAIMS, OTHER_KEY, "RS256", headers={"jku": "http://127.0.0.1:9/keys", "kid": "1"}
    ),
    "its own certificate's address in the header": jwt.encode(
        CLAIMS, OTHER_KEY, "RS256", headers={"x5u": "http://127.0.0.1:9/cert"}
    ),
    "a file for a key id": jwt.encode(CLAIMS, OTHER_KEY, "RS256", headers={"kid": "../../dev/null"}),
    "a critical header we do not know": signed({"crit": ["weelo-new"], "weelo-new": 1}),
    "a header that is no object": raw(b"[]", json.dumps(CLAIMS).encode()),
    "a header that is no JSON": raw(b"{", json.dumps(CLAIMS).encode()),
    "a header that is no text": raw(b"\xff\xfe", json.dumps(CLAIMS).encode()),
    "a payload that is a list": raw(json.dumps(HEADER).encode(), b"[]"),
    "a payload that is text": raw(json.dumps(HEADER).encode(), b'"customer"'),
    "a payload that is null": raw(json.dumps(HEADER).encode(), b"null"),
    "a payload that is no JSON": raw(json.dumps(HEADER).encode(), b"{"),
    "a payload that is no text": raw(json.dumps(HEADER).encode(), b"\xff\xfe"),
    "an empty payload": raw(json.dumps(HEADER).encode(), b""),
    "a payload nested deep": raw(json.dumps(HEADER).encode(), b'{"a":' * 900 + b"1" + b"}" * 900),
    "not base64": altered(1, lambda part: part[:-2] + "!!"),
    "expired beyond the leeway": signed(exp=NOW - LEEWAY_S - 60),
    "expired at the beginning of time": signed(exp=0),
    "expired before it": signed(exp=-1),
    "no exp": signed(exp=GONE),
    "exp null": signed(exp=None),
    "exp words": signed(exp="tomorrow"),
    "exp a list": signed(exp=[NOW + 3600]),
    "exp past every calendar": signed(exp=10**400),
    "exp infinite": raw(
        json.dumps(HEADER).encode(), json.dumps(claims(exp=0)).replace(": 0", ": Infinity").encode()
    ),
    "exp not a number": raw(
        json.dumps(HEADER).encode(), json.dumps(claims(exp=0)).replace(": 0", ": NaN").encode()
    ),
    "not valid yet": signed(nbf=NOW + 3600),
    "nbf words": signed(nbf="now"),
    "issued in the future": signed(iat=NOW + 3600),
    "no iss": signed(iss=GONE),
    "another iss": signed(iss="weelo-test"),
    "an iss that begins like ours": signed(iss="weelo.example"),
    "iss in capitals": signed(iss="WEELO"),
    "iss a list": signed(iss=["weelo", "other"]),
    "iss null": signed(iss=None),
    "no aud": signed(aud=GONE),
    "another aud": signed(aud="weelo-admin"),
    "other auds": signed(aud=["weelo-admin", "weelo"]),
    "no aud in a list": signed(aud=[]),
    "aud an object": signed(aud={"weelo-apps": True}),
    "aud null": signed(aud=None),
    "no sub": signed(sub=GONE),
    "sub empty": signed(sub=""),
    "sub null": signed(sub=None),
    "sub a number": signed(sub=1),
    "sub a list": signed(sub=["c-1"]),
    "sub of 65 characters": signed(sub="c" * 65),
    "sub with a NUL": signed(sub="c-1\x00"),
    "sub with half a character": signed(sub="c-\ud800"),
    "no role": signed(role=GONE),
    "role empty": signed(role=""),
    "role null": signed(role=None),
    "role unknown": signed(role="admin"),
    "role in capitals": signed(role="CUSTOMER"),
    "role with a space": signed(role="customer "),
    "role a list": signed(role=["customer", "ops"]),
    "role an object": signed(role={"name": "ops"}),
    "role a number": signed(role=1),
}


@pytest.fixture(params=["its first token", "after a good one"])
def verifier(request: pytest.FixtureRequest) -> TokenVerifier:
    fresh = TokenVerifier(
        algorithm="RS256", key=pem(KEY), issuer="weelo", audience="weelo-apps", leeway_s=LEEWAY_S
    )
    if request.param != "its first token":
        fresh.verify(GOOD)  # a header that is known goes the short way
    return fresh


def test_the_token_that_all_bad_ones_are_made_of_is_good(verifier: TokenVerifier) -> None:
    assert verifier.verify(GOOD).role is Role.CUSTOMER
    assert len(BAD) >= 60


@pytest.mark.parametrize("name", BAD)
def test_a_bad_token_is_not_accepted(verifier: TokenVerifier, name: str) -> None:
    with pytest.raises(InvalidToken) as refused:
        verifier.verify(BAD[name])
    assert not BAD[name].strip() or BAD[name] not in str(refused.value)


async def test_a_bad_token_gets_a_401_that_does_not_repeat_it(verifier: TokenVerifier) -> None:
    router = api_router()

    @router.get("/me")
    async def me(caller: Annotated[Principal, Depends(principal())]) -> None:
        raise AssertionError("nobody gets this far")

    app = create_app(
        "test",
        routers=[router],
        health=Health(),
        registry=CollectorRegistry(),
        request_deadline_s=30,
        verifier=verifier,
    )
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        for name, token in BAD.items():
            if not token.isascii():
                continue  # no HTTP client sends it
            answer = await client.get("/api/v1/me", headers={"Authorization": f"Bearer {token}"})
            assert answer.status_code == 401, name
            assert not token.strip() or token not in answer.text, name
