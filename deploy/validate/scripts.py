"""Shell scripts: shellcheck reads each of them."""

from __future__ import annotations

from pathlib import Path

from deploy.validate.findings import Finding, find_program, lines_as_findings, run_program

FOLDERS = ("deploy", ".ci", "tools")
SHEBANGS = ("#!/bin/sh", "#!/usr/bin/env bash", "#!/bin/bash", "#!/usr/bin/env sh")


def check_scripts(root: Path) -> list[Finding]:
    """Every file of ours that begins as a shell script does."""
    shellcheck = find_program("shellcheck", "Debian: apt-get install shellcheck")
    found: list[Finding] = []
    for path in shell_scripts(root):
        code, output = run_program([shellcheck, "--format=gcc", "--severity=style", str(path)], cwd=root)
        found += lines_as_findings(str(path), code, output)
    return found


def shell_scripts(root: Path) -> list[Path]:
    """Their paths, from the root."""
    scripts = []
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*")):
            if path.is_file() and "node_modules" not in path.parts and "__pycache__" not in path.parts:
                with path.open("rb") as file:
                    first = file.readline(80).decode(errors="replace").strip()
                if first in SHEBANGS:
                    scripts.append(path.relative_to(root))
    return scripts
