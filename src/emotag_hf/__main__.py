"""`python -m emotag_hf`: the `emotag` command, where it is not on the PATH."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
