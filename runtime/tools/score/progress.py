"""Progress of a run: images done, images per second, time left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..display import figures, progress_bar, say, shows_bars
from .scoring import Step

_EVERY = 10.0
"""Seconds between lines, where there is no terminal that could show a bar."""


class Progress:
    """Counts what this process has done, and shows it as it grows.

    Attributes:
        rows: Written in this run.
        failed: Of these, rows with an error.
    """

    def __init__(self, total: int, move: Callable[[int, int], None]) -> None:
        self.rows = self.failed = 0
        self._total, self._move = total, move
        self._start, self._next = time.monotonic(), _EVERY

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    @property
    def rate(self) -> float:
        """Images per second."""
        return self.rows / max(self.seconds, 1e-9)

    def add(self, step: Step) -> None:
        """Counts rows; shows how far it is."""
        self.rows, self.failed = self.rows + step.rows, self.failed + step.failed
        self._move(self.rows, self._total)
        if self.seconds >= self._next and not shows_bars():
            self._next = self.seconds + _EVERY
            say(self._line())

    def _line(self) -> str:
        left = (self._total - self.rows) / max(self.rate, 1e-9)
        errors = f", {self.failed:,} with errors" if self.failed else ""
        return (
            f"{self.rows:,} of {self._total:,} images, {figures(self.rate)} images/s, "
            f"{_duration(left)} left{errors}"
        )


@contextmanager
def progress_of(total: int) -> Iterator[Progress]:
    """Shows how far the block is with `total` images: a bar on a terminal, else lines."""
    with progress_bar("scoring", "images/s") as move:
        yield Progress(total, move)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
