"""Others' tools that the contract is checked with, and whether they are on this machine.

`make test` installs what npm holds wherever npm is there; kcat comes from the system's packages. On CI's machine
none may be missing.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

NODE_CHECKS = Path(__file__).parent / "node"
NODE_EXAMPLE = Path(__file__).parents[2] / "examples" / "node"

needs_node = pytest.mark.skipif(
    not (shutil.which("node") and (NODE_CHECKS / "node_modules").is_dir()),
    reason="needs node, and `make contract-tools` to have installed tests/contract/node",
)
needs_example_node = pytest.mark.skipif(
    not (shutil.which("node") and (NODE_EXAMPLE / "node_modules").is_dir()),
    reason="needs node, and `make contract-tools` to have installed examples/node",
)
needs_kcat = pytest.mark.skipif(not shutil.which("kcat"), reason="needs kcat (Debian: apt-get install kcat)")
