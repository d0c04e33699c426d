"""Golden samples: images with PyTorch's outputs, read from `golden.npz` without trusting it.

In a bundle that is not signed, a file whose hash matches may still be hostile. So its layout is not
taken from the file: names, types, shapes and sizes must match the manifest before anything is
allocated or decompressed. Source of the layout: `numpy.lib.format`, version 1.0.
"""

from __future__ import annotations

import io
import math
import re
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import BundleError
from .files import REMEDY, available_memory
from .manifest import GOLDEN, EngineSpec, Graph
from .outputs import Metrics, OutputSpec, compare, worst_violation

InferFn = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Images `[N, height, width, channels]` to packed outputs `[N, width]`."""

SAMPLES_AT_LOAD = 8
"""Samples that an engine's first load on a device runs; `vit-edge check` runs them all."""

_MAX_SAMPLES = 1 << 16
_MAX_HEADER = 256
_MAGIC = b"\x93NUMPY\x01\x00"
_HEADER = re.compile(
    rb"\{'descr': '([|<][uif][1-8])', 'fortran_order': False, "
    rb"'shape': \(([1-9][0-9]{0,7})(?:,|((?:, [1-9][0-9]{0,7}){1,3}))\), \} *\n"
)
_DAMAGE = (
    ValueError, KeyError, IndexError, EOFError, OSError, RuntimeError, OverflowError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""Errors of `zipfile` for bad archives; RuntimeError for encrypted and unknown kinds."""


@dataclass(frozen=True)
class GoldenSamples:
    """Frames with PyTorch's outputs.

    Attributes:
        images: uint8 `[N, height, width, channels]`.
        logits: float32 `[N, width]` from PyTorch in fp32, its outputs side by side.
        labels: int64 `[N]`, or None where the evaluation images had none.
    """

    images: NDArray[np.uint8]
    logits: NDArray[np.float32]
    labels: NDArray[np.int64] | None

    def __len__(self) -> int:
        return len(self.images)

    def first(self, count: int | None) -> GoldenSamples:
        """Returns the first `count` samples; all for None."""
        labels = None if self.labels is None else self.labels[:count]
        return GoldenSamples(self.images[:count], self.logits[:count], labels)


def run_golden(
    infer: InferFn,
    golden: GoldenSamples,
    outputs: Sequence[OutputSpec],
    count: int | None = None,
) -> dict[str, Metrics]:
    """Compares the outputs of `infer` for the first `count` samples with PyTorch's, by name."""
    few = golden.first(count)
    return compare(infer(few.images), few.logits, outputs, few.labels, population=golden.logits)


def tolerance_violation(metrics: Mapping[str, Metrics], graph: Graph) -> str | None:
    """Describes the output that is furthest over the graph's tolerance; None if all are within."""
    worst = worst_violation(metrics, graph.rms_tolerance)
    if worst is None:
        return None
    name, error, tolerance = worst
    return f"{name} are {error:.3g} off (relative RMS), the bundle allows {tolerance:.3g}"


def parse_golden(raw: bytes, spec: EngineSpec) -> GoldenSamples:
    """Reads the samples in the bytes of `golden.npz`.

    Raises:
        BundleError: if they are damaged, or do not fit the engines.
    """
    expected: dict[str, tuple[Any, tuple[int, ...]]] = {
        "images": (np.uint8, spec.image_shape),
        "logits": (np.float32, (spec.width,)),
        "labels": (np.int64, ()),
    }
    arrays = parse_arrays(raw, expected, {"images", "logits"}, GOLDEN)
    samples = GoldenSamples(arrays["images"], arrays["logits"], arrays.get("labels"))
    if {len(array) for array in arrays.values()} != {len(samples)}:
        raise BundleError(
            f"{GOLDEN} does not fit the manifest: {len(samples)} images, {len(samples.logits)} "
            f"answers; {REMEDY}"
        )
    return samples


def parse_arrays(
    raw: bytes,
    expected: Mapping[str, tuple[Any, tuple[int, ...]]],
    required: Set[str],
    file: str,
) -> dict[str, NDArray[Any]]:
    """Reads the arrays in the bytes of an `.npz`, by name.

    Args:
        raw: The bytes.
        expected: The type of each array that may be there, and its shape without the first axis.
        required: Names of the arrays that must be there.
        file: Name of the file, for messages.

    Raises:
        BundleError: if it is damaged, or holds anything else.
    """
    arrays = dict[str, NDArray[Any]]()
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            for member in archive.infolist():
                name = member.filename.removesuffix(".npy")
                if name == member.filename or name not in expected or name in arrays:
                    raise ValueError(f"{member.filename[:60]!r} does not belong there")
                arrays[name] = _read_array(archive, member, *expected[name])
        if missing := sorted(required - arrays.keys()):
            raise ValueError(f"{missing[0]} are not there")
    except _DAMAGE as error:
        raise BundleError(f"{file} is not valid: {error}; {REMEDY}") from None
    return arrays


def _read_array(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, dtype: Any, rest: tuple[int, ...]
) -> NDArray[Any]:
    """Reads the array `[N, *rest]` of `dtype`; refuses any other before it is decompressed."""
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"compression {member.compress_type} is neither stored nor deflated")
    with archive.open(member) as stream:
        start = stream.read(len(_MAGIC) + 2)
        length = int.from_bytes(start[len(_MAGIC) :], "little")
        if not start.startswith(_MAGIC) or length > _MAX_HEADER:
            raise ValueError(f"{member.filename} is no array of numpy's format 1.0")
        header = _HEADER.fullmatch(stream.read(length))
        if header is None:
            raise ValueError(f"the header of {member.filename} is not numpy's")
        kind, count, tail = header.groups()
        shape = (int(count), *map(int, (tail or b"").decode().split(", ")[1:]))
        if kind.decode() != np.dtype(dtype).str or shape[1:] != rest or shape[0] > _MAX_SAMPLES:
            raise ValueError(
                f"{member.filename} is {kind.decode()} {list(shape)}: it does not fit the manifest"
            )
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if size > available_memory():
            raise ValueError(f"{member.filename} takes {size} bytes, more than the free memory")
        return _fill(np.empty(shape, dtype), stream)


def _fill(array: NDArray[Any], stream: Any) -> NDArray[Any]:
    """Fills `array` with the stream's bytes. The stream must end there; its CRC is checked then."""
    view = array.reshape(-1).view(np.uint8).data
    done = 0
    while done < len(view):
        count = stream.readinto(view[done:])
        if not count:
            raise ValueError("an array ends early")
        done += count
    if stream.read(1):
        raise ValueError("an array is longer than its header says")
    return array
