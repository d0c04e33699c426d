"""Contenders on the card: our engines of a bundle, and the same model in PyTorch."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vit_edge.runtime.backends import BACKENDS
from vit_edge.runtime.bundle import Bundle
from vit_edge.runtime.deployment import Deployment
from vit_edge.runtime.engine import Engine
from vit_edge.runtime.manifest import Fact, Manifest
from vit_edge.vit.config import BlockOptions, EmbeddingOptions, ReadoutOptions, ViTConfig
from vit_edge.vit.vision_transformer import VisionTransformer

from .card import Card
from .latency import Run

TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
WAYS: dict[str, Callable[[nn.Module], Callable[[Tensor], Tensor]]] = {
    "pytorch": lambda model: model,
    "pytorch compiled": lambda model: torch.compile(model, mode="max-autotune", dynamic=False),
}
"""PyTorch's ways to run it. The mode is its fastest: kernels tuned per batch size, CUDA graphs."""
_PARTS = {"embedding": EmbeddingOptions, "block": BlockOptions, "readout": ReadoutOptions}


@dataclass(frozen=True)
class Contender:
    """One way to run the model, from uint8 frames in host memory to float32 outputs there, so that
    calls end when the work has.

    Attributes:
        start: Makes it ready; its resources are freed with the stack.
    """

    precision: str
    runtime: str
    start: Callable[[ExitStack], Run]

    @property
    def name(self) -> str:
        return f"{self.precision} {self.runtime}"


def engines(bundle: Bundle, backends: tuple[str, ...]) -> tuple[list[Contender], dict[str, str]]:
    """Lists each precision on each backend that runs here, and the reasons against the others."""
    contenders, absent = [], {}
    for name in backends:
        problem = BACKENDS[name].run_problem()
        if problem is not None:
            absent[name] = problem
            continue
        for candidate in Deployment(bundle).candidates(backend=name):
            contenders.append(_engine(bundle, candidate.precision, name))
    return contenders, absent


def _engine(bundle: Bundle, precision: str, backend: str) -> Contender:
    def start(stack: ExitStack) -> Run:
        return stack.enter_context(Engine.load(bundle.path, precision, backend))

    return Contender(precision, backend, start)


def pytorch(manifest: Manifest, card: Card, ways: Iterable[str]) -> list[Contender]:
    """Lists PyTorch in each type and each of the named `WAYS`. The weights are random: time does
    not depend on them, and the self-check proves the outputs.
    """
    config = config_of(manifest)

    def contender(precision: str, way: str) -> Contender:
        def start(stack: ExitStack) -> Run:
            model = _Classifier(VisionTransformer.from_config(config), manifest)
            model = model.eval().to(card.device, TYPES[precision])
            return _in_host_memory(WAYS[way](model), card)

        return Contender(precision, way, start)

    return [contender(precision, way) for precision in TYPES for way in ways]


def config_of(manifest: Manifest) -> ViTConfig:
    """Restores the architecture from the manifest's facts."""
    flat = {name: _value(fact) for name, fact in manifest.model.items()}
    parts = {
        part: kind(**{f.name: flat[f"{part}.{f.name}"] for f in fields(kind)})
        for part, kind in _PARTS.items()
    }
    plain = {name: value for name, value in flat.items() if "." not in name}
    return ViTConfig(**plain, **parts)  # type: ignore[arg-type]


def _value(fact: Fact) -> object:
    """Reads text as the value that it was written from, as older manifests have numbers too."""
    try:
        return ast.literal_eval(str(fact))
    except (ValueError, SyntaxError):
        return fact


class _Classifier(nn.Module):
    """Normalisation of frames and then the model, like the engines' graphs."""

    scale: Tensor
    offset: Tensor

    def __init__(self, model: VisionTransformer, manifest: Manifest) -> None:
        super().__init__()
        self.model = model
        p = manifest.preprocess
        scale = torch.tensor(p.std).view(1, -1, 1, 1) * 255
        self.register_buffer("scale", 1 / scale)
        self.register_buffer("offset", -255 * torch.tensor(p.mean).view(1, -1, 1, 1) / scale)

    def forward(self, frames: Tensor) -> Tensor:
        """Turns uint8 `[n, height, width, channels]` into `[n, outputs]`."""
        pixels = frames.permute(0, 3, 1, 2).to(self.scale.dtype)
        return self.model(pixels * self.scale + self.offset)  # type: ignore[no-any-return]


def _in_host_memory(model: Callable[[Tensor], Tensor], card: Card) -> Run:
    """Runs from pinned memory, like an application that is optimised for speed."""
    pinned: dict[tuple[int, ...], Tensor] = {}

    def run(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        source = torch.from_numpy(frames)
        if card.device == "cuda":
            staged = pinned.setdefault(frames.shape, torch.empty_like(source, pin_memory=True))
            source = staged.copy_(source).to(card.device, non_blocking=True)
        with torch.inference_mode():
            scores = model(source).float()
        answer: NDArray[np.float32] = scores.cpu().numpy()
        card.synchronize()
        return answer

    return run
