"""The file that training leaves: weights, and all that is needed to use them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from runtime.errors import InputError
from runtime.preprocess import Preprocess
from runtime.schema import decode

from ..checkpoints import CONFIG_KEY, build_model, read_checkpoint
from ..vision_transformer import VisionTransformer

LABELS_KEY = "vit_edge.labels"
PREPROCESS_KEY = "vit_edge.preprocess"


@dataclass(frozen=True)
class TrainedModel:
    """A model in eval mode, with what is needed to show it a picture and to name its answer."""

    model: VisionTransformer
    preprocess: Preprocess
    labels: tuple[str, ...]


def read_trained(path: Path) -> TrainedModel:
    """Reads a file with what `encode_trained` made.

    Raises:
        InputError: if the file is missing, damaged or was not made so.
    """
    checkpoint = read_checkpoint(path)
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
        preprocess = decode(Preprocess, json.loads(header[PREPROCESS_KEY]))
        labels = decode(tuple[str, ...], json.loads(header[LABELS_KEY]))
    except (SafetensorError, KeyError, ValueError):
        checkpoint = replace(checkpoint, config=None)
    if checkpoint.config is None or len(labels) != checkpoint.config.num_classes:
        raise InputError(f"{path} has no class names and preprocessing: `vit.train` writes them")
    return TrainedModel(
        build_model(checkpoint.config, checkpoint.tensors, path.name), preprocess, labels
    )


def encode_trained(
    model: VisionTransformer, preprocess: Preprocess, labels: tuple[str, ...]
) -> bytes:
    """The model as safetensors; its configuration, its preprocessing and the names of its classes
    are in the header.
    """
    tensors = {
        name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()
    }
    header = {
        CONFIG_KEY: json.dumps(asdict(model.config)),
        PREPROCESS_KEY: json.dumps(asdict(preprocess)),
        LABELS_KEY: json.dumps(labels),
    }
    return _in_fixed_order(save(tensors, header))


def _in_fixed_order(data: bytes) -> bytes:
    """The same safetensors file, its metadata sorted: the library leaves that to chance, and the
    same weights shall give the same bytes.
    """
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the tensors stay aligned
    return len(text).to_bytes(8, "little") + text + data[8 + size :]
