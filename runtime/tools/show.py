"""Outputs of an image as people and programs read them, by their kinds; maps as pictures."""

from __future__ import annotations

import colorsys
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..answers import TopK
from ..engine import Engine
from ..errors import BackendError, InputError, first_line, install_command
from ..outputs import (
    BOXES,
    EMBEDDING,
    MAP,
    VALUE,
    OutputSpec,
)
from .display import percent

_FIRST = 5
_LIKELY = 0.5
"""Probability above which a label holds."""

Values = NDArray[np.float32]


@dataclass(frozen=True)
class Shown:
    """An output of an image: `words` for people, `fields` for `--json`."""

    words: str
    fields: dict[str, Any]


def show_outputs(engine: Engine, outputs: Any, k: int, maps: Mapping[str, Path]) -> Shown:
    """Describes what the engine made of one image.

    Args:
        engine: The engine.
        outputs: One array, or a mapping by name where the model has several outputs.
        k: Number of classes to name.
        maps: Pictures that were written of maps, by the outputs' names.
    """
    if len(engine.outputs) == 1:
        return _show(engine, engine.outputs[0], outputs, k, maps)
    shown = {o.name: _show(engine, o, outputs[o.name], k, maps) for o in engine.outputs}
    words = "; ".join(f"{name}: {one.words}" for name, one in shown.items())
    return Shown(words, {"outputs": {name: one.fields for name, one in shown.items()}})


def _show(
    engine: Engine, output: OutputSpec, values: Values, k: int, maps: Mapping[str, Path]
) -> Shown:
    if output.classifies or output.is_of_labels:
        labels = engine.labels if output is engine.top.output else None
        answers = TopK(labels, output)(values, k)
        likely = [a for a in answers if a.probability > _LIKELY] or answers[:1]
        named = likely if output.is_of_labels else answers
        words = ", ".join(f"{a.label} {percent(a.probability)}" for a in named)
        return Shown(words, {f"top{k}": [(a.label, a.probability) for a in answers]})
    if output.kind == EMBEDDING:
        norm = float(np.linalg.norm(values))
        words = f"{len(values)} features of norm {norm:.4f}: {_first(values)}"
        return Shown(words, {output.name: values.tolist()})
    if output.kind == VALUE:
        numbers = np.atleast_1d(values)
        words = ", ".join(f"{number:.6g}" for number in numbers[:_FIRST])
        return Shown(
            words + (", ..." if len(numbers) > _FIRST else ""), {output.name: values.tolist()}
        )
    if output.kind == BOXES:
        return Shown(f"{len(values)} boxes: {_first(values[0])}", {output.name: values.tolist()})
    return _show_many(output, values, maps.get(output.name))


def _show_many(output: OutputSpec, values: Values, picture: Path | None) -> Shown:
    """Describes tokens and maps, whose values are too many to print."""
    low, high, mean = float(values.min()), float(values.max()), float(values.mean())
    shape = " x ".join(map(str, output.shape))
    words = f"{shape}, {low:.4g} to {high:.4g}, mean {mean:.4g}"
    fields: dict[str, Any] = {"shape": list(output.shape), "min": low, "max": high, "mean": mean}
    if picture is not None:
        words, fields["picture"] = f"{words}, drawn in {picture}", str(picture)
    return Shown(words, fields)


def _first(values: Values) -> str:
    return ", ".join(f"{value:.4f}" for value in values[:_FIRST]) + ", ..."


def draw_maps(engine: Engine, outputs: Any, stem: str, folder: Path) -> dict[str, Path]:
    """Writes each map of an image as a PNG file in `folder`; returns the files by output.

    A map of one channel is grey from its least to its largest value; of several channels each pixel
    has the colour of its class.

    Args:
        engine: The engine.
        outputs: What it made of the image.
        stem: Begins the files' names.
        folder: Is made where it is missing.

    Raises:
        BackendError: if Pillow is not installed.
        InputError: if a file cannot be written.
    """
    try:
        from PIL import Image
    except ImportError:
        raise BackendError(f"maps are drawn by Pillow: {install_command('images')}") from None
    files = {}
    for output in engine.outputs:
        if output.kind != MAP:
            continue
        values = outputs if len(engine.outputs) == 1 else outputs[output.name]
        safe = re.sub(r"[^A-Za-z0-9._-]+", "_", stem)
        files[output.name] = folder / f"{safe}.{output.name}.png"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(map_pixels(values)).save(files[output.name])
        except OSError as error:
            raise InputError(
                f"{files[output.name]} cannot be written: {first_line(error)}"
            ) from None
    return files


def map_pixels(values: Values) -> NDArray[np.uint8]:
    """Returns a map `[h, w]` or `[c, h, w]` as pixels uint8 `[h, w]` or `[h, w, 3]`."""
    if values.ndim == 3 and len(values) > 1:
        classes: NDArray[np.int64] = values.argmax(axis=0)
        return np.take(_palette(len(values)), classes, axis=0)
    grey = values.reshape(values.shape[-2:]).astype(np.float64)
    low, high = float(grey.min()), float(grey.max())
    pixels: NDArray[np.uint8] = ((grey - low) * (255 / max(high - low, 1e-30))).astype(np.uint8)
    return pixels


def _palette(classes: int) -> NDArray[np.uint8]:
    """Colours uint8 `[classes, 3]`: hues by the golden ratio, which keeps neighbours apart; the
    first, most often the background, is black.
    """
    golden = 0.618034
    colours = [colorsys.hsv_to_rgb(i * golden % 1, 0.65, 0.95) for i in range(1, classes)]
    return (np.array([(0, 0, 0), *colours]) * 255).astype(np.uint8)
