"""Weights in and out. Files are read without executing anything in them."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from runtime.errors import InputError, first_line

from .vision_transformer import VisionTransformer, ViTConfig

CONFIG_KEY = "vit_edge.config"
_SHOWN = 10


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name, and the architecture if the file tells it."""

    tensors: dict[str, Tensor]
    config: ViTConfig | None


def read_safetensors(path: Path) -> Checkpoint:
    """Source: safetensors format; timm and this project write it."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        config = ViTConfig(**json.loads(metadata[CONFIG_KEY])) if CONFIG_KEY in metadata else None
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{path} is not a whole safetensors file ({error}): download or save it again"
        ) from None
    return Checkpoint(tensors, config)


def read_pickle(path: Path) -> Checkpoint:
    """A `.pth` of tensors.

    Source: `torch.load(weights_only=True)`, which refuses anything but tensors.
    """
    try:
        value: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(
            f"{path} is refused: it is damaged, or holds more than tensors, and loading that could "
            "execute code. Save the state_dict alone, or convert it to safetensors"
        ) from None
    except Exception as error:  # damaged bytes make the unpickler raise nearly anything
        raise InputError(f"{path} is not a whole PyTorch file ({first_line(error)})") from None
    for key in ("state_dict", "model"):
        value = value.get(key, value) if isinstance(value, dict) else value
    if not isinstance(value, dict) or not all(isinstance(v, Tensor) for v in value.values()):
        raise InputError(f"{path} holds no state_dict of tensors")
    return Checkpoint(value, None)


SOURCES: dict[str, Callable[[Path], Checkpoint]] = {
    ".safetensors": read_safetensors,
    ".pth": read_pickle,
    ".pt": read_pickle,
    ".bin": read_pickle,
}


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint by its file's suffix.

    Raises:
        InputError: if the file is missing, damaged, of an unknown kind, or holds anything but
            tensors.
    """
    if not path.is_file():
        raise InputError(f"there is no checkpoint file at {path}")
    if path.suffix not in SOURCES:
        raise InputError(
            f"{path} has the unknown suffix {path.suffix!r}: give one of {', '.join(SOURCES)}"
        )
    return SOURCES[path.suffix](path)


def build_model(config: ViTConfig, tensors: Mapping[str, Tensor], source: str) -> VisionTransformer:
    """A model with these weights, in eval mode.

    Raises:
        InputError: if tensors are missing, unexpected or of another shape, each named (the first
            ten).
    """
    model = VisionTransformer.from_config(config)
    wanted = model.state_dict()
    problems = [f"{name} is missing" for name in wanted if name not in tensors]
    problems += [f"{name} is not expected" for name in tensors if name not in wanted]
    problems += [
        f"{name} is {list(tensors[name].shape)}, not {list(value.shape)}"
        for name, value in wanted.items()
        if name in tensors and tensors[name].shape != value.shape
    ]
    if problems:
        more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise InputError(
            f"{source} does not fit the model: {'; '.join(problems[:_SHOWN])}{more}; is it this "
            "variant?"
        )
    model.load_state_dict(dict(tensors))
    return model.eval()


def encode_checkpoint(model: VisionTransformer) -> bytes:
    """The model as safetensors, its configuration in the header."""
    tensors = {name: value.detach().contiguous() for name, value in model.state_dict().items()}
    return bytes(save(tensors, {CONFIG_KEY: json.dumps(asdict(model.config))}))
