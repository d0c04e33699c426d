"""Models to export: architecture, preprocessing and the origin of the weights."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from vit_edge.export.cache import Hashed, Stage
from vit_edge.export.progress import Update
from vit_edge.runtime.errors import InputError
from vit_edge.runtime.manifest import FEATURES
from vit_edge.runtime.outputs import EMBEDDING, LOGITS, OutputSpec
from vit_edge.runtime.preprocess import Preprocess
from vit_edge.vit.checkpoints import (
    Checkpoint,
    build_model,
    checkpoint_sha256,
    encode_checkpoint,
    find_architecture,
    fit,
    locate,
    read_checkpoint,
    require_variant,
)
from vit_edge.vit.config import ViTConfig, config_from_fields
from vit_edge.vit.hints import ModelHints
from vit_edge.vit.preprocessing import find_preprocess
from vit_edge.vit.training.digits import DEFAULT_MODEL, train_digits
from vit_edge.vit.variants import VARIANTS, Variant, find_variant
from vit_edge.vit.vision_transformer import VisionTransformer

from . import RANDOM
from .own import TRAINED, ExportGraph, MakeWeights, PyTorchReference
from .source import Images

KINDS = {LOGITS: LOGITS, FEATURES: EMBEDDING}
"""Outputs of our own models by name, and their kinds."""


@dataclass(frozen=True)
class ModelSource:
    """A model that can be made.

    Attributes:
        name: The variant's name, or the checkpoint's.
        output: "logits" or "features".
        data: The data set that is used where none is named.
        file: The checkpoint, file or folder.
        native: Grid of patches that the checkpoint's positions are for.
        antialias: How positions are resampled.
        weights: In words: "trained here", "random" or the file's name.
        weights_key: Identifies the weights, for the cache.
        checkpoint_key: Of several weights in the file, those to take.
        labels: Names of the classes, where the source knows them.
        inferred: ModelHints read from the checkpoint, in words.
        assumed: ModelHints that nothing said, taken from conventions or a variant.
    """

    name: str
    config: ViTConfig
    output: str
    preprocess: Preprocess
    data: str
    file: Path | None
    native: tuple[int, int]
    antialias: bool
    weights: str
    weights_key: str
    labels: tuple[str, ...] | None
    inferred: str
    assumed: tuple[str, ...]
    checkpoint_key: str | None = None

    @property
    def random(self) -> bool:
        return self.weights == RANDOM

    @property
    def classes(self) -> int:
        return self.config.num_classes

    @property
    def outputs(self) -> tuple[OutputSpec, ...]:
        """The one output."""
        return (OutputSpec(self.output, KINDS[self.output], (self.config.outputs,)),)

    @property
    def facts(self) -> Mapping[str, object]:
        """For the manifest: the architecture."""
        return asdict(self.config)

    @property
    def oracle(self) -> str:
        """Name of the reference that everything is measured against."""
        return "PyTorch"

    @property
    def notes(self) -> tuple[str, ...]:
        return ()

    def make_weights(self, seed: int, update: Update) -> bytes:
        """The weights as safetensors: read, trained or random."""
        if self.file is not None:
            checkpoint = read_checkpoint(self.file, self.checkpoint_key)
            weights = (checkpoint.tensors, checkpoint.source, self.native, self.antialias)
            return encode_checkpoint(build_model(self.config, *weights))
        if self.weights == TRAINED:
            model = train_digits(seed, update)
            if self.output == FEATURES:
                return encode_checkpoint(build_model(self.config, model.state_dict(), self.name))
            return encode_checkpoint(model)
        torch.manual_seed(seed)
        return encode_checkpoint(VisionTransformer.from_config(self.config))

    def original_stage(self, seed: int) -> Stage[Path]:
        key = (self.weights_key, self.checkpoint_key)
        digest = (self.config, self.weights, key, self.antialias)
        return MakeWeights(Hashed(self, digest), seed)

    def graph_stage(self, original: Path) -> Stage[Path]:
        return ExportGraph(original, self.preprocess, self.outputs)

    def reference_stage(self, original: Path, images: Images, seed: int) -> Stage[Path]:
        return PyTorchReference(original, self.preprocess, self.outputs, images, seed)


def find_model_source(
    name: str | None,
    weights: str | None,
    config: Path | None,
    hints: ModelHints,
    outputs: Mapping[str, str | None],
) -> ModelSource:
    """Resolves what the user asked for; weights are read once, to check that they fit.

    `weights` is a checkpoint, or `RANDOM`; None: as is usual for the variant. `outputs` is empty or
    names one of `KINDS`, with that kind where it says one.

    Raises:
        InputError: for an unknown model, or a file that is missing, damaged or of another shape.
    """
    output = _require_one(outputs)
    fields = {} if config is None else _read_fields(config)
    if weights == RANDOM:
        source = _from_variant(name or DEFAULT_MODEL, config, fields, hints)
        source = replace(source, weights=RANDOM)
    elif weights is not None:
        source = _from_file(name, locate(weights), weights, config, fields, hints)
    else:
        source = _from_variant(name or DEFAULT_MODEL, config, fields, hints)
    if source.config.num_classes == 0 and output == LOGITS:
        raise InputError(f"{source.weights} has no head: export it with --output features")
    if output == FEATURES:
        source = replace(source, config=replace(source.config, num_classes=0))
    if source.labels is not None and len(source.labels) != source.config.num_classes:
        _require_no_labels(source, hints)
        dropped = f"its {len(source.labels)} class names are left out: there are "
        dropped += f"{source.config.num_classes} classes"
        source = replace(source, labels=None, inferred=f"{source.inferred}; {dropped}")
    return replace(source, output=LOGITS if source.config.num_classes else FEATURES)


def _require_one(outputs: Mapping[str, str | None]) -> str | None:
    """Returns the name of the output that is asked for; None leaves it to the model."""
    for name, kind in outputs.items():
        if name not in KINDS:
            raise InputError(f"unknown output {name!r}: choose from {', '.join(KINDS)}")
        if kind not in (None, KINDS[name]):
            raise InputError(f"--output {name}={kind}: {name} are of the kind {KINDS[name]}")
    if len(outputs) > 1:
        raise InputError(f"--output {' '.join(outputs)}: a model of our own has one at a time")
    return next(iter(outputs), None)


def _require_no_labels(source: ModelSource, hints: ModelHints) -> None:
    """Labels of another number of classes are not used; the user's own are an error."""
    if hints.labels is not None:
        raise InputError(
            f"--labels has {len(hints.labels)} names, the model {source.config.num_classes} classes"
        )


def _from_variant(
    name: str, config: Path | None, fields: dict[str, Any], hints: ModelHints
) -> ModelSource:
    variant = find_variant(name)
    try:
        architecture = hints.applied_to(_apply_fields(variant.config, fields, config))
    except ValueError as error:
        raise InputError(f"invalid configuration for {name}: {error}") from None
    default = architecture == find_variant(DEFAULT_MODEL).config and name == DEFAULT_MODEL
    return ModelSource(
        name=name,
        config=architecture,
        output="",
        preprocess=find_preprocess(hints, variant.hints, architecture)[0],
        data=variant.data,
        file=None,
        native=architecture.grid,
        antialias=True,
        weights=TRAINED if default else RANDOM,
        weights_key="",
        labels=hints.labels,
        inferred="",
        assumed=(),
    )


def _from_file(
    name: str | None,
    path: Path,
    argument: str,
    config: Path | None,
    fields: dict[str, Any],
    hints: ModelHints,
) -> ModelSource:
    checkpoint = read_checkpoint(path, hints.checkpoint_key)
    named = find_variant(name) if name is not None else None
    read = find_architecture(checkpoint, hints.or_else(_facts_in(fields)), named)
    if name is not None:
        require_variant(name, read.config, checkpoint.source)
    architecture = _apply_fields(read.config, fields, config)
    if architecture.depth != read.config.depth:
        raise InputError(
            f"{config}: depth is {architecture.depth}, the weights have {read.config.depth} blocks"
        )
    fit(
        architecture,
        checkpoint.tensors,
        checkpoint.source,
        read.native,
        read.hints.antialias,
    )
    preprocess, assumed = find_preprocess(hints, read.hints, architecture)
    like = name or read.variant
    return ModelSource(
        name=like or _slug(checkpoint.source),
        config=architecture,
        output="",
        preprocess=preprocess,
        data=_data(VARIANTS[like] if like else None, preprocess),
        file=path,
        native=read.native,
        antialias=read.hints.antialias is not False,
        weights=_weights(argument, checkpoint, hints.checkpoint_key),
        weights_key=checkpoint_sha256(path),
        checkpoint_key=hints.checkpoint_key,
        labels=read.hints.labels,
        inferred=_describe(checkpoint, read.inferred),
        assumed=(*read.assumed, *assumed),
    )


def _read_fields(path: Path) -> dict[str, Any]:
    """The JSON object of `--config`. Raises InputError if the file holds none."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(fields, dict):
            raise ValueError("it is no object")
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is not a configuration ({str(error)[:200]}): give a JSON object with fields "
            "of the model"
        ) from None
    return fields


def _facts_in(fields: dict[str, Any]) -> ModelHints:
    """ModelHints in a configuration that shapes do not tell; checked when it is applied."""

    def known(value: Any, kind: type) -> Any:
        return value if type(value) is kind else None

    groups = (fields.get(name) for name in ("block", "readout"))
    block, readout = (group if isinstance(group, dict) else {} for group in groups)
    size = fields.get("img_size")
    pair = (size, size) if type(size) is int else tuple(size) if isinstance(size, list) else ()
    whole = len(pair) == 2 and all(type(edge) is int and edge > 0 for edge in pair)
    return ModelHints(
        img_size=(pair[0], pair[1]) if whole else None,
        n_heads=known(fields.get("n_heads"), int),
        norm_eps=known(block.get("norm_eps"), float),
        mlp=known(block.get("mlp"), str),
        pool=known(readout.get("pool"), str),
    )


def _apply_fields(default: ViTConfig, fields: dict[str, Any], path: Path | None) -> ViTConfig:
    """`default` with these fields. Raises InputError if they do not fit."""
    try:
        return config_from_fields(default, fields)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not a configuration ({error})") from None


def _weights(argument: str, checkpoint: Checkpoint, key: str | None) -> str:
    """Names the weights, and of several in the file those that are asked for."""
    name = argument if argument.startswith(("hf:", "timm:")) else checkpoint.source
    return name if key is None else f"{name} ({key})"


def _describe(checkpoint: Checkpoint, architecture: str) -> str:
    return "; ".join([f"{checkpoint.naming} checkpoint: {architecture}", *checkpoint.notes])


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name.rpartition(".")[0] or name).strip("_-") or "model"


def _data(variant: Variant | None, preprocess: Preprocess) -> str:
    """Digits are of one size only."""
    if variant is not None and variant.preprocess.shape == preprocess.shape:
        return variant.data
    return "samples"
