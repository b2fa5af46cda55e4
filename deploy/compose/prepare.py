"""`python -m deploy.compose.prepare`: writes .env for docker-compose.yml, with passwords and keys of its own.

For a laptop alone. The passwords of an .env that is there stay: they are those of the database volume. Its keys are
made to fit the key folder, which the local stack uses too, so that `make token` serves both.
"""

import json
import os
import re
import secrets
import sys
from pathlib import Path

from deploy.local.keys import StackKeys, ensure_keys

PROJECT = Path(__file__).resolve().parents[2]
ENV_FILE = PROJECT / ".env"
KEYS_DIR = PROJECT / ".run" / "local" / "keys"
PASSWORD_BYTES = 24
_ASSIGNMENT = re.compile(r"^[A-Z_]+=")
PASSWORDS = (
    "POSTGRES_PASSWORD",
    "WEELO_PASSWORD_ORDER_API",
    "WEELO_PASSWORD_DISPATCHER",
    "WEELO_PASSWORD_NOTIFIER",
    "WEELO_PASSWORD_EXPIRY",
    "WEELO_PASSWORD_LEDGER",
)


def env_text(keys: StackKeys, former: str = "") -> str:
    """The file's text: the passwords of a former one, else fresh ones (hex, so that they fit in a DSN); the keys in
    one line each; and whatever else stood in the former one."""
    kept = {line.partition("=")[0]: line for line in former.splitlines() if _ASSIGNMENT.match(line)}
    lines = [kept.pop(name, f"{name}={secrets.token_hex(PASSWORD_BYTES)}") for name in PASSWORDS]
    jwks = json.dumps(json.loads(keys.offer_jwks.read_text()), separators=(",", ":"))
    of_keys = {
        "JWT_PUBLIC_KEY": _in_one_line(keys.jwt_public),
        "OFFER_TOKEN_PRIVATE_KEY": _in_one_line(keys.offer_private),
        "OFFER_TOKEN_KEY_ID": keys.offer_key_id,
        "OFFER_TOKEN_JWKS": f"'{jwks}'",
    }
    lines += [f"{name}={value}" for name, value in of_keys.items()]
    lines += [line for name, line in kept.items() if name not in of_keys]
    return "\n".join(lines) + "\n"


def _in_one_line(pem: Path) -> str:
    """In double quotes, where compose reads \\n as a line break."""
    escaped = pem.read_text().strip().replace("\n", "\\n")
    return f'"{escaped}\\n"'


def main() -> int:
    """Returns the exit code; one line says what was done."""
    former = ENV_FILE.read_text() if ENV_FILE.exists() else ""
    text = env_text(ensure_keys(KEYS_DIR), former)
    if text == former:
        return 0
    unfinished = ENV_FILE.with_suffix(".new")
    unfinished.unlink(missing_ok=True)
    with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    unfinished.replace(ENV_FILE)
    sys.stderr.write(f"wrote {ENV_FILE.name} ({'keys renewed, passwords kept' if former else 'new'})\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
