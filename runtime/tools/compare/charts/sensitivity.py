"""What quantising each part costs: a field for each part, a column for each block."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import log10

from .. import svg
from ..comparison import Sensitivity

_LEFT, _RIGHT, _TOP = 76.0, svg.WIDTH - 4.0, 8.0
_FIELD, _GAP = 30.0, 2.0
_SHADES = 6
_PART = re.compile(r"blocks\.(\d{1,3})\.(.{1,40})")
_MOST_BLOCKS = 64


def draw_sensitivity(precision: str, units: Sequence[Sensitivity]) -> str | None:
    """None where the parts are not those of a ViT's blocks."""
    found = [(match, unit) for unit in units if (match := _PART.fullmatch(unit.unit))]
    fields = {(m[2], int(m[1])): unit for m, unit in found if int(m[1]) < _MOST_BLOCKS}
    if not fields:
        return None
    kinds = list(dict.fromkeys(kind for kind, _ in fields))
    blocks = max(block for _, block in fields) + 1
    width = (_RIGHT - _LEFT) / blocks
    errors = [unit.error for unit in fields.values()]
    parts = [
        svg.text(
            _short(kind), _LEFT - 8, _TOP + _FIELD * (i + 0.62), class_="tick", text_anchor="end"
        )
        for i, kind in enumerate(kinds)
    ]
    for (kind, block), unit in fields.items():
        left, top = _LEFT + width * block, _TOP + _FIELD * kinds.index(kind)
        field = svg.rectangle(
            left, top, width - _GAP, _FIELD - _GAP, f"s{_shade(unit.error, errors)}"
        )
        parts.append(svg.tooltip(f"{unit.unit}: error {unit.error:.2g}", field))
    bottom = _TOP + _FIELD * len(kinds)
    step = max(1, -(-blocks // 12))
    for block in range(0, blocks, step):
        middle = _LEFT + width * (block + 0.5) - _GAP / 2
        parts.append(svg.text(str(block), middle, bottom + 14, class_="tick", text_anchor="middle"))
    parts.append(
        svg.text("block", (_LEFT + _RIGHT) / 2, bottom + 31, class_="name", text_anchor="middle")
    )
    parts.append(_key(errors, bottom + 44))
    return svg.chart(
        bottom + 66, f"What quantising each part to {precision} costs", _describe(units), *parts
    )


def _describe(units: Sequence[Sensitivity]) -> str:
    worst = sorted(units, key=lambda unit: -unit.error)[:3]
    return "Most sensitive: " + ", ".join(f"{unit.unit} ({unit.error:.2g})" for unit in worst)


def _short(kind: str) -> str:
    """The last names of a part; parts that are quantised together are joined by " + "."""
    return kind.split(" + ")[0].rpartition(".")[2][:10]


def _shade(error: float, errors: Sequence[float]) -> int:
    """0 for the least error to the darkest for the largest, by its logarithm."""
    low, high = max(min(errors), 1e-12), max(*errors, 1e-12)
    if high <= low:
        return 0
    share = log10(max(error, low) / low) / log10(high / low)
    return min(_SHADES - 1, int(share * _SHADES))


def _key(errors: Sequence[float], top: float) -> str:
    """The shades from least to largest error."""
    parts = [svg.text(f"{min(errors):.1g}", _LEFT - 8, top + 11, class_="tick", text_anchor="end")]
    for shade in range(_SHADES):
        parts.append(svg.rectangle(_LEFT + 26 * shade, top, 24, 13, f"s{shade}"))
    end = _LEFT + 26 * _SHADES + 4
    parts.append(svg.text(f"{max(errors):.1g} relative RMS error", end, top + 11, class_="tick"))
    return "".join(parts)
