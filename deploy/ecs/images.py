"""Build a service's image and push it under a tag that is never used twice; what runs is named by its digest.

An image of another platform once reached production and could not start: the platform is asked for, and looked at.
"""

from __future__ import annotations

import base64
import re
import subprocess
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from deploy.ecs.documents import DeployError

PLATFORM = "linux/amd64"
TAG = re.compile(r"^\d{8}-\d{6}-[0-9a-f]{7,40}$")
COMMIT_LENGTH = 12  # hex digits: enough for as long as this project lives
BUILD_TIMEOUT_S = 1800.0
IMAGE_OF_JOB = {"topics": "order-api"}  # any image knows the topics

Run = Callable[[Sequence[str], bytes | None], str]


def run_command(argv: Sequence[str], stdin: bytes | None = None) -> str:
    """What a command printed. Raises DeployError with its last line where it fails."""
    try:
        done = subprocess.run(
            list(argv), input=stdin, capture_output=True, timeout=BUILD_TIMEOUT_S, check=False
        )
    except FileNotFoundError as error:
        raise DeployError(f"{argv[0]} is not on this machine") from error
    if done.returncode != 0:
        words = done.stderr.decode(errors="replace").strip().splitlines() or ["without a word"]
        raise DeployError(f"{' '.join(argv[:2])} failed: {words[-1]}")
    return done.stdout.decode(errors="replace").strip()


def repository(service: str) -> str:
    """The repository that holds a service's images, or those that a job runs."""
    return f"weelo/{IMAGE_OF_JOB.get(service, service)}"


def immutable_tag(now: datetime, project: Path, run: Run) -> str:
    """`YYYYMMDD-HHMMSS-<commit>`. Raises DeployError where the tree holds what no commit does."""
    if run(("git", "-C", str(project), "status", "--porcelain", "--untracked-files=no"), None):
        raise DeployError(
            "the tree differs from its commit: commit first, so that the tag tells what is in the image"
        )
    commit = run(("git", "-C", str(project), "rev-parse", f"--short={COMMIT_LENGTH}", "HEAD"), None)
    return f"{now:%Y%m%d-%H%M%S}-{commit}"


def build_and_push(
    service: str, tag: str, *, registry: str, project: Path, ecr: Any, run: Run, say: Callable[[str], None]
) -> str:
    """Returns the image by its digest: `REGISTRY/weelo/order-api@sha256:…`.

    Raises:
        DeployError: the build or the push fails, the tag is taken, or the image is of another platform.
    """
    name = repository(service)
    image = f"{registry}/{name}:{tag}"
    if digest_of(ecr, name, tag) is not None:
        raise DeployError(f"{name}:{tag} is there already, and a tag is never used twice")
    say(f"building {image} for {PLATFORM}")
    run(
        (
            "docker", "build", "--platform", PLATFORM, "--build-arg", f"PLATFORM={PLATFORM}",
            "--build-arg", f"SERVICE={service}", "--label", f"org.opencontainers.image.revision={tag}",
            "--file", str(project / "deploy" / "Dockerfile"), "--tag", image, str(project),
        ),
        None,
    )  # fmt: skip
    built = run(("docker", "image", "inspect", "--format", "{{.Os}}/{{.Architecture}}", image), None)
    if built != PLATFORM:
        raise DeployError(f"the image is for {built}, and {PLATFORM} runs in production")
    user, password = _login(ecr)
    run(("docker", "login", "--username", user, "--password-stdin", registry), password.encode())
    say(f"pushing {image}")
    run(("docker", "push", image), None)
    digest = digest_of(ecr, name, tag)
    if digest is None:
        raise DeployError(f"{name}:{tag} was pushed, and the registry does not know it")
    return f"{registry}/{name}@{digest}"


def resolve(service: str, wanted: str, *, registry: str, ecr: Any) -> str:
    """The image by its digest, from a tag or a digest. Raises DeployError for a tag that may move or is not there."""
    name = repository(service)
    if wanted.startswith("sha256:"):
        return f"{registry}/{name}@{wanted}"
    if not TAG.match(wanted):
        raise DeployError(f"{wanted!r} is no tag of build-push (YYYYMMDD-HHMMSS-commit), and no digest")
    digest = digest_of(ecr, name, wanted)
    if digest is None:
        raise DeployError(f"{name}:{wanted} is not in the registry: build-push it first")
    return f"{registry}/{name}@{digest}"


def digest_of(ecr: Any, name: str, tag: str) -> str | None:
    """What the registry says; None where it has no such tag. Raises DeployError where it has no such repository."""
    try:
        answer = ecr.describe_images(repositoryName=name, imageIds=[{"imageTag": tag}])
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code == "ImageNotFoundException":
            return None
        raise DeployError(f"the registry refuses {name}: {code}") from error
    return str(answer["imageDetails"][0]["imageDigest"])


def _login(ecr: Any) -> tuple[str, str]:
    token = ecr.get_authorization_token()["authorizationData"][0]["authorizationToken"]
    user, _, password = base64.b64decode(token).decode().partition(":")
    return user, password
