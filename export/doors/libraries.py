"""The optional libraries of models, imported when their door is used, and the facts that a module
carries about its own images: sizes, normalisation, class names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from torch import nn

from vit_edge.runtime.errors import InputError, first_line, install_command
from vit_edge.vit.hints import ModelHints


def import_library(name: str, door: str) -> Any:
    """Imports a library; the extra that installs it has the same name.

    Raises:
        InputError: if it is not installed, or does not load beside this PyTorch.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise InputError(f"{door} needs {error.name}: {install_command(name)}") from None
    except Exception as error:  # torchvision built for another PyTorch fails with a RuntimeError
        raise InputError(
            f"{name} does not load here ({first_line(error)}): install the versions of {name}, "
            "torchvision and torch that belong together"
        ) from None


@contextmanager
def random_weights(seed: int) -> Iterator[None]:
    """Draws the same random weights each time, and leaves PyTorch's own generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def unreachable(name: str, error: Exception) -> InputError:
    """Makes the error of pretrained weights that cannot be had."""
    return InputError(
        f"the weights of {name} cannot be fetched ({first_line(error)}): check the name and the "
        "network, give them as --weights FILE, or --weights random to measure speed alone"
    )


_GENERIC_LABEL = "LABEL_0"
_TIMM, _TRANSFORMERS = "timm's pretrained_cfg", "the model's config"


def describe_module(module: nn.Module) -> tuple[ModelHints, str]:
    """Returns what a module of timm, torchvision or transformers says of itself, and where it was
    read; nothing for others.
    """
    config = getattr(module, "pretrained_cfg", None)
    if isinstance(config, Mapping) and config.get("mean"):
        own = ModelHints(img_size=_own_size(module))
        return own.or_else(timm_hints(config)), _TIMM
    config = getattr(module, "config", None)
    if config is not None and hasattr(config, "model_type"):
        return transformers_hints(config), _TRANSFORMERS
    size = _own_size(module)
    return (ModelHints(img_size=size), "the model") if size else (ModelHints(), "")


def timm_hints(config: Mapping[str, Any]) -> ModelHints:
    """Reads timm's `pretrained_cfg`, or what `resolve_model_data_config` makes of it."""
    crop, labels = config.get("crop_pct"), config.get("label_names")
    return ModelHints(
        img_size=_pair(tuple(config.get("input_size") or ())[1:]),
        mean=_numbers(config.get("mean")),
        std=_numbers(config.get("std")),
        interpolation=config.get("interpolation") or None,
        crop=float(crop) if crop else None,
        crop_mode=config.get("crop_mode") or None,
        labels=tuple(map(str, labels)) if labels else None,
    )


def transformers_hints(config: Any) -> ModelHints:
    """Reads the image size and the class names of a configuration of transformers."""
    vision = getattr(config, "vision_config", None) or config
    size = _pair(getattr(vision, "image_size", None))
    names = getattr(config, "id2label", None)
    if not isinstance(names, Mapping) or not names or _GENERIC_LABEL in names.values():
        return ModelHints(img_size=size)
    if sorted(names) != list(range(len(names))):
        return ModelHints(img_size=size)
    return ModelHints(img_size=size, labels=tuple(str(names[i]) for i in range(len(names))))


def _own_size(module: nn.Module) -> tuple[int, int] | None:
    """The size that timm's patch embedding or torchvision's ViT was made for."""
    embedding = getattr(module, "patch_embed", None)
    return _pair(getattr(embedding, "img_size", None)) or _pair(getattr(module, "image_size", None))


def _pair(value: Any) -> tuple[int, int] | None:
    if isinstance(value, int):
        return value, value
    if isinstance(value, (list, tuple)) and len(value) == 2 and all(type(v) is int for v in value):
        return value[0], value[1]
    return None


def _numbers(value: Any) -> tuple[float, ...] | None:
    return tuple(map(float, value)) if value else None
