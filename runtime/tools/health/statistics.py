"""Statistics of an image and of what the model makes of it: what drift is judged by.

Each is one number of one image. Pixels are sampled on a grid of about 32 by 32 places, with their
right and lower neighbours, so that a call of a small model costs hardly more.

Reference statistics are those of the images that the model was judged by at its export; they travel
in the bundle.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...bundle import Bundle
from ...errors import BundleError
from ...files import REMEDY
from ...golden import parse_arrays
from ...manifest import EngineSpec
from ...outputs import KINDS, LOGITS, MULTILABEL, OutputSpec

Floats = NDArray[np.float32]

BRIGHTNESS, CONTRAST = "brightness", "contrast"
SHARPNESS, DETAIL, CLIPPED, CENTRE = "sharpness", "detail", "clipped", "centre - edge"
SATURATION, RED_BLUE = "saturation", "red - blue"
CLASS, CONFIDENCE, ENTROPY = "class", "confidence", "entropy"
MEAN, SPREAD, LABELS = "mean", "spread", "labels"
COLORS = ("red", "green", "blue")

_GRID = 32
_MOST_VALUES = 4096
"""Numbers of an output that its mean and spread are taken of: maps have hundreds of thousands."""


@functools.cache
def input_names(channels: int) -> tuple[str, ...]:
    """The statistics of a frame of so many channels: 1 is grey, 3 are red, green and blue."""
    each = [f"{c} {what}" for what in (BRIGHTNESS, CONTRAST) for c in COLORS]
    own = each if channels == len(COLORS) else [BRIGHTNESS, CONTRAST]
    colors = [SATURATION, RED_BLUE] if channels == len(COLORS) else []
    return (*own, SHARPNESS, DETAIL, CLIPPED, CENTRE, *colors)


def output_names(output: OutputSpec) -> tuple[str, ...]:
    """The statistics of an output, by its kind."""
    own: tuple[str, ...]
    if output.classifies:
        own = (CONFIDENCE, ENTROPY, CLASS)
    elif output.is_of_labels:
        own = (CONFIDENCE, LABELS)
    else:
        own = (MEAN,) if output.size == 1 else (MEAN, SPREAD)
    return tuple(f"{what} of {output.name}" for what in own)


def statistic_names(spec: EngineSpec) -> tuple[str, ...]:
    """All statistics of an engine's images, in the order of `measure`."""
    names = list(input_names(spec.image_shape[2]))
    for output in spec.outputs:
        names += output_names(output)
    return tuple(names)


def class_labels(spec: EngineSpec, labels: Sequence[str] | None) -> dict[str, Sequence[str]]:
    """The names of classes by the statistic that they are of: those of one output alone."""
    if labels is None or spec.labelled is None:
        return {}
    return {f"{CLASS} of {spec.labelled.name}": labels}


def is_class(name: str) -> bool:
    """Tells whether the statistic is the index of a class, of which shares are compared."""
    return name.startswith(f"{CLASS} of ")


def is_of_output(name: str) -> bool:
    """Tells whether the statistic is of an output rather than of a frame."""
    return " of " in name


def measure(frames: Any, outputs: Mapping[str, Floats], spec: EngineSpec) -> Floats:
    """The statistics of images, float32 `[N, len(statistic_names(spec))]`.

    Args:
        frames: uint8 `[N, height, width, channels]`; of frames on a GPU the statistics are NaN.
        outputs: float32 `[N, *shape]` by name. Where an image's are not finite, the statistics of
            that output are NaN.
        spec: Of the engine.
    """
    if isinstance(frames, np.ndarray):
        parts = [measure_frames(frames)]
    else:
        shape = (len(outputs[spec.outputs[0].name]), len(input_names(spec.image_shape[2])))
        parts = [np.full(shape, np.nan, np.float32)]
    parts += [measure_output(outputs[output.name], output) for output in spec.outputs]
    return np.concatenate(parts, axis=1)


def measure_frames(frames: NDArray[np.uint8]) -> Floats:
    """The statistics of `input_names`, float32 `[N, their number]`.

    Brightness and contrast are a channel's mean and standard deviation, 0 to 255; detail is the
    binary logarithm of the mean square of differences between neighbours, sharpness the same less
    that of the variance; clipped is the share of values that are 0 or 255; centre - edge compares
    the middle half of each side with the whole; saturation is the mean range over the channels.
    """
    count, channels = len(frames), frames.shape[3]
    sampling = _sampling(*frames.shape[1:3], channels)
    # Few calls of numpy, for each costs more than what it computes: between two calls of an engine
    # neither code nor data stay in the processor's caches.
    taken = frames.reshape(count, -1).take(sampling.indices, axis=1)
    values = taken.astype(np.float32).reshape(count, 3, channels, -1)
    own, places = values[:, 0], values.shape[3]
    means = own @ sampling.weights
    mean, overall = means[:, :, 0], means.mean(axis=1)
    centred = own - mean[:, :, None]
    variance = np.einsum("ncp,ncp->nc", centred, centred) / places
    differences = values[:, 1:] - values[:, :1]
    energy = np.einsum("nkcp,nkcp->n", differences, differences) / differences[0].size
    spread = variance.sum(axis=1) / channels
    detail = np.log2(1 + energy)
    extreme = taken[:, : channels * places] + np.uint8(1) < 2  # 255 comes round to 0
    measured = np.empty((count, len(input_names(channels))), np.float32)
    measured[:, :channels] = mean
    measured[:, channels : 2 * channels] = np.sqrt(variance)
    rest = measured[:, 2 * channels :]
    rest[:, 0] = detail - np.log2(1 + spread)
    rest[:, 1] = detail
    rest[:, 2] = [np.count_nonzero(each) / each.size for each in extreme]
    rest[:, 3] = overall[:, 1] - overall[:, 0]
    if channels == len(COLORS):
        extent = own.max(axis=1) - own.min(axis=1)
        rest[:, 4] = extent @ sampling.weights[:, 0]
        rest[:, 5] = mean[:, 0] - mean[:, 2]
    return measured


@dataclass(frozen=True)
class _Sampling:
    """Places of a frame that are looked at.

    Attributes:
        indices: Into a flat frame, those of the places, of their lower and of their right
            neighbours, each channel by channel.
        weights: `[places, 2]`: those of the mean over all, and over the middle half of each side.
    """

    indices: NDArray[np.intp]
    weights: Floats


@functools.lru_cache(maxsize=8)
def _sampling(height: int, width: int, channels: int) -> _Sampling:
    step = (max(1, height // _GRID), max(1, width // _GRID))
    # The last row and column have no neighbours; of a single one there is nothing else.
    rows = np.arange(min(step[0] // 2, height - 1), max(1, height - 1), step[0])
    columns = np.arange(min(step[1] // 2, width - 1), max(1, width - 1), step[1])
    flat = []
    for down, right in ((0, 0), (1, 0), (0, 1)):
        y, x = np.minimum(rows + down, height - 1), np.minimum(columns + right, width - 1)
        places = (y[:, None] * width + x[None, :]) * channels
        flat += [places.reshape(-1) + channel for channel in range(channels)]
    middle = np.zeros((len(rows), len(columns)))
    middle[
        len(rows) // 4 : len(rows) - len(rows) // 4,
        len(columns) // 4 : len(columns) - len(columns) // 4,
    ] = 1
    weights = np.stack([np.full(middle.size, 1 / middle.size), middle.reshape(-1) / middle.sum()])
    return _Sampling(np.concatenate(flat), np.ascontiguousarray(weights.T, np.float32))


def measure_output(values: Floats, output: OutputSpec) -> Floats:
    """The statistics of `output_names` of values `[N, *shape]`; NaN of an image whose values are
    not finite.

    Confidence is the probability of the likeliest class, of labels the mean of what each is taken
    for; entropy is in nats; labels are those that hold; mean and spread (standard deviation) are
    over the output's numbers, of large ones over a few thousand.
    """
    flat = values.reshape(len(values), -1)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        if output.classifies:
            own = _measure_classes(flat, output.kind == LOGITS)
        elif output.is_of_labels:
            own = _measure_labels(flat, output)
        else:
            some = flat[:, :: -(-flat.shape[1] // _MOST_VALUES)]
            own = [some.mean(axis=1)] if output.size == 1 else [some.mean(axis=1), some.std(axis=1)]
    measured = np.array(own, np.float32).T
    finite = np.asarray(np.isfinite(measured).all(axis=1))
    if output.is_of_labels:  # an infinite score is a finite probability
        finite &= np.isfinite(flat).all(axis=1)
    return measured if finite.all() else np.where(finite[:, None], measured, np.float32(np.nan))


def _measure_classes(flat: Floats, are_logits: bool) -> list[Any]:
    best = flat.argmax(axis=1)
    if are_logits:
        shifted = flat - flat[np.arange(len(flat)), best][:, None]
        powers = np.exp(shifted)
        total = np.add.reduce(powers, axis=1)
        weighted = np.einsum("nc,nc->n", powers, shifted)
        return [1 / total, np.log(total) - weighted / total, best]
    tiny = np.float32(1e-30)
    entropy = -(flat * np.log(np.maximum(flat, tiny))).sum(axis=1)
    return [flat.max(axis=1), entropy, best]


def _measure_labels(flat: Floats, output: OutputSpec) -> list[Any]:
    decide = KINDS[output.kind].decide
    assert decide is not None  # of every kind of labels
    holds = decide(flat)
    odds = 1 / (1 + np.exp(-flat)) if output.kind == MULTILABEL else flat
    return [np.where(holds, odds, 1 - odds).mean(axis=1), holds.sum(axis=1)]


MOST_IMAGES = 1024
"""Reference images of a bundle: more would narrow the limits of a window of 128 by 6 % at most."""
NONE = "no reference statistics: the bundle was made by another vit-edge, export it again"
_VALUES = "values"


@dataclass(frozen=True)
class ReferenceStatistics:
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


def read_reference(bundle: Bundle) -> ReferenceStatistics | None:
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
    return ReferenceStatistics(names, values, tuple(c for c, _ in known), entry.source)
