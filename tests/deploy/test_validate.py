"""`make validate-deploy` passes on what is here, and fails when any manifest is broken."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from deploy.local.settings import PROJECT
from deploy.validate.__main__ import CHECKS
from deploy.validate.findings import MissingProgram, find_program
from tests.deploy.broken import BROKEN, K8S

KEPT = ("deploy", "docker-compose.yml", "requirements.lock", ".ci")


def _there(name: str) -> bool:
    try:
        find_program(name, "")
    except MissingProgram:
        return False
    return True


NEEDED = {"gateway": "nginx", "prometheus": "promtool", "scripts": "shellcheck", "compose": "node"}
LEFT_OUT = {name: program for name, program in NEEDED.items() if not _there(program)}


def needs_its_program(check: str) -> None:
    """On CI's machine none is missing; on others the check is left out, and says so."""
    if check in LEFT_OUT:
        pytest.skip(f"needs {LEFT_OUT[check]}")


@pytest.mark.parametrize("name", CHECKS)
def test_what_is_here_passes(name: str) -> None:
    needs_its_program(name)
    assert CHECKS[name](PROJECT) == []


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The deployments, to be broken."""
    leave = shutil.ignore_patterns("node_modules", "__pycache__")
    for name in KEPT:
        source, target = PROJECT / name, tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=leave)
        elif source.exists():
            shutil.copy(source, target)
    return tmp_path


@pytest.mark.parametrize(
    ("check", "file", "right", "wrong", "says"),
    BROKEN,
    ids=[f"{check}-{says[:40]}" for check, _, _, _, says in BROKEN],
)
def test_what_is_broken_is_found_and_named(
    copy: Path, check: str, file: str, right: str, wrong: str, says: str
) -> None:
    needs_its_program(check)
    text = (copy / file).read_text()
    assert right in text, f"{file} no longer holds what this test breaks"
    (copy / file).write_text(text.replace(right, wrong))
    found = [str(one) for one in CHECKS[check](copy)]
    assert any(says in one for one in found), "\n".join(found) or "nothing was found"


def test_a_program_that_is_missing_is_named_with_where_it_comes_from() -> None:
    with pytest.raises(MissingProgram, match="no-such-checker is not on this machine: apt-get install it"):
        find_program("no-such-checker", "apt-get install it")


def test_every_manifest_of_the_base_is_used(copy: Path) -> None:
    """A file that no kustomization names would be checked by nobody."""
    for folder in [*(copy / K8S).iterdir(), *(copy / "deploy/k8s/overlays").iterdir()]:
        if folder.is_dir():
            named = (folder / "kustomization.yaml").read_text()
            for path in folder.glob("*.yaml"):
                assert path.name == "kustomization.yaml" or path.name in named, path
