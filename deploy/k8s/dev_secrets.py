"""`python -m deploy.k8s.dev_secrets | kubectl apply -f -`: the secrets of overlays/dev, from this laptop's .env.

For a cluster of your own alone. In production they come from your store (overlays/production/secrets.yaml).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping

from dotenv import dotenv_values

from deploy.compose.prepare import ENV_FILE, PASSWORDS
from deploy.compose.prepare import main as prepare
from deploy.local.provision import SERVICES, database_name

NAMESPACE = "weelo-dev"
OF_USERS = ("JWT_PUBLIC_KEY",)
OF_ALL = ("POSTGRES_DSN",)
OF: Mapping[str, tuple[str, ...]] = {
    "order-api": (*OF_ALL, *OF_USERS, "REDIS_URL", "OFFER_TOKEN_JWKS"),
    "dispatcher": (*OF_ALL, *OF_USERS, "REDIS_URL", "OFFER_TOKEN_PRIVATE_KEY", "OFFER_TOKEN_KEY_ID"),
    "notifier": (*OF_ALL, *OF_USERS, "REDIS_URL"),
    "expiry": OF_ALL,
}


def secret_names(service: str) -> tuple[str, ...]:
    """What the secret of a service holds; the topics job needs none here."""
    return OF.get(service, ())


def secrets(given: Mapping[str, str | None]) -> list[dict[str, object]]:
    """The Secret objects: one a service, and PostgreSQL's with all passwords."""
    made = [_secret("postgres", {name: given[name] or "" for name in PASSWORDS})]
    for service in SERVICES:
        role = database_name(service)
        password = given[f"WEELO_PASSWORD_{service.replace('-', '_').upper()}"]
        values = {
            **given,
            "POSTGRES_DSN": f"postgresql://{role}:{password}@postgres:5432/{role}",
            "REDIS_URL": "redis://redis:6379/0",
        }
        made.append(_secret(service, {name: values[name] or "" for name in secret_names(service)}))
    return made


def _secret(name: str, values: Mapping[str, str]) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "stringData": dict(values),
    }


def main() -> int:
    """Returns the exit code; prints JSON, which kubectl reads as well as YAML."""
    if not ENV_FILE.exists():
        prepare()
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    items = [namespace, *secrets(dotenv_values(ENV_FILE))]
    sys.stdout.write(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
