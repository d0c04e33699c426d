"""`python -m vit_edge`: the command line `vit-edge`."""
# PYTHON_ARGCOMPLETE_OK

import sys

from vit_edge.runtime.tools.cli import main

if __name__ == "__main__":
    sys.exit(main())
