"""Progress of the stages: a live line on a terminal, one line per stage elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vit_edge.runtime.tools.display import progress_bar

Update = Callable[[int, int], None]
"""Called with steps done and steps in all."""


def ignore(done: int, total: int) -> None:
    """The `Update` of those who do not watch."""


class Display:
    """Prints to standard error."""

    @contextmanager
    def stage(self, name: str) -> Iterator[Update]:
        """Shows a stage while the block runs, then how long it took."""
        start = time.perf_counter()
        with progress_bar(name) as update:
            yield update
        print(f"{name}: {time.perf_counter() - start:.1f} s", file=sys.stderr, flush=True)

    def cached(self, name: str) -> None:
        print(f"{name}: unchanged", file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)
