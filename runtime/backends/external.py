"""ONNX graphs whose weights lie beside them, for libraries that find those by a path."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .base import External


@contextmanager
def written_out(onnx: bytes, external: External) -> Iterator[Path]:
    """The path of the graph in a folder of this user alone, its verified weights beside it."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="vit-edge-") as folder:
        for name, content in external.items():
            (Path(folder) / name).write_bytes(content)
        path = Path(folder) / "model.onnx"
        path.write_bytes(onnx)
        yield path
