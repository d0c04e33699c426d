"""Reference statistics of a bundle: those of images that the model was judged by at its export."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np

from ...bundle import Bundle
from ...errors import BundleError
from ...files import REMEDY
from ...golden import parse_arrays
from .statistics import Floats, is_class, statistic_names

MOST_IMAGES = 1024
"""Reference images of a bundle: more would narrow the limits of a window of 128 by 6 % at most."""
NONE = "no reference statistics: the bundle was made by another vit-edge, export it again"
_VALUES = "values"


@dataclass(frozen=True)
class Reference:
    """Statistics of reference images.

    Attributes:
        names: The statistics, a subset of the engine's.
        values: float32 `[images, len(names)]`.
        columns: The place of each in what `measure` gives.
        source: The images, in words.
    """

    names: tuple[str, ...]
    values: Floats
    columns: tuple[int, ...]
    source: str


def encode_statistics(values: Floats) -> bytes:
    """The contents of `statistics.npz`, the same for the same values."""
    stream = io.BytesIO()
    np.savez_compressed(stream, values=np.ascontiguousarray(values))
    return stream.getvalue()


def read_reference(bundle: Bundle) -> Reference | None:
    """The reference statistics of a bundle; None where it has none, or none that this version
    knows: others are left out.

    Raises:
        BundleError: if they are damaged, altered, or not as the manifest says.
    """
    entry, spec = bundle.manifest.statistics, bundle.manifest.spec
    if entry is None:
        return None
    expected = {_VALUES: (np.float32, (len(entry.names),))}
    values: Floats = parse_arrays(bundle.read(entry.file), expected, {_VALUES}, entry.file)[_VALUES]
    if len(values) != entry.images or not np.isfinite(values).all():
        raise BundleError(
            f"{entry.file} does not fit the manifest: {len(values)} images for {entry.images}, or "
            f"numbers that are not finite; {REMEDY}"
        )
    places = {name: place for place, name in enumerate(entry.names)}
    known = [(c, name) for c, name in enumerate(statistic_names(spec)) if name in places]
    names = tuple(name for _, name in known)
    if not names:
        return None
    values = np.ascontiguousarray(values[:, [places[name] for name in names]])
    for column, name in enumerate(names):
        own = values[:, column]
        if is_class(name) and (own.min() < 0 or (own != np.floor(own)).any()):
            raise BundleError(f"{entry.file}: {name} is no index of a class; {REMEDY}")
    return Reference(names, values, tuple(c for c, _ in known), entry.source)
