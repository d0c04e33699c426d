"""The models of the zoo: what people deploy, shrunk to seconds, with random weights.

`data/*.json` hold the arguments that each library's own constructor takes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tests import oracles

from .pictures import draw_images

DATA = Path(__file__).parent / "data"
LIBRARIES = ("timm", "transformers", "torchvision")

_DEVIATION, _SHAKE, _LAYER_SCALE, _BATCH_NORM = 0.8, 0.05, 0.3, 0.4
"""At twice the deviation, or with batch normalisation of gain 1 in residual branches, some hybrids
turn the rounding of their weights to fp16 into a tenth and more of their outputs, as trained models
do not: what was measured would be the drawn weights.
"""
_FITTED = {"calibration": 16, "evaluation": 32}
"""Images that batch normalisation is fitted to. A trained model has seen flat and noisy ones too,
which otherwise leave what it was fitted to so far that fp16 overflows.
"""
_LAYER_SCALES = re.compile(r"(^|[._])(gamma\w*|lambda\w*|layer_scale\w*|ls\d?|token_mixer_scale)\b")
_POSITIONS = re.compile(r"position|pos_embed|rel_pos|relative|cls_token|freqs|logit_scale")


@dataclass(frozen=True)
class Entry:
    """Model of the zoo.

    Attributes:
        name: As its library calls it.
        library: One of `LIBRARIES`.
        size: The side of its input.
        mean, std: Its normalisation.
        outputs: Names of what people use of a `ModelOutput`; empty where a tensor is returned.
        fields: The rest of its entry: arguments of its constructor.
    """

    name: str
    library: str
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    outputs: tuple[str, ...]
    fields: Mapping[str, Any]

    @property
    def shape(self) -> tuple[int, int, int]:
        return (3, self.size, self.size)


def read_entries() -> list[Entry]:
    """Returns every model, library by library."""
    return [
        Entry(
            entry["name"],
            library,
            entry["size"],
            tuple(entry["mean"]),
            tuple(entry["std"]),
            tuple(entry.get("outputs", ())),
            entry,
        )
        for library in LIBRARIES
        for entry in json.loads((DATA / f"{library}.json").read_text())
    ]


def build(entry: Entry) -> nn.Module:
    """Returns the model with random weights, ready to run: float32 `[N, 3, size, size]` in."""
    torch.manual_seed(0)
    model = _BUILDERS[entry.library](entry)
    draw_weights(model)
    fit_batch_norms(model.eval(), entry)
    return model


def _timm(entry: Entry) -> nn.Module:
    model: nn.Module = oracles.timm().create_model(
        entry.name, pretrained=False, **entry.fields["args"]
    )
    return model


def _transformers(entry: Entry) -> nn.Module:
    library = oracles.transformers()
    config = getattr(library, entry.fields["config_class"])(**entry.fields["config"])
    model = getattr(library, entry.fields["model"])(config)
    return Outputs(model, entry.outputs)


def _torchvision(entry: Entry) -> nn.Module:
    models = oracles.torchvision().models
    arguments = dict(entry.fields["args"])
    if entry.fields.get("version") == 2:
        swin = models.swin_transformer
        arguments |= {
            "block": swin.SwinTransformerBlockV2,
            "downsample_layer": swin.PatchMergingV2,
        }
    model: nn.Module = getattr(models, entry.fields["model"])(**arguments)
    return model


_BUILDERS = {"timm": _timm, "transformers": _transformers, "torchvision": _torchvision}


class Outputs(nn.Module):
    """Some of what a model of transformers returns: a tensor, or a tuple of several."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.model, self.names = model, tuple(names)

    def forward(self, pixel_values: Tensor) -> Tensor | tuple[Tensor, ...]:
        results = self.model(pixel_values=pixel_values)
        chosen = tuple(getattr(results, name) for name in self.names)
        return chosen if len(chosen) > 1 else chosen[0]


@torch.no_grad()
def draw_weights(model: nn.Module) -> None:
    """Draws weights with which a model tells images apart, in place: the libraries' own leave much
    at zero, and scale layers by 1e-5.
    """
    norms = {
        id(p): _BATCH_NORM if isinstance(m, _BatchNorm) else 1.0
        for m in model.modules()
        if _is_norm(m)
        for p in m.parameters(recurse=False)
    }
    for name, parameter in model.named_parameters():
        noise = partial(torch.randn_like, parameter)
        matrix = parameter.ndim > 1 and name.endswith("weight")
        if id(parameter) in norms and name.endswith("weight"):
            parameter.copy_(norms[id(parameter)] + _SHAKE * noise())
        elif _LAYER_SCALES.search(name):
            parameter.copy_(_LAYER_SCALE + _SHAKE * noise())
        elif matrix and not _POSITIONS.search(name):
            parameter.copy_(_DEVIATION / prod(parameter.shape[1:]) ** 0.5 * noise())
        else:
            parameter.add_(_SHAKE * noise())


@torch.no_grad()
def fit_batch_norms(model: nn.Module, entry: Entry) -> None:
    """Sets the statistics of batch normalisation to those of images, as training does, in place:
    with others activations grow from layer to layer.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    before = {norm: norm.momentum for norm in norms}
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    if norms:
        images = np.concatenate([draw_images(s, n, entry.size) for s, n in _FITTED.items()])
        model(torch.from_numpy(normalise(images, entry)))
    for norm in norms:
        norm.momentum = before[norm]
        norm.eval()


def normalise(images: NDArray[np.uint8], entry: Entry) -> NDArray[np.float32]:
    """Returns images uint8 `[N, H, W, 3]` as the model takes them, float32 `[N, 3, H, W]`."""
    mean, std = (np.array(v, np.float64).reshape(1, -1, 1, 1) for v in (entry.mean, entry.std))
    pixels: NDArray[np.float32] = ((images.transpose(0, 3, 1, 2) / 255 - mean) / std).astype("f4")
    return pixels


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower()
