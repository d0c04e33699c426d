"""Writes `report.json` and `report.html`, each whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from ...files import write_whole
from ...schema import encode
from .comparison import Comparison
from .page import draw_page

HTML, JSON = "report.html", "report.json"
_READABLE = 0o644


def default_folder(bundle: Path) -> Path:
    """`<bundle>.compare/`, beside the bundle, which is itself never written to."""
    path = Path(os.path.abspath(bundle))
    return path.with_name(f"{path.name}.compare")


def write_reports(comparison: Comparison, folder: Path) -> Path:
    """Writes both reports and returns the path of the page.

    Raises:
        OSError: if `folder` cannot be made or written to; an earlier report stays whole.
    """
    texts = {JSON: encode(comparison), HTML: draw_page(comparison)}
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_whole(folder / name, text.encode(), mode=_READABLE)
    return folder / HTML
