"""ONNX graphs whose weights lie beside them, for libraries that find those by a path."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .base import External


def write_out(path: Path, onnx: bytes, external: External) -> None:
    """Writes a graph to `path`, its verified weights beside it."""
    for name, content in external.items():
        (path.parent / name).write_bytes(content)
    path.write_bytes(onnx)


@contextmanager
def written_out(onnx: bytes, external: External) -> Iterator[Path]:
    """The path of the graph in a folder of this user alone, its verified weights beside it."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="vit-edge-") as folder:
        path = Path(folder) / "model.onnx"
        write_out(path, onnx, external)
        yield path
