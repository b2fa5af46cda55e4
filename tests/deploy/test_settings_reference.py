"""docs/settings.md says what the classes say."""

from __future__ import annotations

import importlib

import pytest

from deploy.local.provision import SERVICES
from deploy.local.services import MODULES
from deploy.settings_reference import REFERENCE, reference


def test_the_reference_is_current() -> None:
    assert REFERENCE.read_text() == reference(), "run: make docs-settings"


@pytest.mark.parametrize("service", SERVICES)
def test_every_setting_of_a_service_is_in_it(service: str) -> None:
    text = reference()
    for name in importlib.import_module(f"{MODULES[service]}.settings").Settings.model_fields:
        rows = [line for line in text.splitlines() if line.startswith(f"| `{name.upper()}` |")]
        assert rows, name


def test_a_default_a_limit_and_a_meaning_are_told() -> None:
    rows = {line.split("`")[1]: line for line in reference().splitlines() if line.startswith("| `")}
    assert rows["ORDER_LIFETIME_S"].startswith(
        "| `ORDER_LIFETIME_S` | whole number, ≥ 1, ≤ 3,600 | `60` | How long an order searches"
    )
    assert "**needed**" in rows["POSTGRES_DSN"]
    assert "secret text" in rows["JWT_SECRET"]
    assert "`RS256`, `ES256`" in rows["JWT_ALGORITHM"]
