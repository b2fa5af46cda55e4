"""Somebody at the operators' command line, with the environment of a running system."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from typer.testing import CliRunner, Result

from weelo_cli.main import GROUP, build


@dataclass(frozen=True)
class Operator:
    """Runs commands in this process, as the program ``weelo`` does, in a thread with a loop of its own."""

    env: Mapping[str, str]

    async def says(self, *arguments: str) -> Result:
        """What a command prints, and its exit code."""
        app, problems = build(entry_points(group=GROUP))
        assert problems == []
        runner = CliRunner(env=dict(self.env))
        return await asyncio.to_thread(runner.invoke, app, list(arguments))

    async def answers(self, *arguments: str) -> dict[str, Any]:
        """The JSON answer of a command that does what it is asked."""
        said = await self.says(*arguments, "--json")
        assert said.exit_code == 0, said.output
        answer: dict[str, Any] = json.loads(said.stdout)
        return answer

    async def lines(self, *arguments: str) -> list[dict[str, Any]]:
        """The JSON lines of a command that streams."""
        said = await self.says(*arguments, "--json")
        assert said.exit_code == 0, said.output
        return [json.loads(line) for line in said.stdout.splitlines()]
