"""``weelo token``: a token that the services take, or one line that says what is missing."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from deploy.local.keys import ensure_keys
from weelo_cli.main import GROUP, build
from weelo_cli.tokens import TokenError, make_token, read_private_key
from weelo_common.auth import InvalidToken, Role, TokenVerifier
from weelo_common.settings import UserTokenSettings


@pytest.fixture(scope="module")
def keys_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure_keys(tmp_path_factory.mktemp("keys")).folder


@pytest.fixture
def verifier(keys_dir: Path) -> TokenVerifier:
    return TokenVerifier.from_settings(UserTokenSettings(jwt_public_key_file=keys_dir / "jwt_public.pem"))


def token(*arguments: str) -> Result:
    app, problems = build(entry_points(group=GROUP))
    assert problems == []
    return CliRunner().invoke(app, ["token", *arguments])


def test_a_printed_token_is_taken_by_the_services(keys_dir: Path, verifier: TokenVerifier) -> None:
    said = token("customer", "c-1", "--keys-dir", str(keys_dir), "--phone", "0123")
    assert said.exit_code == 0
    caller = verifier.verify(said.stdout.strip())
    assert (caller.user_id, caller.role, caller.name, caller.phone) == (
        "c-1",
        Role.CUSTOMER,
        "Customer c-1",
        "0123",
    )


def test_a_token_past_its_lifetime_is_refused(keys_dir: Path, verifier: TokenVerifier) -> None:
    ended = make_token(read_private_key(keys_dir), "captain", "k-1", lifetime_s=-3600)
    with pytest.raises(InvalidToken):
        verifier.verify(ended)


def test_without_a_stack_one_line_says_what_to_do(tmp_path: Path) -> None:
    said = token("ops", "o-1", "--keys-dir", str(tmp_path))
    assert said.exit_code == 1
    assert "make up" in said.stderr
    assert said.stderr.count("\n") == 1


def test_an_unknown_role_or_an_id_no_service_takes_is_refused(keys_dir: Path) -> None:
    assert token("king", "c-1", "--keys-dir", str(keys_dir)).exit_code == 2
    assert token("customer", "c" * 65, "--keys-dir", str(keys_dir)).exit_code == 1
    key = read_private_key(keys_dir)
    with pytest.raises(TokenError):
        make_token(key, "king", "c-1")
    with pytest.raises(TokenError):
        make_token(key, "customer", "c" * 65)
