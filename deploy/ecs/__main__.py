"""`python -m deploy.ecs COMMAND`: build-push, provision, deploy, status, watch, roll-back."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from deploy.ecs.documents import DeployError, Environment
from deploy.ecs.images import build_and_push, immutable_tag, resolve, run_command
from deploy.ecs.provision import provision
from deploy.ecs.rollout import RollOut
from deploy.ecs.watch import Watch

PROJECT = Path(__file__).resolve().parents[2]
HOUR_S = 3600.0


class Commands:
    """One command's surroundings: the environment, AWS, and where it speaks to people."""

    def __init__(
        self,
        environment: Environment,
        *,
        client: Callable[[str], Any],
        say: Callable[[str], None] = print,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._environment = environment
        self._client = client
        self._say = say
        self._pause = pause

    def run(self, options: argparse.Namespace) -> None:
        """Raises DeployError where the command cannot do what it was asked."""
        getattr(self, f"_{options.command.replace('-', '_')}")(options)

    def _build_push(self, options: argparse.Namespace) -> None:
        tag = immutable_tag(datetime.now(UTC), PROJECT, run_command)
        if options.dry_run:
            self._say(f"would build and push {options.service} as {tag}")
            return
        image = build_and_push(
            options.service,
            tag,
            registry=self._environment.registry,
            project=PROJECT,
            ecr=self._client("ecr"),
            run=run_command,
            say=self._say,
        )
        self._say(f"pushed {image}")
        self._say(f"tag: {tag}")

    def _provision(self, options: argparse.Namespace) -> None:
        image = self._image(options.service, options.image) if options.image else ""
        if options.dry_run:
            self._say(f"would make what {options.service} needs: see deploy/ecs/services/{options.service}")
            return
        provision(
            self._environment,
            options.service,
            image,
            client=self._client,
            migrate=lambda revision: self._roll_out().run_to_end(options.service, revision, "migrate"),
            say=self._say,
        )

    def _deploy(self, options: argparse.Namespace) -> None:
        roll_out = self._roll_out()
        image = self._image(options.service, options.image)
        if options.dry_run:
            plan = roll_out.plan(options.service, image)
            for line in plan.lines():
                self._say(line)
            if reasons := plan.difference.refusals(options.drop):
                raise DeployError(f"would be refused: {'; '.join(reasons)}")
            self._say("would be rolled out; nothing was changed")
            return
        roll_out.deploy(options.service, image, given_up=options.drop, blue_green=options.blue_green)

    def _status(self, options: argparse.Namespace) -> None:
        for line in self._watcher().look(options.service).lines():
            self._say(line)
        self._say(f"last good revision: {self._roll_out().last_good(options.service) or 'none'}")

    def _watch(self, options: argparse.Namespace) -> None:
        try:
            self._watcher().watch(
                options.service, seconds=options.minutes * 60, say=self._say, pause=self._pause
            )
        except DeployError as trouble:
            if not options.roll_back:
                raise
            self._say(f"trouble: {trouble}")
            self._roll_out().roll_back(options.service)
            raise DeployError(f"rolled back: {trouble}") from trouble

    def _roll_back(self, options: argparse.Namespace) -> None:
        if options.dry_run:
            standing = self._watcher().look(options.service).revision
            to = options.to or self._roll_out().last_good(options.service, but=standing) or "nowhere"
            self._say(f"would go from {standing} back to {to}")
            return
        self._roll_out().roll_back(options.service, options.to)

    def _image(self, service: str, wanted: str) -> str:
        return resolve(service, wanted, registry=self._environment.registry, ecr=self._client("ecr"))

    def _roll_out(self) -> RollOut:
        return RollOut(
            self._environment,
            ecs=self._client("ecs"),
            elbv2=self._client("elbv2"),
            say=self._say,
            pause=self._pause,
        )

    def _watcher(self) -> Watch:
        return Watch(self._environment, ecs=self._client("ecs"), cloudwatch=self._client("cloudwatch"))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m deploy.ecs", description="Weelo on ECS.")
    top.add_argument(
        "--environment", type=Path, required=True, help="its values; see deploy/ecs/environments/example.json"
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str, *, dry: bool = True) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("service", help="order-api, dispatcher, notifier, expiry, or the job topics")
        if dry:
            command.add_argument(
                "--dry-run", action="store_true", help="say what would be done, and do nothing"
            )
        return command

    add("build-push", "build the image and push it under a tag that is never used twice")
    made = add("provision", "make what the service needs on AWS, and the service where it is not there yet")
    made.add_argument("--image", help="for the first revision: a tag of build-push, or sha256:…")
    rolled = add("deploy", "roll an image out; back to the last good revision where that fails")
    rolled.add_argument("--image", required=True, help="a tag of build-push, or sha256:…")
    rolled.add_argument("--drop", action="append", default=[], metavar="NAME", help="a variable to give up")
    rolled.add_argument(
        "--blue-green", action="store_true", help="all new replicas beside the old, then switch the traffic"
    )
    add("status", "one look", dry=False)
    watched = add("watch", "look for an hour; ends with 1 at the first trouble", dry=False)
    watched.add_argument("--minutes", type=float, default=HOUR_S / 60)
    watched.add_argument("--roll-back", action="store_true", help="at the first trouble")
    back = add("roll-back", "to the last good revision, or to a named one")
    back.add_argument("--to", metavar="REVISION", help="7, or weelo-production-order-api:7")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, or 1 with one line on stderr."""
    options = parser().parse_args(argv)
    try:
        environment = Environment.load(options.environment)
        session = boto3.session.Session(region_name=environment.region)
        Commands(environment, client=session.client).run(options)
    except (DeployError, ClientError, BotoCoreError) as error:
        print(f"{options.command}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
