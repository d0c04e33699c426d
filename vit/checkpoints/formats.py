"""The file formats but PyTorch's own (see `pickles`): tensors by name, nothing executed. Files of
the Hugging Face hub come through its own client.
"""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vit_edge.runtime.errors import InputError, first_line, install_command
from vit_edge.runtime.preprocess import Preprocess
from vit_edge.runtime.schema import decode

from ..config import ViTConfig, config_from_fields
from ..hints import ModelHints
from .checkpoint import RawCheckpoint

PREFIXES = {"hf:": "", "timm:": "timm/"}
"""Prefixes of names, and what they stand for in front of a repository."""

_FILES = ["config.json", "preprocessor_config.json", "model*.safetensors", "model*.index.json"]
_PICKLES = ["config.json", "preprocessor_config.json", "pytorch_model*"]
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def is_hub_name(text: str) -> bool:
    """Tells whether a name is one of a hub's, such as "hf:owner/repository"."""
    return text.startswith(tuple(PREFIXES))


def fetch(name: str) -> Path:
    """Downloads files that are not in the hub's cache yet, and returns the folder.

    Args:
        name: `hf:owner/repository` or `timm:model`; `@revision` may follow.

    Raises:
        InputError: if the name is malformed, the client is not installed, or the repository cannot
            be fetched.
    """
    prefix = next(p for p in PREFIXES if name.startswith(p))
    repository, _, revision = (PREFIXES[prefix] + name.removeprefix(prefix)).partition("@")
    if not _REPOSITORY.fullmatch(repository):
        raise InputError(f"{name} names no repository: give hf:owner/name or timm:model")
    try:
        from huggingface_hub import snapshot_download
    except ModuleNotFoundError:
        raise InputError(f"{name} needs huggingface_hub: {install_command('hub')}") from None
    try:
        for files in (_FILES, _PICKLES):
            folder = Path(
                snapshot_download(repository, revision=revision or None, allow_patterns=files)
            )
            if any(folder.glob("*.safetensors")) or any(folder.glob("*.bin")):
                return folder
    except Exception as error:  # network, authorisation and cache errors have no common base
        raise InputError(
            f"{name} cannot be fetched ({first_line(error)}): check the name, the network, or give "
            "a local folder"
        ) from None
    raise InputError(f"{name} holds neither safetensors nor a pytorch_model.bin")


CONFIG_KEY, LABELS_KEY, PREPROCESS_KEY = (
    "vit_edge.config",
    "vit_edge.labels",
    "vit_edge.preprocess",
)


def read_safetensors(path: Path) -> RawCheckpoint:
    """Reads a safetensors file; this project's have their configuration in the header."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(
            f"{path} is not a whole safetensors file ({error}): download or save it again"
        ) from None
    try:
        return RawCheckpoint(path.name, tensors, *_read_metadata(metadata))
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(
            f"{path}: its header's vit_edge entries are not valid ({str(error)[:200]}): save it "
            "again with this version"
        ) from None


def _read_metadata(metadata: dict[str, str]) -> tuple[ViTConfig | None, ModelHints]:
    config, hints = None, ModelHints()
    if CONFIG_KEY in metadata:
        config = config_from_fields(ViTConfig(), json.loads(metadata[CONFIG_KEY]))
    if PREPROCESS_KEY in metadata:
        p = decode(Preprocess, json.loads(metadata[PREPROCESS_KEY]))
        hints = ModelHints(
            (p.height, p.width),
            mean=p.mean,
            std=p.std,
            interpolation=p.interpolation,
            crop=p.crop,
            crop_mode=p.crop_mode,
        )
    if LABELS_KEY in metadata:
        labels = decode(tuple[str, ...], json.loads(metadata[LABELS_KEY]), "labels")
        hints = ModelHints(**{**vars(hints), "labels": labels})
    return config, hints


def read_npz(path: Path) -> RawCheckpoint:
    """Reads a flat `.npz` of the original JAX code.

    Source: google-research/vision_transformer and big_vision; bfloat16 arrays are kept as raw two
    bytes.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            tensors = {name: _tensor(file[name]) for name in file.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(
            f"{path} is not a whole .npz of arrays ({first_line(error)}): download it again"
        ) from None
    except (NotImplementedError, RuntimeError, MemoryError, AttributeError) as error:
        raise InputError(f"{path} cannot be read as an .npz ({first_line(error)})") from None
    return RawCheckpoint(path.name, tensors)


def _tensor(array: NDArray[Any]) -> Tensor:
    if array.dtype.str == "|V2":
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"an array of type {array.dtype}")
    return torch.from_numpy(array)
