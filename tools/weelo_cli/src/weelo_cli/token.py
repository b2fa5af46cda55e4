"""``weelo token``: a user's bearer token for the local stack, to try things out with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from weelo_cli.connections import Surroundings
from weelo_cli.conventions import Answer, BadInput, Json, Refused, run
from weelo_cli.tokens import (
    DEFAULT_LIFETIME_S,
    ROLES,
    TokenError,
    default_keys_dir,
    make_token,
    read_private_key,
)

Role = Annotated[str, typer.Argument(help=f"One of {', '.join(ROLES)}.")]
UserId = Annotated[str, typer.Argument(metavar="ID", help="The user's id, such as c-1.")]
Name = Annotated[str | None, typer.Option(help="The user's name; default: made from role and id.")]
Phone = Annotated[str | None, typer.Option(help="The user's phone number; default: none.")]
Lifetime = Annotated[
    float, typer.Option("--lifetime-s", help="Seconds until it ends; below 0: ended already.")
]
KeysDir = Annotated[Path | None, typer.Option(help="Default: WEELO_KEYS_DIR, else the local stack's.")]


def token(
    role: Role,
    user_id: UserId,
    name: Name = None,
    phone: Phone = None,
    lifetime_s: Lifetime = DEFAULT_LIFETIME_S,
    keys_dir: KeysDir = None,
    as_json: Json = False,
) -> None:
    """Print a user's token for the local stack.

    Example: curl -H "Authorization: Bearer $(weelo token customer c-1)" …
    """
    run(_token(role, user_id, name, phone, lifetime_s, keys_dir), as_json)


async def _token(
    role: str, user_id: str, name: str | None, phone: str | None, lifetime_s: float, keys_dir: Path | None
) -> Answer:
    env = Surroundings.of_environment().env
    if role not in ROLES:
        raise BadInput(f"role must be one of {', '.join(ROLES)}, not {role[:64]!r}")
    try:
        made = make_token(
            read_private_key(keys_dir or default_keys_dir(env)),
            role,
            user_id,
            name=name or f"{role.capitalize()} {user_id}",
            phone=phone,
            lifetime_s=lifetime_s,
            issuer=env.get("JWT_ISSUER") or "weelo",
            audience=env.get("JWT_AUDIENCE") or "weelo-apps",
        )
    except TokenError as error:
        raise Refused(str(error)) from None
    return Answer({"token": made}, [made])
