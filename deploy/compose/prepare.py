"""`python -m deploy.compose.prepare`: writes .env for docker-compose.yml, with passwords and keys of its own.

For a laptop alone. It never replaces an .env that is there: its passwords are those of the database volume.
"""

import json
import os
import secrets
import sys
from pathlib import Path

from deploy.local.keys import StackKeys, ensure_keys

PROJECT = Path(__file__).resolve().parents[2]
ENV_FILE = PROJECT / ".env"
KEYS_DIR = PROJECT / ".run" / "compose" / "keys"
PASSWORD_BYTES = 24
PASSWORDS = (
    "POSTGRES_PASSWORD",
    "WEELO_PASSWORD_ORDER_API",
    "WEELO_PASSWORD_DISPATCHER",
    "WEELO_PASSWORD_NOTIFIER",
    "WEELO_PASSWORD_EXPIRY",
    "WEELO_PASSWORD_LEDGER",
)


def env_text(keys: StackKeys) -> str:
    """The file's text: fresh passwords (hex, so that they fit in a DSN), and the keys in one line each."""
    lines = [f"{name}={secrets.token_hex(PASSWORD_BYTES)}" for name in PASSWORDS]
    jwks = json.dumps(json.loads(keys.offer_jwks.read_text()), separators=(",", ":"))
    lines += [
        f"JWT_PUBLIC_KEY={_in_one_line(keys.jwt_public)}",
        f"OFFER_TOKEN_PRIVATE_KEY={_in_one_line(keys.offer_private)}",
        f"OFFER_TOKEN_KEY_ID={keys.offer_key_id}",
        f"OFFER_TOKEN_JWKS='{jwks}'",
    ]
    return "\n".join(lines) + "\n"


def _in_one_line(pem: Path) -> str:
    """In double quotes, where compose reads \\n as a line break."""
    escaped = pem.read_text().strip().replace("\n", "\\n")
    return f'"{escaped}\\n"'


def main() -> int:
    """Returns the exit code; one line says what was done."""
    if ENV_FILE.exists():
        sys.stdout.write(f"{ENV_FILE.name} is there already: nothing changed\n")
        return 0
    text = env_text(ensure_keys(KEYS_DIR))
    with open(os.open(ENV_FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    keys = KEYS_DIR.relative_to(PROJECT)
    sys.stdout.write(
        f"wrote {ENV_FILE.name}; for a token: WEELO_KEYS_DIR={keys} make token ROLE=ops ID=ops-1\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
