"""Influence of the choice of calibration images: twenty sets of 32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .contest import OURS, quantised
from .contest_rows import write
from .measures import faithfulness, run, run_once
from .subjects import subject

SETS, SIZE = 20, 32


def rows(name: str, cache: Path) -> list[dict[str, Any]]:
    """Quantises by ours with each set; prints the spread of agreement and top-1."""
    asked = subject(name, cache)
    labels = asked.evaluation.labels
    assert labels is not None
    model, images = write(asked, SIZE, cache)
    reference, results = run(model, asked.evaluation), []
    for number in range(SETS):
        chosen = np.random.default_rng(number).choice(len(asked.calibration), SIZE, replace=False)
        np.save(images, next(asked.calibration.subset(chosen.tolist()).batches(SIZE)))
        entry = quantised(OURS, model, images, cache)
        if entry.error is not None:
            raise RuntimeError(f"{name}, calibration set {number}: {entry.error}")
        results.append(faithfulness(run_once(entry.file, asked.evaluation), reference, labels))
    agreement = np.array([result.agreement for result in results])
    top1 = np.array([result.top1 for result in results])
    row = {"model": name, "sets": SETS, "images": SIZE}
    for measure, values in (("agreement", agreement), ("top1", top1)):
        row |= {f"{measure}_mean": values.mean(), f"{measure}_deviation": values.std(ddof=1)}
        row |= {f"{measure}_least": values.min()}
    print(
        f"{name}, {SETS} sets of {SIZE} images: agreement {agreement.mean():.2f} %, standard "
        f"deviation {agreement.std(ddof=1):.3f}, least {agreement.min():.2f}",
        flush=True,
    )
    return [row]
