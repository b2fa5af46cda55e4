"""Become another user if asked, ask the kernel for a signal when the parent dies, then become the command.

Run as a script between the stack and each child: `die_with_parent.py SIGNAL PARENT_PID UID GID -- COMMAND …`
(UID and GID are `-` to stay who we are). A launcher of its own, because `preexec_fn` is not safe in a
process with threads. It must never import anything of ours: every child pays for it at each start.
"""

import os
import sys

PR_SET_PDEATHSIG = 1  # from <linux/prctl.h>


def main(argv: list[str]) -> None:
    death_signal, parent_pid, uid, gid, separator, *command = argv
    if separator != "--" or not command:
        sys.exit("usage: die_with_parent.py SIGNAL PARENT_PID UID GID -- COMMAND")
    if sys.platform.startswith("linux"):
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
    else:
        libc = None  # such a system has no such signal: an orderly stop still ends the children
    if uid != "-":
        os.setgroups([])
        os.setgid(int(gid))
        os.setuid(int(uid))
    if libc is not None:
        # After setuid: a change of user clears the setting. It survives the exec.
        if libc.prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0) != 0:
            sys.exit(f"prctl failed: {os.strerror(ctypes.get_errno())}")
        if os.getppid() != int(parent_pid):
            sys.exit("the parent died before the start")
    try:
        os.execvp(command[0], command)  # noqa: S606 - no shell is wanted
    except OSError as error:
        sys.exit(f"cannot run {command[0]}: {error.strerror}")


if __name__ == "__main__":
    main(sys.argv[1:])
