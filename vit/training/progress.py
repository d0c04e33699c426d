"""What the user sees while epochs run: a bar on a terminal where rich is installed, a line for each
epoch elsewhere. All on standard error.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from vit_edge.runtime.tools.display import percent, say

from .state import EpochResult


@dataclass(frozen=True)
class Progress:
    """Where a training reports to.

    Attributes:
        step: Told the epoch, counted from 0, its batches done and their number.
        epoch: Told the epochs done and the last one's result.
    """

    step: Callable[[int, int, int], None]
    epoch: Callable[[int, EpochResult], None]


@contextmanager
def show_progress(epochs: int) -> Iterator[Progress]:
    """Shows a training of so many epochs while the block runs."""
    try:
        import rich.console
        import rich.progress as bars
    except ImportError:
        yield _plain(epochs)
        return
    if not sys.stderr.isatty():
        yield _plain(epochs)
        return
    columns = (bars.TextColumn("{task.description}"), bars.BarColumn(), bars.MofNCompleteColumn())
    console = rich.console.Console(stderr=True)
    with bars.Progress(
        *columns, bars.TimeElapsedColumn(), console=console, transient=True
    ) as display:
        task = display.add_task("training", total=None)
        yield Progress(
            step=lambda epoch, done, batches: display.update(
                task, description=f"epoch {epoch + 1}/{epochs}", completed=done, total=batches
            ),
            epoch=lambda done, result: display.console.print(_line(done, epochs, result)),
        )


def _plain(epochs: int) -> Progress:
    return Progress(
        step=lambda epoch, done, batches: None,
        epoch=lambda done, result: say(_line(done, epochs, result)),
    )


def _line(done: int, epochs: int, result: EpochResult) -> str:
    return (
        f"epoch {done}/{epochs}: training loss {result.training_loss:.3f}, validation loss "
        f"{result.validation_loss:.3f}, top-1 {percent(result.accuracy)}"
    )
