"""Checkpoints of the Hugging Face hub, through its own client."""

from __future__ import annotations

import re
from pathlib import Path

from vit_edge.runtime.errors import InputError, first_line, install_command

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
