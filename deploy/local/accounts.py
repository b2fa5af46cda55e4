"""Unprivileged users and the folders they can reach: PostgreSQL refuses to run as root."""

import os
import pwd
import shutil
import stat
import tempfile
from pathlib import Path

from deploy.local.errors import StackError
from deploy.local.processes import Account

UNPRIVILEGED_USERS = ("postgres", "nobody")
TEMP_PREFIX = "weelo-postgres-"  # by this name a folder that a killed stack left is known as ours


def unprivileged_account() -> Account | None:
    """The user to run PostgreSQL as, or None where we are not root. Raises StackError where there is none."""
    if os.geteuid() != 0:
        return None
    for name in UNPRIVILEGED_USERS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid, name)
    raise StackError("PostgreSQL does not run as root: make a user `postgres`, or start as another user")


def reachable(path: Path, account: Account | None) -> bool:
    """Whether `account` can pass through every folder above `path`."""
    if account is None:
        return True
    for folder in path.resolve().parents:
        facts = folder.stat()
        if facts.st_uid == account.uid:
            needed = stat.S_IXUSR
        elif facts.st_gid == account.gid:
            needed = stat.S_IXGRP
        else:
            needed = stat.S_IXOTH
        if not facts.st_mode & needed:
            return False
    return True


def fresh_folder(wanted: Path, account: Account | None) -> Path:
    """An empty folder that belongs to `account`: `wanted` itself, or, where `account` cannot reach that (a
    clone under /root), one in the system's temporary folder, with a link from `wanted`."""
    remove_folder(wanted)
    if reachable(wanted, account):
        folder = wanted
        folder.mkdir(mode=0o700, parents=True)
    else:
        folder = Path(tempfile.mkdtemp(prefix=TEMP_PREFIX))
        wanted.symlink_to(folder)
    if account is not None:
        os.chown(folder, account.uid, account.gid)
    return folder


def remove_folder(wanted: Path) -> None:
    """Remove what `fresh_folder` made, the folder behind the link too. Nothing there: nothing done."""
    if wanted.is_symlink():
        target = wanted.readlink()
        if target.name.startswith(TEMP_PREFIX) and target.is_dir():
            shutil.rmtree(target)
        wanted.unlink()
    elif wanted.is_dir():
        shutil.rmtree(wanted)
