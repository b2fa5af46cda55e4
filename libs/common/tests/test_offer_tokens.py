"""Offer tokens: signed by the dispatcher alone, verified without asking it."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from weelo_common.offer_tokens import InvalidOfferToken, OfferClaims, OfferTokenSigner, OfferTokenVerifier

CLAIMS = OfferClaims(
    offer_id="o-1",
    captain_id="k-1",
    order_id="order-1",
    transporter_id="t-1",
    vehicle_type="TRUCK",
    vehicle_subtype="TATA_ACE",
    vehicle_number="DL 1",
    expires_at=datetime(2020, 1, 1, 0, 0, 0, 1000, tzinfo=UTC),
)


def pem(key: Ed25519PrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def jwks(key: Ed25519PrivateKey, key_id: str) -> str:
    entry = json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(key.public_key())) | {"kid": key_id}
    return json.dumps({"keys": [entry]})


KEY = Ed25519PrivateKey.generate()


def test_what_was_signed_is_read_even_after_its_end() -> None:
    token = OfferTokenSigner(pem(KEY), "k1").sign(CLAIMS)
    read = OfferTokenVerifier(jwks(KEY, "k1")).verify(token)
    assert read.expires_at == datetime(2020, 1, 1, 0, 0, 1, tzinfo=UTC)  # rounded up to the second
    assert (read.offer_id, read.captain_id, read.vehicle_number) == ("o-1", "k-1", "DL 1")


def test_the_longest_ids_that_the_contract_allows_make_a_token_that_is_read() -> None:
    truck = "\U0001f69a"  # twelve characters in JSON
    widest = replace(
        CLAIMS,
        captain_id=truck * 64,
        transporter_id=truck * 64,
        vehicle_type=truck * 64,
        vehicle_subtype=truck * 64,
        vehicle_number=truck * 32,
        expires_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    token = OfferTokenSigner(pem(KEY), truck * 100).sign(widest)
    assert len(token) > 6_000
    assert OfferTokenVerifier(jwks(KEY, truck * 100)).verify(token) == widest


def test_another_key_an_unknown_kid_an_altered_body_and_rubbish_are_refused() -> None:
    verifier = OfferTokenVerifier(jwks(KEY, "k1"))
    good = OfferTokenSigner(pem(KEY), "k1").sign(CLAIMS)
    header, body, signature = good.split(".")
    other = OfferTokenSigner(pem(Ed25519PrivateKey.generate()), "k1").sign(CLAIMS)
    forgeries = [
        other,
        OfferTokenSigner(pem(KEY), "k2").sign(CLAIMS),
        f"{header}.{body[:-2]}xx.{signature}",
        jwt.encode({"jti": "o-1"}, "x" * 32, algorithm="HS256", headers={"kid": "k1"}),
        jwt.encode({"jti": "o-1"}, "", algorithm="none", headers={"kid": "k1"}),
        "",
        "a.b.c",
        "x" * 9000,
    ]
    for forgery in forgeries:
        with pytest.raises(InvalidOfferToken):
            verifier.verify(forgery)


@pytest.mark.parametrize("text", ["", "{}", '{"keys": []}', '{"keys": [{"kty": "OKP"}]}', "[]"])
def test_a_key_set_that_is_none_is_refused_at_the_start(text: str) -> None:
    with pytest.raises(ValueError, match="OFFER_TOKEN_JWKS"):
        OfferTokenVerifier(text)
