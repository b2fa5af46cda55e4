"""Commands for developers and operators; each module is run as ``python -m tools.<name>``."""
