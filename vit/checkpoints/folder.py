"""Folders in the layout of Hugging Face's `save_pretrained` and of timm's hub repositories."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from vit_edge.runtime.errors import InputError
from vit_edge.vit.hints import ModelHints
from vit_edge.vit.variants import VARIANTS

from .checkpoint import RawCheckpoint
from .formats import read_safetensors
from .pickles import read_pickle
from .processor import read_processor

CONFIG, PROCESSOR, ADAPTER = "config.json", "preprocessor_config.json", "adapter_config.json"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_CLIP = ("clip", "clip_vision_model")
_MODEL_TYPES = ("vit", "deit", "dinov2", "dinov2_with_registers", *_CLIP)
_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
}
_GENERIC_LABEL = "LABEL_0"


def read_folder(path: Path) -> RawCheckpoint:
    """Reads a folder with `config.json`, weights (one file, or shards and their index) and perhaps
    `preprocessor_config.json`.

    Raises:
        InputError: if a file is missing or damaged, or the model type is not supported.
    """
    adapter = read_json(path / ADAPTER) if (path / ADAPTER).is_file() else None
    if adapter is not None and not (path / CONFIG).is_file():
        base = str(adapter.get("base_model_name_or_path"))[:200]
        raise InputError(
            f"{path} holds the adapter of a model and not the model ({base}): load both with PEFT, "
            "merge them (model.merge_and_unload()) and save_pretrained the result"
        )
    config = read_json(path / CONFIG)
    try:
        hints = timm_hints(config) if "architecture" in config else transformers_hints(path, config)
    except InputError:
        raise
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"{path / CONFIG} cannot be used: {str(error)[:200]}") from None
    return RawCheckpoint(path.resolve().name, _read_weights(path), hints=hints, options=adapter)


def read_json(path: Path) -> dict[str, Any]:
    """Raises InputError if the file is missing or is no JSON object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{path} is missing: give a folder that save_pretrained wrote, or a weights file"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is not readable JSON ({str(error)[:200]})") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} is not a JSON object")
    return value


def _read_weights(path: Path) -> dict[str, Tensor]:
    for name in _WEIGHTS:
        read = read_safetensors if name.endswith(".safetensors") else read_pickle
        if (path / name).is_file():
            return read(path / name).tensors
        if (path / f"{name}.index.json").is_file():
            shards = _shards(path / f"{name}.index.json")
            return {k: t for shard in shards for k, t in read(path / shard).tensors.items()}
    raise InputError(f"{path} has none of {', '.join(_WEIGHTS)} (or an index of shards)")


def _shards(index: Path) -> list[str]:
    """Lists the files that an index names, each of them beside it."""
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(n, str) for n in names.values()):
        raise InputError(f"{index} has no weight_map of names to files")
    shards = sorted(set(names.values()))
    for shard in shards:
        if Path(shard).name != shard or not (index.parent / shard).is_file():
            raise InputError(f"{index} names the shard {shard[:80]!r}, which is not beside it")
    return shards


def transformers_hints(path: Path, config: dict[str, Any]) -> ModelHints:
    """Reads the hints of a transformers configuration and its image processor."""
    kind = config.get("model_type")
    if kind not in _MODEL_TYPES:
        raise InputError(
            f"{path / CONFIG} is of model type {kind!r}, which is no plain ViT "
            f"({', '.join(_MODEL_TYPES)}): give the folder as MODEL, hf:{path}"
        )
    if kind == "clip":
        config = {**config, **_object(config.get("vision_config"))}
    activation = str(config.get("hidden_act", "quick_gelu" if kind in _CLIP else "gelu"))
    if activation not in _ACTIVATIONS and not config.get("use_swiglu_ffn"):
        raise InputError(
            f"{path / CONFIG} has the activation {activation!r}: supported are "
            f"{', '.join(_ACTIVATIONS)}"
        )
    defaults = {"clip": 1e-5, "clip_vision_model": 1e-5, "vit": 1e-12, "deit": 1e-12}
    processor = read_json(path / PROCESSOR) if (path / PROCESSOR).is_file() else None
    images = ModelHints() if processor is None else read_processor(processor, path / PROCESSOR)
    return ModelHints(
        native_size=_size(config.get("image_size", 224)),
        n_heads=_number(config, "num_attention_heads", 12),
        norm_eps=float(config.get("layer_norm_eps", defaults.get(str(kind), 1e-6))),
        mlp=_ACTIVATIONS.get(activation),
        labels=_labels(config),
    ).or_else(images)


def timm_hints(config: dict[str, Any]) -> ModelHints:
    """Reads the hints of a timm repository's `config.json`: preprocessing, and arguments that
    differ from the architecture's own. Older ones have no group `pretrained_cfg`.
    """
    arguments = _object(config.get("model_args"))
    pretrained = {**config, **_object(config.get("pretrained_cfg"))}
    variant = VARIANTS.get(str(config.get("architecture")))
    size = _size(arguments.get("img_size")) or _size((pretrained.get("input_size") or [])[1:])
    mean, std, crop = (pretrained.get(k) for k in ("mean", "std", "crop_pct"))
    return ModelHints(
        native_size=size,
        n_heads=arguments.get("num_heads") or (variant.config.n_heads if variant else None),
        mlp=_timm_activation(config, arguments),
        pool=_timm_pool(arguments.get("global_pool", config.get("global_pool"))),
        mean=tuple(map(float, mean)) if mean else None,
        std=tuple(map(float, std)) if std else None,
        interpolation=pretrained.get("interpolation"),
        crop=float(crop) if crop else None,
        crop_mode=pretrained.get("crop_mode"),
    )


def _timm_activation(config: dict[str, Any], arguments: dict[str, Any]) -> str | None:
    activation = arguments.get("act_layer")
    if activation is None:
        return "quick_gelu" if "quickgelu" in str(config.get("architecture")) else None
    if activation not in ("gelu", "gelu_tanh", "quick_gelu", "silu"):
        raise ValueError(f"act_layer {str(activation)[:40]!r} is not supported")
    return None if activation == "silu" else str(activation)  # of a gated MLP, which shapes tell


def _timm_pool(pool: Any) -> str | None:
    """Translates timm's name of a pool; `architecture` finds a norm after the mean."""
    names = {None: None, "": None, "token": "class_token", "avg": "mean"}
    if pool not in names:
        raise ValueError(f"global_pool {str(pool)[:40]!r} is not supported")
    return names[pool]


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(config: dict[str, Any], name: str, default: int) -> int:
    value = config.get(name, default)
    if type(value) is not int:
        raise InputError(f"{CONFIG}: {name} is {str(value)[:40]!r}, not a whole number")
    return value


def _size(value: Any) -> tuple[int, int] | None:
    if type(value) is int:
        return value, value
    if isinstance(value, list | tuple) and len(value) == 2 and all(type(v) is int for v in value):
        return value[0], value[1]
    return None


def _labels(config: dict[str, Any]) -> tuple[str, ...] | None:
    """Returns the class names in order, unless they are transformers' placeholders."""
    names = config.get("id2label")
    if not isinstance(names, dict) or not names or _GENERIC_LABEL in names.values():
        return None
    try:
        return tuple(str(names[str(index)]) for index in range(len(names)))
    except KeyError:
        return None
