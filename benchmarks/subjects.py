"""The models that quantisers are compared on, each with its images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
import torch
from safetensors.torch import load_file, save_file

from vit_edge.export.onnx_export import export_onnx
from vit_edge.export.passes import optimise
from vit_edge.runtime.preprocess import Preprocess
from vit_edge.runtime.tools.images import ImageSet
from vit_edge.vit.datasets import digits
from vit_edge.vit.training.digits import train_digits
from vit_edge.vit.variants import find_variant
from vit_edge.vit.vision_transformer import VisionTransformer

from .characters import characters
from .measures import Values
from .outliers import with_injected_outliers
from .training import PREPROCESS, characters_vit, outliers_vit, patches_vit

INJECTED = "+injected"
_SEED = 0


@dataclass(frozen=True)
class Subject:
    """A model, its calibration images and its evaluation images."""

    name: str
    model: VisionTransformer
    preprocess: Preprocess
    calibration: ImageSet
    evaluation: ImageSet

    def logits(self, values: Values) -> Values:
        """Returns the graph's output, which is logits already."""
        return values

    def graph(self) -> ir.Model:
        """Exports the optimised fp32 graph, the input of every quantiser."""
        graph = export_onnx(self.model, self.preprocess, "logits")
        optimise(graph)
        return graph


def subject(name: str, cache: Path) -> Subject:
    """Returns the named subject, one of `NAMES` or `PATCHES`; trained first if the cache does not
    have it.
    """
    base, _, injected = name.partition("+")
    make = _on_characters(patches_vit) if base == PATCHES else _BASES[base]
    model, preprocess, calibration, evaluation = make(cache)
    if injected:
        model = with_injected_outliers(model, _SEED)
    return Subject(name, model, preprocess, calibration, evaluation)


_Parts = tuple[VisionTransformer, Preprocess, ImageSet, ImageSet]


def _vit_digits(cache: Path) -> _Parts:
    variant = find_variant("vit_digits")
    file = cache / "vit_digits.safetensors"
    if file.exists():
        model = VisionTransformer.from_config(variant.config).eval()
        model.load_state_dict(load_file(file))
    else:
        model = train_digits(0, lambda done, total: None)
        save_file(model.state_dict(), file)
    preprocess = variant.preprocess
    calibration, evaluation = (digits(s, preprocess) for s in ("calibration", "evaluation"))
    return model, preprocess, calibration, evaluation


def _on_characters(
    train: Callable[[ImageSet, Path], VisionTransformer],
) -> Callable[[Path], _Parts]:
    def make(cache: Path) -> _Parts:
        torch.set_num_threads(1)  # two are slower on so small a model when others want the cores
        model = train(characters("train", cache), cache)
        calibration, evaluation = (characters(s, cache) for s in ("calibration", "evaluation"))
        return model, PREPROCESS, calibration, evaluation

    return make


_BASES: dict[str, Callable[[Path], _Parts]] = {
    "vit_digits": _vit_digits,
    "characters": _on_characters(characters_vit),
    "outliers": _on_characters(outliers_vit),
}
PATCHES = "patches"
"""Not among `NAMES`: quantisers are compared on the others."""
NAMES = tuple(name + suffix for name in _BASES for suffix in ("", INJECTED))
