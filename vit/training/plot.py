"""The plot of a training: loss and accuracy by epoch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .files import replace_file
from .state import EpochResult


def plot_history(history: Sequence[EpochResult], title: str, path: Path) -> None:
    """Saves a PNG with both losses on the left and the top-1 share on the right.

    Raises:
        InputError: if the file cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    epochs = range(1, len(history) + 1)
    figure = Figure(figsize=(10, 4), layout="constrained")
    figure.suptitle(title)
    loss, accuracy = figure.subplots(1, 2)
    mark = "o" if len(history) < 3 else ""  # a line of one point would be invisible
    loss.plot(epochs, [r.training_loss for r in history], marker=mark, label="training, augmented")
    loss.plot(epochs, [r.validation_loss for r in history], marker=mark, label="validation")
    loss.set(xlabel="epoch", ylabel="cross-entropy")
    loss.set_ylim(bottom=0)
    loss.legend()
    shares = [100 * r.accuracy for r in history]
    accuracy.plot(epochs, shares, color="tab:orange", marker=mark)
    accuracy.annotate(
        f"{shares[-1]:.1f} %", (epochs[-1], shares[-1]), (-4, -14), ha="right",
        textcoords="offset points",
    )  # fmt: skip
    accuracy.set(xlabel="epoch", ylabel="validation top-1 (%)", ylim=(0, 102))
    for axes in (loss, accuracy):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    with replace_file(path) as stream:
        figure.savefig(stream, format="png", dpi=120)
