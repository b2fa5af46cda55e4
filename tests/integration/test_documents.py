"""The documents: a newcomer finds each from the README in one click, and no link leads nowhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from deploy.local.settings import PROJECT

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
DOCUMENTS = sorted(
    path.relative_to(PROJECT)
    for path in (
        *PROJECT.glob("docs/*.md"),
        PROJECT / "ARCHITECTURE.md",
        PROJECT / "CHANGELOG.md",
        *(PROJECT / folder / "README.md" for folder in ("examples", "schemas", "deploy/local")),
    )
)


def links(document: Path) -> set[Path]:
    """Where a document's links to files lead, from the project's root."""
    found = set()
    for target in LINK.findall((PROJECT / document).read_text()):
        path = target.partition("#")[0]
        if path and "://" not in path and not path.startswith("mailto:"):
            found.add((PROJECT / document).parent.joinpath(path).resolve().relative_to(PROJECT))
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_the_readme_leads_to_each_document(document: Path) -> None:
    assert document in links(Path("README.md"))


@pytest.mark.parametrize("document", [Path("README.md"), *DOCUMENTS], ids=str)
def test_every_link_leads_to_something(document: Path) -> None:
    assert not [target for target in links(document) if not (PROJECT / target).exists()]
