"""ONNX files to export."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from vit_edge.export.cache import Hashed, Stage
from vit_edge.export.doors.source import Images, refuse_options
from vit_edge.export.outputs import FoundOutput, choose_outputs, safe_name
from vit_edge.runtime.errors import InputError
from vit_edge.runtime.manifest import FEATURES
from vit_edge.runtime.outputs import EMBEDDING, LOGITS, OutputSpec
from vit_edge.runtime.preprocess import Preprocess
from vit_edge.vit.hints import ModelHints, format_value

from .evaluate import OnnxRunner
from .image_input import ask_for_normalisation, read_own_normalisation, require_image
from .read import digest, load_onnx, require_supported
from .rebuild import CopyOnnxFile, OnnxReference, RebuildGraph

USUAL = ModelHints(interpolation="bicubic", crop=0.9, crop_mode="center")
"""Values of timm's augreg weights: assumed where none is given."""
SAID = ("mean", "std", "interpolation", "crop", "crop_mode")
"""Hints about preprocessing, by their names in `Preprocess`."""
_MOST_DIMENSIONS = 4
_ALL: Mapping[str, str | None] = {}
_NOTHING = ModelHints()


@dataclass(frozen=True)
class ForeignSource:
    """An ONNX file; it stands where a `ModelSource` does.

    Attributes:
        weights: The file's name.
        weights_key: SHA-256 of the file and its external data.
        assumed: ModelHints that the file does not say.
        outputs: Its outputs that are exported.
        facts: For the manifest: where the file comes from.
        notes: For the user to read before the work starts.
    """

    copy_stage: ClassVar[type[CopyOnnxFile]] = CopyOnnxFile
    name: str
    file: Path
    preprocess: Preprocess
    weights: str
    weights_key: str
    labels: tuple[str, ...] | None
    assumed: tuple[str, ...]
    outputs: tuple[OutputSpec, ...]
    facts: Mapping[str, object]
    notes: tuple[str, ...] = ()
    data: str = "samples"
    inferred: str = ""
    random: bool = False
    oracle: str = "the original file in ONNX Runtime"

    @property
    def classes(self) -> int:
        """Of the output that gives each image a class; 0 where none does."""
        return next((o.shape[0] for o in self.outputs if o.classifies), 0)

    def read_again(self) -> ir.Model:
        """Repeats `prepare` for the file.

        Raises:
            InputError: if it was changed since.
        """
        kinds = {output.name: output.kind for output in self.outputs}
        model = prepare(self.file, kinds, (self.preprocess.height, self.preprocess.width))
        if digest(self.file) != self.weights_key:
            raise InputError(f"{self.file} was changed while it was being exported: start again")
        return model

    def original_stage(self, seed: int) -> Stage[Path]:
        shape = self.preprocess.shape  # of a file of open sizes
        return self.copy_stage(Hashed(self, (self.weights_key, self.outputs, shape)))

    def graph_stage(self, original: Path) -> Stage[Path]:
        return RebuildGraph(original, self.preprocess, self.outputs)

    def reference_stage(self, original: Path, images: Images, seed: int) -> Stage[Path]:
        return OnnxReference(original, self.preprocess, self.outputs, images, seed)


def find_foreign_source(
    path: Path,
    hints: ModelHints = _NOTHING,
    outputs: Mapping[str, str | None] = _ALL,
    usual: ModelHints = USUAL,
) -> ForeignSource:
    """Reads the file, and runs it once to see what it gives.

    `usual` is assumed, and said, where neither `hints` nor the file know; one mean or deviation is
    for every channel.

    Raises:
        InputError: if it cannot be used, saying why and what to do.
    """
    _require_possible(hints)
    read, key = _read(path, outputs, hints.img_size), digest(path)
    model, chosen = read.model, tuple(one.spec for one in read.outputs)
    _require_labels_fit(hints.labels, chosen)
    assumed, notes = list[str](), list[str]()
    preprocess = _preprocess(model.graph.inputs[0], hints, usual, assumed, notes)
    facts: dict[str, object] = {
        "source": "ONNX file",
        "producer": f"{model.producer_name or '-'} {model.producer_version or ''}".strip(),
        "opset": model.opset_imports.get("", 0),
        "sha256": key,
    }
    return ForeignSource(
        name=re.sub(r"[^A-Za-z0-9_-]+", "_", path.stem).strip("_") or "model",
        file=path,
        preprocess=preprocess,
        weights=path.name,
        weights_key=key,
        labels=hints.labels,
        assumed=tuple(assumed),
        outputs=chosen,
        facts={
            **facts,
            **{f"output.{o.spec.name}": f"{o.spec.kind}, {o.origin}" for o in read.outputs},
        },
        notes=(*notes, *_describe_outputs(read.outputs), *read.left_out),
    )


def _describe_outputs(outputs: Sequence[FoundOutput]) -> tuple[str, ...]:
    return tuple(
        f"output {o.spec.name} [N{''.join(f', {size}' for size in o.spec.shape)}]: {o.spec.kind} "
        f"({o.origin})"
        for o in outputs
    )


def _require_labels_fit(labels: tuple[str, ...] | None, outputs: Sequence[OutputSpec]) -> None:
    """Raises InputError for labels of another number than any output has classes."""
    if labels is None:
        return
    counts = {o.name: o.shape[0] for o in outputs if o.shape}
    if len(labels) not in counts.values():
        sizes = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise InputError(f"--labels has {len(labels)} names, the model's outputs: {sizes}")


def _require_possible(hints: ModelHints) -> None:
    """Refuses options of the architecture, which the file has inside."""
    inside = {
        "--heads": hints.n_heads,
        "--norm-eps": hints.norm_eps,
        "--activation": hints.mlp,
    }
    refuse_options(inside, "fixed in an ONNX file, leave it out with --onnx")


def prepare(
    path: Path,
    outputs: Mapping[str, str | None] = _ALL,
    size: tuple[int, int] | None = None,
) -> ir.Model:
    """The file with one image in, of height and width `size` where it takes any, and its chosen
    outputs out; otherwise as it is.

    Raises:
        InputError: if it cannot be used, saying why and what to do.
    """
    return _read(path, outputs, size).model


@dataclass(frozen=True)
class _Read:
    """A file with the outputs that are exported, and a note on each of the others."""

    model: ir.Model
    outputs: tuple[FoundOutput, ...]
    left_out: tuple[str, ...]


def _read(path: Path, asked: Mapping[str, str | None], size: tuple[int, int] | None) -> _Read:
    model = load_onnx(path)
    require_supported(path, model)
    common.RemoveInitializersFromInputsPass()(model)
    image = require_image(path, model.graph, size)
    shape = [1, *list(image.shape or ())[1:]]
    assert image.dtype is not None
    for value in model.graph.outputs:
        value.name = safe_name(str(value.name))
    results = OnnxRunner(model)(np.zeros(shape, image.dtype.numpy()))  # type: ignore[arg-type]
    usable, left_out = _usable(results)
    if not usable:
        raise InputError(
            f"{path} gives {'; '.join(left_out)}: an output [batch, ...] in float32 is expected"
        )
    raw = image.dtype == ir.DataType.UINT8
    height, width = (int(size) for size in (shape[1:3] if raw else shape[2:4]))  # type: ignore[arg-type]
    asked = _by_kind_alone(asked, usable)
    chosen = choose_outputs(model.graph, usable, asked, (height, width))
    names = {one.spec.name: one.spec.shape for one in chosen}
    unwanted = [
        f"{n} {list(s)}: --output does not name it" for n, s in usable.items() if n not in names
    ]
    values = [value for value in model.graph.outputs if value.name in names]
    for value in values:
        value.shape = ir.Shape(["batch", *names[str(value.name)]])
    model.graph.outputs[:] = values
    common.RemoveUnusedNodesPass()(model)
    return _Read(
        model, chosen, tuple(f"left out: the output {text}" for text in [*unwanted, *left_out])
    )


def _by_kind_alone(
    asked: Mapping[str, str | None], usable: Mapping[str, tuple[int, ...]]
) -> Mapping[str, str | None]:
    """Reads `--output logits` and `--output features`, where the only output has another name, as
    its kind.
    """
    kinds = {LOGITS: LOGITS, FEATURES: EMBEDDING}
    if len(usable) == len(asked) == 1:
        (name, kind), only = next(iter(asked.items())), next(iter(usable))
        if kind is None and name in kinds:
            return {only: kinds[name]}
    return asked


def _usable(results: Mapping[str, object]) -> tuple[dict[str, tuple[int, ...]], list[str]]:
    """The shapes of the outputs that can be exported, and why others cannot, in words."""
    usable, others = dict[str, tuple[int, ...]](), list[str]()
    for name, value in results.items():
        if not isinstance(value, np.ndarray):
            others.append(f"{name}: it is a {type(value).__name__}, no tensor")
        elif value.dtype != np.float32:
            others.append(
                f"{name} {list(value.shape)}: it is of the type {value.dtype}, not float32"
            )
        elif not value.ndim or value.shape[0] != 1 or not value.size:
            others.append(f"{name} {list(value.shape)}: its first axis is not that of the images")
        elif value.ndim > _MOST_DIMENSIONS:
            others.append(
                f"{name} {list(value.shape)}: it has more dimensions than a map of channels"
            )
        else:
            usable[name] = value.shape
    return usable, others


def _preprocess(
    image: ir.Value,
    hints: ModelHints,
    usual: ModelHints,
    assumed: list[str],
    notes: list[str],
) -> Preprocess:
    shape = [int(size) for size in list(image.shape or ())[1:]]  # type: ignore[arg-type]
    raw = image.dtype == ir.DataType.UINT8
    height, width, channels = shape if raw else (*shape[1:], shape[0])
    known = hints.or_else(_read_normalisation(image, hints, channels, notes))
    if usual.mean is not None and usual.std is not None:
        usual = replace(usual, mean=usual.mean * channels, std=usual.std * channels)
    missing = [n for n in ("mean", "std") if getattr(known.or_else(usual), n) is None]
    if missing:
        raise ask_for_normalisation(missing)
    for name, value in vars(usual).items():
        if value is not None and getattr(known, name) is None:
            assumed.append(f"{name.replace('_', ' ')} {format_value(value)}")
    fields = {name: getattr(known.or_else(usual), name) for name in SAID}
    try:
        return Preprocess(height, width, channels, **fields)
    except ValueError as error:
        raise InputError(f"--mean and --std, --crop or --interpolation: {error}") from None


def _read_normalisation(
    image: ir.Value, hints: ModelHints, channels: int, notes: list[str]
) -> ModelHints:
    """The mean and deviation of a graph that normalises its images itself: those of its input.

    Raises:
        InputError: if the user gives others.
    """
    if image.dtype == ir.DataType.UINT8:
        if hints.mean or hints.std:
            raise InputError("the file takes raw pixels: --mean and --std have nowhere to go")
        return ModelHints(mean=(0.0,) * channels, std=(1.0,) * channels)
    own = read_own_normalisation(image)
    if own is None:
        return ModelHints()
    mean, std = (0.0,) * channels, own.input_std(channels)
    given = hints.mean or mean, hints.std or std
    if not all(map(np.allclose, given, (mean, std))):
        raise InputError(
            f"the model normalises its images itself ({own}, read from its graph), and --mean "
            f"{format_value(given[0])} --std {format_value(given[1])} would do it twice: leave "
            "them out"
        )
    notes.append(f"the model normalises its images itself: {own}, read from its graph")
    return ModelHints(mean=mean, std=std)
