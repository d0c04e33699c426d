"""`python -m vit_edge`: the command line `vit-edge`."""

import sys

from vit_edge.runtime.tools.cli import main

if __name__ == "__main__":
    sys.exit(main())
