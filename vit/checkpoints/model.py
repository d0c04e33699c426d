"""Models from checkpoints, and checkpoints from models."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict

import torch
from safetensors.torch import save
from torch import Tensor

from vit_edge.runtime.errors import InputError
from vit_edge.runtime.preprocess import Preprocess
from vit_edge.vit.config import ViTConfig
from vit_edge.vit.vision_transformer import VisionTransformer

from .architecture import OTHER_DOORS
from .choice import listed
from .formats import CONFIG_KEY, LABELS_KEY, PREPROCESS_KEY
from .positions import fit_positions


def build_model(
    config: ViTConfig,
    tensors: Mapping[str, Tensor],
    source: str,
    native: tuple[int, int] | None = None,
    antialias: bool | None = True,
) -> VisionTransformer:
    """Builds a model with these weights, in eval mode and fp32.

    Args:
        config: The architecture; with 0 classes, a head is left out.
        tensors: Weights under the model's names, of any floating-point type.
        source: The file's name, for messages.
        native: Grid that the position embeddings are for; None: the model's own.
        antialias: True if they are resampled with antialiasing for another grid.

    Raises:
        InputError: if tensors are missing, unexpected or of another shape.
    """
    model = _without_weights(config)
    fitted = _fit(model, tensors, source, native, antialias)
    model.to_empty(device="cpu").load_state_dict(fitted)
    return model.eval()


def fit(
    config: ViTConfig,
    tensors: Mapping[str, Tensor],
    source: str,
    native: tuple[int, int] | None = None,
    antialias: bool | None = True,
) -> dict[str, Tensor]:
    """Returns the tensors that a model of this architecture takes; nothing large is copied.

    Raises:
        InputError: as `build_model`.
    """
    return _fit(_without_weights(config), tensors, source, native, antialias)


def _fit(
    model: VisionTransformer,
    tensors: Mapping[str, Tensor],
    source: str,
    native: tuple[int, int] | None,
    antialias: bool | None,
) -> dict[str, Tensor]:
    config, fitted = model.config, dict(tensors)
    if not config.num_classes:
        fitted = {n: t for n, t in fitted.items() if not n.startswith("head.")}
    if "pos_embed" in fitted and fitted["pos_embed"].ndim == 3:
        fitted = fit_positions(fitted, config, native or config.grid, antialias is not False)
    expected = {name: value.shape for name, value in model.state_dict().items()}
    missing = [name for name in expected if name not in fitted]
    unexpected = [name for name in fitted if name not in expected]
    misshapen = [
        f"{name} is {list(fitted[name].shape)}, not {list(shape)}"
        for name, shape in expected.items()
        if name in fitted and fitted[name].shape != shape
    ]
    if missing or unexpected or misshapen:
        raise InputError(_explain(source, missing, unexpected, misshapen))
    return fitted


def _without_weights(config: ViTConfig) -> VisionTransformer:
    with torch.device("meta"):
        return VisionTransformer.from_config(config)


def _explain(source: str, missing: list[str], unexpected: list[str], misshapen: list[str]) -> str:
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    mismatches = "; ".join(
        f"{len(names)} {kind} ({listed(names)})" for kind, names in kinds.items() if names
    )
    if misshapen:
        remedy = "name the MODEL that it is of, or give its sizes in --config"
    elif missing and not unexpected:
        remedy = "the file is incomplete: download or save it again"
    else:
        remedy = f"It is no plain ViT: {OTHER_DOORS}"
    return f"{source} does not fit the model: {mismatches}. {remedy}"


def encode_checkpoint(
    model: VisionTransformer,
    preprocess: Preprocess | None = None,
    labels: tuple[str, ...] | None = None,
) -> bytes:
    """Serialises the model as safetensors; the header has configuration, preprocessing and class
    names.
    """
    tensors = {
        name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()
    }
    header = {CONFIG_KEY: asdict(model.config)}
    if preprocess is not None:
        header[PREPROCESS_KEY] = asdict(preprocess)
    entries = {key: json.dumps(value) for key, value in header.items()}
    if labels is not None:
        entries[LABELS_KEY] = json.dumps(labels)
    return _in_fixed_order(save(tensors, entries))


def _in_fixed_order(data: bytes) -> bytes:
    """Sorts the metadata of a safetensors file: the library leaves their order to chance, and the
    same weights shall give the same bytes.
    """
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the tensors stay aligned
    return len(text).to_bytes(8, "little") + text + data[8 + size :]
