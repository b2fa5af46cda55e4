"""`python -m deploy.observability`: write the files that are made of the descriptions, the rules and the code."""

from __future__ import annotations

import sys
from pathlib import Path

from deploy.local.settings import PROJECT
from deploy.observability.generated import METRICS_DOC, deployed_files, metrics_reference


def main(root: Path = PROJECT) -> int:
    """Returns the exit code, 0."""
    for path, text in {**deployed_files(root), METRICS_DOC: metrics_reference()}.items():
        target = root / path
        if not target.is_file() or target.read_text(encoding="utf-8") != text:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
            print(f"written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
