"""`python -m emotag_hf.cli`: the `emotag` command, where it is not on the PATH."""

import sys

from .emotag import main

if __name__ == "__main__":
    sys.exit(main())
