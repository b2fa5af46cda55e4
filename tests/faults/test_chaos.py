"""The fault rig itself, and a short run of it: things break at random, and the ledger holds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.local.settings import PROJECT

pytestmark = [pytest.mark.faults, pytest.mark.timeout(400)]

SEED = 5  # of the short run: it has a fault of each kind
MINUTES = 1
QUICK_S = 5.0  # a 503 comes within this, whatever else is broken


def test_a_minute_of_chaos_ends_with_a_holding_ledger(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tools.chaos",
            "--seed",
            str(SEED),
            "--minutes",
            str(MINUTES),
            "--report",
            str(report),
        ],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=380,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    found = json.loads(report.read_text())
    assert sum(fault["count"] for fault in found["faults"]) >= 8
    assert found["traffic"]["created"] > 50
    assert 0 < found["slowest503Seconds"] < QUICK_S
    assert found["judged"]["answered_201"] == found["judged"]["orders"] >= found["traffic"]["created"]
