"""Models from checkpoints, and checkpoints from models: position embeddings are fitted to the
tokens and the image size that the model has.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor

from vit_edge.runtime.errors import InputError
from vit_edge.runtime.preprocess import Preprocess

from ..config import ViTConfig
from ..vision_transformer import VisionTransformer
from .architecture import OTHER_DOORS
from .choice import listed
from .formats import CONFIG_KEY, LABELS_KEY, PREPROCESS_KEY


def fit_positions(
    tensors: dict[str, Tensor], config: ViTConfig, native: tuple[int, int], antialias: bool
) -> dict[str, Tensor]:
    """Fits `pos_embed` of these tensors to the model: float32 `[1, class token + patches, D]`.

    Positions of distillation and register tokens go into these tokens; a class token without one
    gets zero; the patches' are resampled where the grid is another. All but the resampling is
    exact.
    """
    positions = tensors["pos_embed"].float()
    prefix = positions.shape[1] - native[0] * native[1]
    first, patches = positions[:, :prefix], positions[:, prefix:]
    fitted = dict(tensors)
    used = 0
    if config.embedding.class_token:
        used = min(prefix, 1)
        kept = first[:, :1] if prefix else positions.new_zeros(1, 1, positions.shape[2])
    else:
        kept = first[:, :0]
    for name in ("dist_token", "reg_token"):
        if name in fitted and used + fitted[name].shape[1] <= prefix:
            count = fitted[name].shape[1]
            fitted[name] = fitted[name].float() + first[:, used : used + count]
            used += count
    fitted["pos_embed"] = torch.cat(
        [kept, resample(patches, native, config.grid, antialias)], dim=1
    )
    return fitted


def resample(
    patches: Tensor, native: tuple[int, int], grid: tuple[int, int], antialias: bool
) -> Tensor:
    """Resamples float32 `[1, rows * columns, D]` from one grid to another, bicubically.

    Source: section 3.2 of the paper; `torch.nn.functional.interpolate`, as timm (antialiased) and
    transformers (not) call it.
    """
    if native == grid:
        return patches
    image = patches.reshape(1, *native, -1).permute(0, 3, 1, 2)
    image = F.interpolate(image, size=grid, mode="bicubic", antialias=antialias)
    return image.permute(0, 2, 3, 1).reshape(1, grid[0] * grid[1], -1)


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
