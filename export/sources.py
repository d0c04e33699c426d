"""What is to be exported: architecture, preprocessing and where the weights come from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from vit_edge.runtime.errors import InputError
from vit_edge.runtime.manifest import FEATURES, LOGITS
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
from vit_edge.vit.config import ViTConfig
from vit_edge.vit.hints import ModelHints
from vit_edge.vit.preprocessing import find_preprocess
from vit_edge.vit.training.digits import DEFAULT_MODEL, train_digits
from vit_edge.vit.variants import VARIANTS, Variant, find_variant
from vit_edge.vit.vision_transformer import VisionTransformer

from .config_file import apply_fields, facts_in, read_fields
from .progress import Update

OUTPUTS = (LOGITS, FEATURES)
_TRAINED, _RANDOM = "trained here", "random"


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
        labels: Names of the classes, where the source knows them.
        inferred: What the checkpoint told, in words.
        assumed: What was not said and taken from conventions or a variant.
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

    @property
    def random(self) -> bool:
        return self.weights == _RANDOM

    @property
    def classes(self) -> int:
        return self.config.num_classes

    @property
    def outputs(self) -> int:
        """The width of what comes out."""
        return self.config.outputs

    @property
    def facts(self) -> Mapping[str, object]:
        """For the manifest: the architecture."""
        return asdict(self.config)

    @property
    def oracle(self) -> str:
        """Whose logits are the reference."""
        return "PyTorch"


def find_source(
    name: str | None,
    weights: str | None,
    config: Path | None,
    given: ModelHints,
    output: str | None,
) -> ModelSource:
    """Resolves what the user asked for; weights are read once, to check that they fit.

    Raises:
        InputError: for an unknown model, or a file that is missing, damaged or of another shape.
    """
    if output not in (None, *OUTPUTS):
        raise InputError(f"unknown output {output!r}: choose from {', '.join(OUTPUTS)}")
    fields = {} if config is None else read_fields(config)
    if weights is not None:
        source = _from_file(name, locate(weights), weights, config, fields, given)
    else:
        source = _from_variant(name or DEFAULT_MODEL, config, fields, given)
    if source.config.num_classes == 0 and output == LOGITS:
        raise InputError(f"{source.weights} has no head: export it with --output features")
    if output == FEATURES:
        source = replace(source, config=replace(source.config, num_classes=0))
    if source.labels is not None and len(source.labels) != source.config.num_classes:
        _require_no_labels(source, given)
        source = replace(source, labels=None)
    return replace(source, output=LOGITS if source.config.num_classes else FEATURES)


def _require_no_labels(source: ModelSource, given: ModelHints) -> None:
    """Labels of another number of classes are not used; the user's own are an error."""
    if given.labels is not None:
        raise InputError(
            f"--labels has {len(given.labels)} names, the model {source.config.num_classes} classes"
        )


def _from_variant(
    name: str, config: Path | None, fields: dict[str, Any], given: ModelHints
) -> ModelSource:
    variant = find_variant(name)
    try:
        architecture = given.applied_to(apply_fields(variant.config, fields, config))
    except ValueError as error:
        raise InputError(f"{name} cannot be so: {error}") from None
    default = architecture == find_variant(DEFAULT_MODEL).config and name == DEFAULT_MODEL
    return ModelSource(
        name=name,
        config=architecture,
        output="",
        preprocess=find_preprocess(given, variant.hints, architecture)[0],
        data=variant.data,
        file=None,
        native=architecture.grid,
        antialias=True,
        weights=_TRAINED if default else _RANDOM,
        weights_key="",
        labels=given.labels,
        inferred="",
        assumed=(),
    )


def _from_file(
    name: str | None,
    path: Path,
    said: str,
    config: Path | None,
    fields: dict[str, Any],
    given: ModelHints,
) -> ModelSource:
    checkpoint = read_checkpoint(path)
    named = find_variant(name) if name is not None else None
    found = find_architecture(checkpoint, given.or_else(facts_in(fields)), named)
    if name is not None:
        require_variant(name, found.config, checkpoint.source)
    architecture = apply_fields(found.config, fields, config)
    if architecture.depth != found.config.depth:
        raise InputError(
            f"{config}: depth is {architecture.depth}, the weights have {found.config.depth} blocks"
        )
    fit(architecture, checkpoint.tensors, checkpoint.source, found.native, found.hints.antialias)
    preprocess, assumed = find_preprocess(given, found.hints, architecture)
    like = name or found.variant
    return ModelSource(
        name=like or _slug(checkpoint.source),
        config=architecture,
        output="",
        preprocess=preprocess,
        data=_data(VARIANTS[like] if like else None, preprocess),
        file=path,
        native=found.native,
        antialias=found.hints.antialias is not False,
        weights=said if said.startswith(("hf:", "timm:")) else checkpoint.source,
        weights_key=checkpoint_sha256(path),
        labels=found.hints.labels,
        inferred=_inferred(checkpoint, found.inferred),
        assumed=(*found.assumed, *assumed),
    )


def _inferred(checkpoint: Checkpoint, architecture: str) -> str:
    left_out = len(checkpoint.left_out)
    extra = f"; left out: {left_out} tensors, as {checkpoint.left_out[0]}" if left_out else ""
    return f"{checkpoint.naming} checkpoint: {architecture}{extra}"


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name.rpartition(".")[0] or name).strip("_-") or "model"


def _data(variant: Variant | None, preprocess: Preprocess) -> str:
    """Digits are of one size only."""
    if variant is not None and variant.preprocess.shape == preprocess.shape:
        return variant.data
    return "samples"


def make_weights(source: ModelSource, seed: int, update: Update) -> bytes:
    """The weights as safetensors: read, trained or random."""
    if source.file is not None:
        checkpoint = read_checkpoint(source.file)
        weights = (checkpoint.tensors, checkpoint.source, source.native, source.antialias)
        return encode_checkpoint(build_model(source.config, *weights))
    if source.weights == _TRAINED:
        model = train_digits(seed, update)
        if source.output == FEATURES:
            return encode_checkpoint(build_model(source.config, model.state_dict(), source.name))
        return encode_checkpoint(model)
    torch.manual_seed(seed)
    return encode_checkpoint(VisionTransformer.from_config(source.config))


def load_model(path: Path) -> VisionTransformer:
    """A model from a file that `make_weights` made."""
    checkpoint = read_checkpoint(path)
    assert checkpoint.config is not None
    return build_model(checkpoint.config, checkpoint.tensors, path.name)
