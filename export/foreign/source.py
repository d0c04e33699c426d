"""ONNX files to export."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from vit_edge.runtime.errors import InputError
from vit_edge.runtime.manifest import FEATURES, LOGITS
from vit_edge.runtime.preprocess import Preprocess
from vit_edge.vit.hints import ModelHints

from .read import digest, load_onnx, require_supported
from .session import Runner

_HALF, _CROP, _INTERPOLATION, _CROP_MODE = 0.5, 0.9, "bicubic", "center"
"""Values of timm's augreg weights: assumed where none is given."""
_SAID = ("mean", "std", "interpolation", "crop", "crop_mode")
_CHANNELS = (1, 3)
_NOTHING = ModelHints()


@dataclass(frozen=True)
class ForeignSource:
    """An ONNX file; it stands where a `ModelSource` does.

    Attributes:
        output: "logits" or "features".
        weights: The file's name.
        weights_key: SHA-256 of the file and its external data.
        assumed: ModelHints that the file does not say.
        outputs: The width of its logits or features.
        facts: For the manifest: where the file comes from.
        notes: For the user to read before the work starts.
    """

    name: str
    file: Path
    output: str
    preprocess: Preprocess
    weights: str
    weights_key: str
    labels: tuple[str, ...] | None
    assumed: tuple[str, ...]
    outputs: int
    facts: Mapping[str, object]
    notes: tuple[str, ...] = ()
    data: str = "samples"
    inferred: str = ""
    random: bool = False
    oracle: str = "the original file in ONNX Runtime"

    @property
    def classes(self) -> int:
        """0 for features, as for a model without a head."""
        return self.outputs if self.output == LOGITS else 0


def find_foreign_source(
    path: Path, hints: ModelHints = _NOTHING, output: str | None = None
) -> ForeignSource:
    """Reads the file, and runs it once to see what it gives.

    Raises:
        InputError: if it cannot be used, saying why and what to do.
    """
    _require_possible(hints, output)
    (model, left_out), key = _read(path), digest(path)
    width = int(model.graph.outputs[0].shape[1])  # type: ignore[index,arg-type]
    if hints.labels is not None and len(hints.labels) != width:
        raise InputError(f"--labels has {len(hints.labels)} names, the model {width} outputs")
    assumed: list[str] = []
    facts = {
        "source": "ONNX file",
        "producer": f"{model.producer_name or '-'} {model.producer_version or ''}".strip(),
        "opset": str(model.opset_imports.get("", 0)),
        "sha256": key,
    }
    return ForeignSource(
        name=re.sub(r"[^A-Za-z0-9_-]+", "_", path.stem).strip("_") or "model",
        file=path,
        output=output or LOGITS,
        preprocess=_preprocess(model.graph.inputs[0], hints, assumed),
        weights=path.name,
        weights_key=key,
        labels=hints.labels,
        assumed=tuple(assumed),
        outputs=width,
        facts=facts,
        notes=_describe_left_out(str(model.graph.outputs[0].name), left_out),
    )


def _describe_left_out(taken: str, left_out: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    if not left_out:
        return ()
    others = ", ".join(f"{name} {list(value.shape)}" for name, value in left_out.items())
    return (
        f"left out: the outputs {others}; {taken} is exported, which --output only calls logits or "
        "features: for another one export a file that has it alone, or name it `logits`",
    )


def _require_possible(hints: ModelHints, output: str | None) -> None:
    """Refuses options of the architecture, which the file has inside."""
    if output not in (None, LOGITS, FEATURES):
        raise InputError(f"unknown output {output!r}: choose from {LOGITS}, {FEATURES}")
    inside = {
        "--image-size": hints.img_size,
        "--heads": hints.n_heads,
        "--norm-eps": hints.norm_eps,
        "--activation": hints.mlp,
    }
    wrong = [name for name, value in inside.items() if value is not None]
    if wrong:
        raise InputError(f"{', '.join(wrong)}: fixed in an ONNX file, leave it out with --onnx")


def prepare_again(source: ForeignSource) -> ir.Model:
    """Repeats `prepare` for the source.

    Raises:
        InputError: if the file was changed since.
    """
    model = prepare(source.file)
    if digest(source.file) != source.weights_key:
        raise InputError(f"{source.file} was changed while it was being exported: start again")
    return model


def prepare(path: Path) -> ir.Model:
    """The file with one image in and its logits out, `[batch, classes]`; otherwise as it is.

    Raises:
        InputError: if it cannot be used, saying why and what to do.
    """
    return _read(path)[0]


def _read(path: Path) -> tuple[ir.Model, dict[str, np.ndarray]]:
    """Reads the file as `prepare` does; returns its left-out outputs of one image, too."""
    model = load_onnx(path)
    require_supported(path, model)
    common.RemoveInitializersFromInputsPass()(model)
    image = _require_image(path, model.graph)
    shape = [1, *list(image.shape or ())[1:]]
    assert image.dtype is not None
    run = Runner(model)(np.zeros(shape, image.dtype.numpy()))  # type: ignore[arg-type]
    results = {n: v for n, v in run.items() if isinstance(v, np.ndarray)}
    name = _logits(path, results)
    logits = next(value for value in model.graph.outputs if value.name == name)
    logits.shape = ir.Shape(["batch", results[name].shape[1]])
    model.graph.outputs[:] = [logits]
    common.RemoveUnusedNodesPass()(model)
    return model, {n: v for n, v in results.items() if n != name}


def _require_image(path: Path, graph: ir.Graph) -> ir.Value:
    """The one input: float32 `[B, C, H, W]` or uint8 `[B, H, W, C]`."""
    images = [v for v in graph.inputs if len(v.shape or ()) == 4]
    others = [str(v.name) for v in graph.inputs if v not in images[:1]]
    if not images or others:
        raise InputError(
            f"{path} takes {', '.join(str(v.name) for v in graph.inputs) or 'nothing'}: one image "
            f"is wanted{', without ' + ', '.join(others) if images else ', of four dimensions'}"
        )
    (image,) = images
    batch, *sizes = list(image.shape or ())
    raw = image.dtype == ir.DataType.UINT8
    if not raw and image.dtype != ir.DataType.FLOAT:
        raise InputError(f"{path} takes images of type {image.dtype}: float32 or uint8 is wanted")
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        raise InputError(
            f"{path} takes images of any size ({image.shape}): export it with a static height, "
            "width and number of channels"
        )
    if sizes[2 if raw else 0] not in _CHANNELS:
        order = "uint8 [B, H, W, C]" if raw else "float32 [B, C, H, W]"
        raise InputError(f"{path} takes {image.shape}: {order} with 1 or 3 channels is wanted")
    if isinstance(batch, int) and batch != 1:
        raise InputError(
            f"{path} takes {batch} images at a time: export it again with a dynamic batch, or with "
            "a batch of 1"
        )
    return image


def _logits(path: Path, results: dict[str, np.ndarray]) -> str:
    """The name of the one `[1, classes]` output."""
    flat = [n for n, v in results.items() if v.ndim == 2 and v.dtype == np.float32]
    if "logits" in flat:
        return "logits"
    if len(flat) == 1 and results[flat[0]].shape[0] == 1:
        return flat[0]
    shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in results.items())
    raise InputError(
        f"{path} gives {shapes}: one output [batch, classes] in float32 is wanted; export the "
        "model with its head, or name one of them `logits`"
    )


def _preprocess(image: ir.Value, hints: ModelHints, assumed: list[str]) -> Preprocess:
    shape = [int(size) for size in list(image.shape or ())[1:]]  # type: ignore[arg-type]
    if image.dtype == ir.DataType.UINT8:
        if hints.mean or hints.std:
            raise InputError("the file takes raw pixels: --mean and --std have nowhere to go")
        height, width, channels = shape
        known = replace(hints, mean=(0.0,) * channels, std=(1.0,) * channels)
    else:
        (channels, height, width), known = shape, hints
    usual = ModelHints(
        mean=(_HALF,) * channels,
        std=(_HALF,) * channels,
        interpolation=_INTERPOLATION,
        crop=_CROP,
        crop_mode=_CROP_MODE,
    )
    for name in _SAID:
        if getattr(known, name) is None:
            assumed.append(f"{name.replace('_', ' ')} {getattr(usual, name)}")
    fields = {name: getattr(known.or_else(usual), name) for name in _SAID}
    try:
        return Preprocess(height, width, channels, **fields)
    except ValueError as error:
        raise InputError(f"--mean and --std, --crop or --interpolation: {error}") from None
