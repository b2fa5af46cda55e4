"""An image is for the platform that runs it, has a tag of its own, and is what its commit says."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from deploy.ecs.documents import DeployError
from deploy.ecs.images import PLATFORM, TAG, build_and_push, immutable_tag, run_command

NOW = datetime(2026, 2, 3, 10, 8, 28, tzinfo=UTC)
DIGEST = "sha256:" + "a" * 64


@dataclass
class Docker:
    """Stands for the docker program: no engine is on the machines that test. It notes what it is asked."""

    platform: str = PLATFORM
    dirty: str = ""
    pushed: set[str] = field(default_factory=set)
    asked: list[tuple[str, ...]] = field(default_factory=list)

    def __call__(self, argv: Sequence[str], stdin: bytes | None = None) -> str:
        self.asked.append(tuple(argv))
        if "status" in argv:
            return self.dirty
        if "rev-parse" in argv:
            return "0123456789ab"
        if argv[1] == "push":
            self.pushed.add(argv[2].rpartition(":")[2])
        return self.platform if argv[1] == "image" else ""

    # The registry's side, as the client of ECR tells it.
    def describe_images(self, *, repositoryName: str, imageIds: list[dict[str, str]]) -> dict[str, Any]:
        if imageIds[0]["imageTag"] in self.pushed:
            return {"imageDetails": [{"imageDigest": DIGEST}]}
        raise ClientError({"Error": {"Code": "ImageNotFoundException"}}, "DescribeImages")

    def get_authorization_token(self) -> dict[str, Any]:
        token = base64.b64encode(b"AWS:secret").decode()
        return {"authorizationData": [{"authorizationToken": token}]}


def push(docker: Docker, tag: str = "20260203-100828-0123456789ab") -> str:
    return build_and_push(
        "order-api",
        tag,
        registry="r.example.com",
        project=Path("/p"),
        ecr=docker,
        run=docker,
        say=lambda line: None,
    )


def test_a_tag_tells_the_moment_and_the_commit() -> None:
    tag = immutable_tag(NOW, Path("/p"), Docker())
    assert tag == "20260203-100828-0123456789ab"
    assert TAG.match(tag)


def test_a_tree_that_differs_from_its_commit_gets_no_tag() -> None:
    with pytest.raises(DeployError, match="differs from its commit"):
        immutable_tag(NOW, Path("/p"), Docker(dirty=" M deploy/Dockerfile"))


def test_the_platform_is_stated_to_the_builder_and_the_image_is_named_by_its_digest() -> None:
    docker = Docker()
    assert push(docker) == f"r.example.com/weelo/order-api@{DIGEST}"
    build = next(argv for argv in docker.asked if argv[:2] == ("docker", "build"))
    assert build[build.index("--platform") + 1] == "linux/amd64"
    assert "PLATFORM=linux/amd64" in build
    assert "SERVICE=order-api" in build


def test_an_image_of_another_platform_is_never_pushed() -> None:
    docker = Docker(platform="linux/arm64")
    with pytest.raises(DeployError, match="the image is for linux/arm64, and linux/amd64 runs in production"):
        push(docker)
    assert not docker.pushed


def test_a_tag_is_never_used_twice() -> None:
    docker = Docker()
    push(docker)
    with pytest.raises(DeployError, match="is there already"):
        push(docker)


def test_the_registrys_password_is_on_no_command_line() -> None:
    docker = Docker()
    push(docker)
    assert not any("secret" in word for argv in docker.asked for word in argv)


def test_a_command_that_fails_is_named_with_its_last_words() -> None:
    with pytest.raises(DeployError, match=r"^sh -c failed: no room$"):
        run_command(("sh", "-c", "echo no room >&2; exit 1"))
    with pytest.raises(DeployError, match="nothing-like-this is not on this machine"):
        run_command(("nothing-like-this",))
