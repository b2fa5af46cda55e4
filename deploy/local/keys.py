"""The keys of a local stack: RS256 for users' tokens, Ed25519 for offer tokens. Made where they are absent.

For this machine alone: a real deployment brings its own. Private keys are readable by their owner only.
"""

import base64
import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key

RSA_BITS = 2048
RSA_EXPONENT = 65_537
KEY_ID_LENGTH = 16  # hex digits of the public key's SHA-256: enough to tell a few keys apart


@dataclass(frozen=True)
class StackKeys:
    """Where each key lies. `jwt_private` signs users' tokens (the gateway's part; here `make token`)."""

    folder: Path
    jwt_private: Path
    jwt_public: Path
    offer_private: Path
    offer_jwks: Path
    offer_key_id: str

    @cached_property
    def user_key(self) -> RSAPrivateKey:
        """What signs users' tokens. Reading it from its file takes longer than signing a hundred: some 60 ms."""
        key = serialization.load_pem_private_key(self.jwt_private.read_bytes(), password=None)
        if not isinstance(key, RSAPrivateKey):
            raise TypeError(f"{self.jwt_private.name} holds no RSA key")
        return key


def ensure_keys(folder: Path) -> StackKeys:
    """Make what is missing in `folder` and say where everything lies."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    jwt_private = folder / "jwt_private.pem"
    jwt_public = folder / "jwt_public.pem"
    if not (jwt_private.is_file() and jwt_public.is_file()):
        user_key = generate_private_key(public_exponent=RSA_EXPONENT, key_size=RSA_BITS)
        _write_secret(jwt_private, _private_pem(user_key))
        jwt_public.write_bytes(
            user_key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )
    offer_private = folder / "offer_private.pem"
    offer_jwks = folder / "offer_jwks.json"
    if not (offer_private.is_file() and offer_jwks.is_file()):
        _write_secret(offer_private, _private_pem(Ed25519PrivateKey.generate()))
        offer_jwks.write_text(json.dumps(_jwks(offer_private), indent=2) + "\n")
    key_id = json.loads(offer_jwks.read_text())["keys"][0]["kid"]
    return StackKeys(folder, jwt_private, jwt_public, offer_private, offer_jwks, key_id)


def _private_pem(key: RSAPrivateKey | Ed25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write_secret(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(content)


def _jwks(private_key_file: Path) -> dict[str, list[dict[str, str]]]:
    """The public half as RFC 8037 writes it."""
    key = serialization.load_pem_private_key(private_key_file.read_bytes(), password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise TypeError(f"{private_key_file.name} holds no Ed25519 key")
    raw = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    key_id = hashlib.sha256(raw).hexdigest()[:KEY_ID_LENGTH]
    x = base64.urlsafe_b64encode(raw).decode().rstrip("=")
    return {"keys": [{"kty": "OKP", "crv": "Ed25519", "x": x, "kid": key_id, "use": "sig", "alg": "EdDSA"}]}
