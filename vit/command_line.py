"""What the programs of this package share: one line and an exit status for every expected error."""

from __future__ import annotations

from collections.abc import Callable

from runtime.display import say
from runtime.errors import VitEdgeError


def run_program(name: str, run: Callable[[], None]) -> int:
    """Runs a program and returns its exit status: 0 good, 2 bad input, 130 interrupted."""
    try:
        run()
    except VitEdgeError as error:
        say(f"{name}: {error}")
        return error.exit_code
    except KeyboardInterrupt as interrupt:
        say(f"{name}: {interrupt or 'interrupted'}")
        return 130
    return 0
