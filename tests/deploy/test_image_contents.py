"""What the lock says that a service's image holds is enough to load the service, and nothing of the others is in it."""

from __future__ import annotations

import re
import subprocess
import sys
import zlib
from importlib import metadata
from pathlib import Path

import pytest

from deploy.local.provision import SERVICES
from deploy.local.services import MODULES
from deploy.local.settings import PROJECT
from deploy.service_lock import entries, service_lock

LOCK = (PROJECT / "requirements.lock").read_text()
IMAGE_MB = 180  # compressed, as a registry keeps it and a node fetches it
BASE_MB = 60  # of that for the base image (python:…-slim) and what we wrote
LOAD = """import sys
sys.path[:] = [path for path in sys.path if 'site-packages' not in path] + sys.argv[2:]
__import__(sys.argv[1])"""


def site_packages_of(service: str, folder: Path) -> Path:
    """A folder with what the image's part of the lock installs, linked from here, and nothing else."""
    for name in entries(service_lock(service, LOCK)):
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # for another platform, by its marker
        for top in {
            file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")
        }:
            target = Path(str(distribution.locate_file(top)))
            link = folder / top
            if not link.exists():
                link.symlink_to(target)
            elif link.is_dir() and target.is_dir() and link.resolve() != target.resolve():
                raise AssertionError(f"{top} is of two packages")
    return folder


def load(module: str, *paths: Path) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-I", "-S", "-c", LOAD, module, *map(str, paths)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_loads_with_its_own_packages_alone(service: str, tmp_path: Path) -> None:
    packages = site_packages_of(service, tmp_path)
    sources = [PROJECT / "libs/common/src", PROJECT / "services" / service / "src"]
    done = load(f"{MODULES[service]}.main", packages, *sources)
    assert done.returncode == 0, done.stderr
    others = [MODULES[other] for other in SERVICES if other != service]
    for module in (*others, "pytest", "pip", "weelo_cli"):
        missing = load(module, packages, *sources)
        assert missing.returncode != 0, f"the image of {service} holds {module}"


def test_the_demos_image_loads_with_what_its_dockerfile_copies(tmp_path: Path) -> None:
    dockerfile = (PROJECT / "deploy/compose/demo.Dockerfile").read_text()
    image = tmp_path / "opt" / "demo"
    for source, target in re.findall(r"^COPY (\S+) /opt/demo/(\S+)$", dockerfile, re.MULTILINE):
        place = image / target / Path(source).name if target.endswith("/") else image / target
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(PROJECT / source)
    (tmp_path / "packages").mkdir()
    packages = site_packages_of("demo", tmp_path / "packages")
    done = load("tools.demo.__main__", packages, image)
    assert done.returncode == 0, done.stderr


def test_a_package_that_is_left_out_is_noticed(tmp_path: Path) -> None:
    packages = site_packages_of("notifier", tmp_path)
    (packages / "websockets").unlink()
    sources = [PROJECT / "libs/common/src", PROJECT / "services/notifier/src"]
    assert "websockets" in load("notifier.main", packages, *sources).stderr


def compressed_mb(package: str) -> float:
    """What the files of an installed package take in a layer, roughly: each by itself, quickly."""
    try:
        files = metadata.distribution(package).files or []
    except metadata.PackageNotFoundError:
        return 0.0  # for another platform, by its marker
    paths = [Path(str(file.locate())) for file in files]
    return sum(len(zlib.compress(path.read_bytes(), 1)) for path in paths if path.is_file()) / 1e6


def test_the_packages_of_every_service_leave_its_image_within_its_size() -> None:
    wanted = {service: set(entries(service_lock(service, LOCK))) for service in SERVICES}
    sizes = {package: compressed_mb(package) for package in set().union(*wanted.values())}
    for service, packages in wanted.items():
        whole = BASE_MB + sum(sizes[package] for package in packages)
        assert whole < IMAGE_MB, f"{service}: {whole:.0f} MB"
