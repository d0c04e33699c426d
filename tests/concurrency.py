"""Many threads on one engine, for the tests of engines and sessions."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np


def wrong_answers(
    score: Callable[[np.ndarray], np.ndarray],
    frames: np.ndarray,
    expected: np.ndarray,
    rounds: int,
    tolerance: float = 1e-5,
) -> list[int]:
    """Scores eight frames, each in a thread of its own, again and again; indices of wrong ones."""
    wrong: list[int] = []

    def work(index: int) -> None:
        for _ in range(rounds):
            if not np.allclose(score(frames[[index]])[0], expected[index], atol=tolerance):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return wrong
