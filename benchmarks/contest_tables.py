"""The contest's rows as Markdown: ours beside the best setting of each peer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .contest import OURS

Row = Mapping[str, Any]

_PEERS = {"onnxruntime": "ONNX Runtime", "nncf": "NNCF", "modelopt": "ModelOpt"}
_SHORT_S = 20.0
"""Seconds that nobody minds: where none of those shown took longer they are left out."""
_LINES: dict[str, tuple[str, Callable[[Any], str]]] = {
    "top1": ("top-1, %", "{:.2f}".format),
    "agreement": ("agreement, %", "{:.2f}".format),
    "kl": ("KL", "{:.1e}".format),
    "error_rms": ("error of the output", "{:.4f}".format),
    "seconds": ("seconds", "{:.0f}".format),
}


def best_settings(rows: Sequence[Row]) -> str:
    """A table of all models, and a sentence that counts in how many comparisons ours is ahead."""
    head = [*(f"{name}, best" for name in _PEERS.values()), "best default"]
    lines = [f"| model | | fp32 | ours | {' | '.join(head)} |", "| --- " * 8 + "|"]
    for model in dict.fromkeys(row["model"] for row in rows):
        lines += _model_lines(model, [row for row in rows if row["model"] == model])
    return "\n".join([*lines, "", *_verdicts(rows)]) + "\n"


def _model_lines(model: str, rows: Sequence[Row]) -> list[str]:
    by_name = {row["quantiser"]: row for row in rows}
    columns: list[Row | None] = [by_name["fp32"], by_name[OURS.name]]
    columns += [_best(row for row in rows if row["quantiser"].startswith(peer)) for peer in _PEERS]
    columns.append(_best(row for row in rows if row["quantiser"].endswith("default")))
    lines = list[str]()
    longest = max(row.get("seconds", 0.0) for row in columns if row is not None)
    for key, (title, form) in _LINES.items():
        known = any(column is not None and key in column for column in columns)
        if known and (key != "seconds" or longest > _SHORT_S):
            cells = [form(c[key]) if c is not None and key in c else "" for c in columns]
            lines.append(f"| {'' if lines else model} | {title} | {' | '.join(cells)} |")
    return lines


def _best(rows: Any) -> Row | None:
    judged = [row for row in rows if "agreement" in row]
    return max(judged, key=lambda row: row["agreement"], default=None)


def _verdicts(rows: Sequence[Row]) -> list[str]:
    """Counts the comparisons with each setting of each peer, by the paired 95 % interval."""
    peers = [row for row in rows if "lead_top1" in row and row["quantiser"] != OURS.name]
    parts = list[str]()
    for key, title in (("agreement", "agreement"), ("top1", "top-1")):
        verdicts = Counter(row[f"lead_{key}"]["verdict"] for row in peers)
        counts = ", ".join(f"{word} in {verdicts[word]}" for word in ("ahead", "level", "behind"))
        parts.append(f"in {title} ours is {counts}")
    failed = sum("error" in row for row in rows)
    ended = f" {failed} runs of peers ended with an error." if failed else ""
    return [f"Of {len(peers)} comparisons, {'; '.join(parts)}.{ended}"]
