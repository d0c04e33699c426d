"""Writes `docs/models.md`: what became of every model of the zoo, by every door."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vit_edge.export.quantise.layers import ALL, ATTENTION, CONVOLUTIONS, LINEARS

from .models import read_entries
from .trial import CRASHED, DOORS, HELD_BACK, NO_FILE, REFUSED, SHIPPED, TIME_LIMIT, Record

_ABOUT = """# Models that were tried

`make zoo` exports every model of `benchmarks/zoo/data/`, shrunk to seconds and with random
weights, in fp32, fp16 and int8, by each door: the module itself, and the ONNX files of PyTorch's
two exporters. Outputs of one dimension are compared as numbers, to 5 % of what tells images
apart; with random weights classes mean nothing. They are drawn so that a model does not amplify
rounding, as trained ones do not; what INT8 loses on trained weights they do not tell. The table is
as `make zoo` wrote it.

- *fp32 error*: the worst difference of the exported graph from PyTorch, relative to the range of
  the output.
- *int8 work*: the share of all multiplications that int8 quantised; of Linears, of attention's
  products, of convolutions.
- *stays*: layers that int8 leaves in higher precision so that its budget holds.
- *engines*: how many TensorRT for RTX built, of those that were asked for; none is built of a
  precision that missed its budget; "-": run without.

"""
_COLUMNS = (
    "model", "door", "outcome", "fp32 error", "fp16", "int8", "int8 work", "stays", "engines", "s",
    "why",
)  # fmt: skip
_OUTCOMES = (SHIPPED, HELD_BACK, REFUSED, CRASHED, TIME_LIMIT, NO_FILE)
_LONGEST, _EXACT = 160, 1e-3
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
"""Of terminals, in exporters' messages."""


def write_table(path: Path, records: Sequence[Record]) -> None:
    """Writes the document."""
    trials = len(read_entries()) * len(DOORS)
    extent = f"{len(records)} of {trials} trials were run; their seconds are of busy machines.\n\n"
    parts = [_ABOUT, extent, _summary(records), "\n"]
    for library in dict.fromkeys(record.library for record in records):
        rows = [_row(record) for record in records if record.library == library]
        parts += [f"## {library}\n\n", _table(_COLUMNS, rows), "\n"]
    path.write_text("".join(parts).rstrip() + "\n")


def _summary(records: Sequence[Record]) -> str:
    """A row for each door: how many of how many."""
    rows = []
    for door in dict.fromkeys(record.door for record in records):
        of_door = [record for record in records if record.door == door]
        outcomes = Counter(record.outcome for record in of_door)
        built, asked = (sum(getattr(r, name) for r in of_door) for name in ("engines", "asked"))
        rows.append(
            (
                door,
                str(outcomes.total()),
                *(str(outcomes[name]) for name in _OUTCOMES),
                str(sum(r.fp32_error is not None and r.fp32_error < _EXACT for r in of_door)),
                str(sum(_is_proven(r, "fp16") for r in of_door)),
                str(sum(_is_proven(r, "int8") for r in of_door)),
                f"{built} of {asked}" if asked else "-",
            )
        )
    measures = (f"fp32 error under {_EXACT:g}", "fp16 proven", "int8 proven", "engines")
    return _table(("door", "models", *_OUTCOMES, *measures), rows)


def _is_proven(record: Record, name: str) -> bool:
    return bool((precision := record.precisions.get(name)) and not precision["problem"])


def _row(record: Record) -> tuple[str, ...]:
    precisions = record.precisions
    int8 = precisions.get("int8", {})
    error = "-" if record.fp32_error is None else f"{record.fp32_error:.0e}"
    return (
        record.name,
        record.door,
        record.outcome,
        error,
        _verdict(precisions.get("fp16")),
        _verdict(int8),
        _work(int8.get("quantised") or {}),
        str(len(int8.get("fallback", ()))) if int8 else "-",
        f"{record.engines} of {record.asked}" if record.asked else "-",
        f"{record.seconds:.0f}",
        _shortened(record.error),
    )


def _verdict(precision: Mapping[str, Any] | None) -> str:
    if not precision:
        return "-"
    return "missed" if precision["problem"] else f"{precision['cosine']:.5f}"


def _work(shares: Mapping[str, float]) -> str:
    if not shares:
        return "-"
    kinds = [f"{name} {100 * shares[name]:.0f}" for name in (LINEARS, ATTENTION, CONVOLUTIONS)
             if name in shares]  # fmt: skip
    return f"{100 * shares[ALL]:.0f} % ({', '.join(kinds)})"


def _shortened(text: str) -> str:
    plain = " ".join(_COLOURS.sub("", text).replace("|", "/").split())
    return plain if len(plain) <= _LONGEST else plain[: _LONGEST - 3] + "..."


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
