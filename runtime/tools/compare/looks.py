"""How engines look in every picture: colour tells the precision, shape and dash the backend.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart; none is the only cue.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from . import svg
from .comparison import ComparedRow

_COLOURS = {"fp32": 0, "fp16": 1, "bf16": 2, "int8": 3, "fp8": 4, "int4": 5, "mixed": 6}
COLOURS = 8
_BACKENDS = ("onnxruntime", "openvino", "tensorrt", "tensorrt-rtx", "onnxruntime-cuda")


def colour(precision: str) -> str:
    """The class of a precision's colour."""
    return f"c{_COLOURS.get(precision, COLOURS - 1)}"


def shape(backend: str) -> str:
    """The shape of a backend's marks."""
    return svg.SHAPES[_place(backend)]


def dash(backend: str) -> str:
    """The class of a backend's lines."""
    return f"d{_place(backend)}"


def _place(backend: str) -> int:
    return _BACKENDS.index(backend) if backend in _BACKENDS else len(_BACKENDS) - 1


def name(row: ComparedRow) -> str:
    return f"{row.precision} · {row.backend}"


def single(rows: Sequence[ComparedRow]) -> list[ComparedRow]:
    """The rows of the smallest batch size that were measured, the fastest first."""
    measured = [row for row in rows if row.batch is not None and row.p50_ms is not None]
    smallest = min((row.batch or 0 for row in measured), default=0)
    return sorted((r for r in measured if r.batch == smallest), key=lambda r: r.p50_ms or 0.0)


def legend(backends: Iterable[str], y: float) -> str:
    """The shapes of these backends, in a line."""
    parts, x = [], 8.0
    for backend in dict.fromkeys(backends):
        parts.append(svg.marker(shape(backend), x, y - 4, 5, "mark key"))
        parts.append(svg.text(backend, x + 11, y, class_="tick"))
        x += 30 + svg.text_width(backend, 12)
    return "".join(parts)
