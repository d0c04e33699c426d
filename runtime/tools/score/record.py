"""The record of a run: all that its rows depend on, kept beside them."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...schema import SchemaError, decode, encode, parse_json

RECORD = "_score.json"
"""Readers of Parquet pass over names with an underscore or a point in front."""
READABLE = 0o644
_MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class RunRecord:
    """All that a run's rows depend on: another run goes on only where it is the same.

    Attributes:
        bundle, bundle_sha256: The bundle's name, and the hash that stands for all its bytes.
        precision, backend: What runs.
        batch, rows: Images of one call, and of one file.
        top: Number of classes that are named.
        source, column: Where the images are; of Parquet the column with them, else "".
        images, images_sha256: Their number, and a hash of which there are, in order.
        vit_edge, library: Versions of vit-edge and of the backend's library.
    """

    bundle: str
    bundle_sha256: str
    precision: str
    backend: str
    batch: int
    rows: int
    top: int
    source: str
    column: str
    images: int
    images_sha256: str
    vit_edge: str
    library: str

    @property
    def digest(self) -> str:
        """SHA-256 in hex: every file of the run has it in its metadata."""
        return hashlib.sha256(encode(self).encode()).hexdigest()


def read_record(folder: Path) -> RunRecord | None:
    """Reads which run fills a folder; None where there is none yet.

    Raises:
        InputError: if the folder holds something else, or the record cannot be read.
    """
    file = folder / RECORD
    try:
        with file.open("rb") as stream:
            data = stream.read(_MOST_BYTES)
    except FileNotFoundError:
        _require_empty(folder)
        return None
    except NotADirectoryError:
        raise InputError(f"{folder} is a file: give --out a folder") from None
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror})") from None
    try:
        return decode(RunRecord, parse_json(data), "record")
    except (SchemaError, ValueError, RecursionError) as error:
        raise InputError(
            f"{file} is not what `vit-edge score` writes ({error}): give --out another folder"
        ) from None


def _require_empty(folder: Path) -> None:
    try:
        names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"{folder} cannot be used as --out ({error.strerror})") from None
    if names:
        raise InputError(
            f"{folder} holds other files ({names[0]}), which readers would take for rows: give "
            "--out an empty folder, or one that is not there yet"
        )


_WORDS = {
    "bundle_sha256": "bundle hash", "rows": "--rows", "batch": "--batch", "top": "--top",
    "images_sha256": "images' hash", "images": "number of images", "source": "source",
    "vit_edge": "vit-edge", "library": "the backend's library",
}  # fmt: skip


def require_same(path: Path, before: RunRecord, record: RunRecord) -> None:
    """Raises InputError if a folder was begun with another run than the one that is asked for."""
    if before != record:
        raise InputError(
            f"{path} was begun with {_differences(asdict(before), asdict(record))}: give --out "
            "another folder, or run it with what it was begun with"
        )


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{_WORDS.get(name, name)} {_short(value)} (now {_short(now[name])})"
        for name, value in before.items()
        if value != now[name]
    )


def _short(value: Any) -> str:
    text = str(value) or "none"
    return f"{text[:12]}..." if re.fullmatch(r"[0-9a-f]{64}", text) else text
