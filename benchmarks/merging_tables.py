"""The report of `benchmarks.merging` as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DEVICES = ("L4", "RTX 3060", "RTX 4090", "RTX PRO 6000")
"""Those of the table; the results have all."""


def tables(report: Mapping[str, Any]) -> str:
    """The report as Markdown."""
    machine = report["machine"]
    lines = [
        f"{machine['cpu']}, {machine['threads']} threads; load before {machine['load'][0]}, after "
        f"{machine['load_after'][0]}.",
        "",
        "| ViT-B/16, tokens merged in each block | work saved | backend | batch | int8, images/s "
        "| merged, images/s | gain |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in report["speed"]:
        rates = f"{row['plain_per_s']:.1f} | {row['merged_per_s']:.1f} | {row['gain']:.2f}"
        lines.append(
            f"| {max(row['merged'])} | {row['work_saved']:.0%} | {row['backend']} | {row['batch']} "
            f"| {rates} |"
        )
    lines += [
        "",
        "| trained model | images | merged | work saved | top-1 | unmerged | agreement | gain |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in report["trained"]:
        lines += _trained_rows(row)
    lines += [
        "",
        "| ViT-B/16 on a GPU, estimated | device | batch | merged in each block | ms | unmerged | "
        "kernels | unmerged | gain |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in report["gpus"]:
        if row["device"] in DEVICES:
            gain = row["plain_ms"] / row["merged_ms"]
            lines.append(
                f"| {row['precision']} | {row['device']} | {row['batch']} | {row['merged']} | "
                f"{row['merged_ms']:.3f} | {row['plain_ms']:.3f} | {row['merged_kernels']} | "
                f"{row['plain_kernels']} | {gain:.2f} |"
            )
    return "\n".join(lines) + "\n"


def _trained_rows(row: Mapping[str, Any]) -> list[str]:
    if row["left_out"]:
        return [f"| {row['model']} | {row['images']} | nothing: {row['left_out']} | | | | | |"]
    merging, rows = row["merged"]["merging"], []
    for backend, here in row["here"].items():
        gains = [
            f"{speed['gain']:.2f} at batch {speed['batch']}"
            for speed in row["speed"]
            if speed["backend"] == backend
        ]
        top1 = [
            "-" if here[key] is None else f"{100 * here[key]:.2f} %"
            for key in ("merged_top1", "plain_top1", "agreement")
        ]
        rows.append(
            f"| {row['model']}, {backend} | {row['images']} | {sum(merging['tokens'])} of "
            f"{merging['of']} | {merging['work_saved']:.0%} | {' | '.join(top1)} | "
            f"{', '.join(gains)} |"
        )
    return rows
