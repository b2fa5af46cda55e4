"""`python -m deploy.local`: the stack by hand. See README.md beside this file."""

import sys

from deploy.local.commands import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
