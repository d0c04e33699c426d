"""Writes `report.json` and `report.html`, each whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from ..schema import encode
from .comparison import Comparison
from .page import draw_page

HTML, JSON = "report.html", "report.json"


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
    _write_all(texts, folder)
    return folder / HTML


def _write_all(texts: Mapping[str, str], folder: Path) -> None:
    for name, text in texts.items():
        descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=f".{name}.")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                os.fchmod(descriptor, 0o644)
                stream.write(text)
            os.replace(temporary, folder / name)
        except BaseException:
            os.unlink(temporary)
            raise
