"""deploy/gateway: nginx itself reads the configuration, as compose fills it in and as the local stack does."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml

from deploy.local.errors import StackError
from deploy.local.gateway import render
from deploy.validate.compose import COMPOSE
from deploy.validate.findings import Finding, find_program, lines_as_findings, run_program
from deploy.validate.traffic import GATEWAY_TEMPLATE
from weelo_common.api_errors import STATUS, ErrorCode

ANSWER = re.compile(r"return (\d{3}) '(\{.*\})';")
# A name that nothing here resolves, and a parameter that nginx knows from 1.27.3 on: compose's nginx is newer.
NEWER = re.compile(r"server ([a-z-]+):(\d+) resolve;")


def check_gateway(root: Path) -> list[Finding]:
    """The template, filled in twice."""
    template = (root / GATEWAY_TEMPLATE).read_text(encoding="utf-8")
    compose = yaml.safe_load((root / COMPOSE).read_text(encoding="utf-8"))["services"]["gateway"][
        "environment"
    ]
    local = {
        "GATEWAY_LISTEN": "127.0.0.1:18000",
        "GATEWAY_RESOLVER": "127.0.0.1",
        "GATEWAY_ORDER_API": "server 127.0.0.1:18001; server 127.0.0.1:18101;",
        "GATEWAY_DISPATCHER": "server 127.0.0.1:18002;",
        "GATEWAY_NOTIFIER": "server 127.0.0.1:18003;",
        "GATEWAY_NOTIFIER_SOCKETS": "server 127.0.0.1:18013;",
    }
    older = {name: NEWER.sub(r"server 127.0.0.1:\2;", str(value)) for name, value in compose.items()}
    found = list(_answers(template))
    for whose, values in (("compose", older), ("local stack", local)):
        found += _nginx_reads(template, values, whose)
    return found


def _nginx_reads(template: str, values: Mapping[str, str], whose: str) -> list[Finding]:
    nginx = find_program("nginx", "Debian: apt-get install nginx-light")
    where = f"{GATEWAY_TEMPLATE} for the {whose}"
    with tempfile.TemporaryDirectory(prefix="weelo-gateway-") as folder:
        config = Path(folder) / "nginx.conf"
        try:
            text = render(template, {**values, "GATEWAY_FOLDER": folder})
        except StackError as error:
            return [Finding(where, str(error))]
        # What it would write to and where it would listen is not the question: only whether it can read this.
        config.write_text(text.replace("/dev/stdout", f"{folder}/access.log"), encoding="utf-8")
        code, output = run_program([nginx, "-q", "-t", "-e", "stderr", "-p", folder, "-c", str(config)])
        return lines_as_findings(where, code, output.replace(folder, ""))


def _answers(template: str) -> Iterator[Finding]:
    """What the gateway says by itself is the contract's envelope, with its pairs of status and code."""
    answers = ANSWER.findall(template)
    if not answers:
        yield Finding(str(GATEWAY_TEMPLATE), "answers nothing by itself")
    for status, body in answers:
        try:
            error = json.loads(body)["error"]
            expected = STATUS[ErrorCode(error["code"])]
        except (ValueError, KeyError) as problem:
            yield Finding(str(GATEWAY_TEMPLATE), f"{body} is no envelope of the contract: {problem}")
            continue
        if int(status) != expected or not error.get("message"):
            yield Finding(str(GATEWAY_TEMPLATE), f"{error['code']} goes with {expected}, not with {status}")
