"""What a person is told when the stack cannot start: one line, and the server's last words where it has some."""


class StackError(Exception):
    """The stack cannot do what was asked. `str()` is one line that names the cause and the setting or package
    that helps; `detail` holds the last lines of a log, or nothing. The command prints both and exits 1."""

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail


class FolderInUse(StackError):
    """Another stack runs in this run folder. Stop that one, or take another folder."""
