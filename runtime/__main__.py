"""Runs the command line: `python -m vit_edge.runtime`."""

from .tools.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
