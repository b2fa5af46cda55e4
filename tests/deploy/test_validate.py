"""`make validate-deploy` passes on what is here, and fails when any manifest is broken."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pytest

from deploy.local.settings import PROJECT
from deploy.validate.__main__ import CHECKS
from deploy.validate.findings import Finding, MissingProgram, find_program
from deploy.validate.prometheus import PARTS, check_part
from tests.deploy.broken import BROKEN, K8S

# The checks, and the parts of a dear one: what one part alone can find is not asked of the others.
ASKED: Mapping[str, Callable[[Path], list[Finding]]] = {
    **CHECKS,
    **{f"prometheus {part}": partial(check_part, part=part) for part in PARTS},
}
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
    whole = check.partition(" ")[0]
    if whole in LEFT_OUT:
        pytest.skip(f"needs {LEFT_OUT[whole]}")


@pytest.mark.parametrize("name", CHECKS)
def test_what_is_here_passes(name: str) -> None:
    needs_its_program(name)
    assert CHECKS[name](PROJECT) == []


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The deployments, to be broken; each test leaves them whole."""
    root = tmp_path_factory.mktemp("deployments")
    leave = shutil.ignore_patterns("node_modules", "__pycache__")
    for name in KEPT:
        source, target = PROJECT / name, root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=leave)
        elif source.exists():
            shutil.copy(source, target)
    return root


@pytest.mark.parametrize(
    ("check", "file", "right", "wrong", "says"),
    BROKEN,
    ids=[f"{check}-{says[:40]}" for check, _, _, _, says in BROKEN],
)
def test_what_is_broken_is_found_and_named(
    copy: Path, check: str, file: str, right: str, wrong: str, says: str
) -> None:
    needs_its_program(check)
    whole = (copy / file).read_text()
    assert right in whole, f"{file} no longer holds what this test breaks"
    (copy / file).write_text(whole.replace(right, wrong))
    try:
        found = [str(one) for one in ASKED[check](copy)]
    finally:
        (copy / file).write_text(whole)
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
