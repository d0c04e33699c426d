"""Progress of the stages: a live line on a terminal, one line per stage elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vit_edge.runtime.tools.display import progress_bar, say

Update = Callable[[int, int], None]
"""Called with the steps done and the total."""


def ignore(done: int, total: int) -> None:
    """`Update` that shows nothing."""


def stretch(update: Update, part: int, parts: int) -> Update:
    """Returns the `Update` for part `part`, counted from 0, of a stage of `parts` parts."""

    def stretched(done: int, total: int) -> None:
        update(part * total + done, parts * total)

    return stretched


class Display:
    """Prints to standard error."""

    @contextmanager
    def stage(self, name: str) -> Iterator[Update]:
        """Shows a stage while the block runs, then how long it took."""
        start = time.perf_counter()
        with progress_bar(name) as update:
            yield update
        say(f"{name}: {time.perf_counter() - start:.1f} s")

    def cached(self, name: str) -> None:
        say(f"{name}: unchanged")

    def note(self, text: str) -> None:
        say(text)
