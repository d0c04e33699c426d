"""The door `torchvision:NAME`: a model of torchvision, with its own weights, those of a file or
random ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from vit_edge.runtime.errors import InputError, first_line
from vit_edge.vit.hints import ModelHints

from . import RANDOM
from .libraries import import_library, random_weights, unreachable
from .local_weights import build_for_weights, read_weights
from .module import LoadedModule, find_module_source
from .source import Source

if TYPE_CHECKING:
    from vit_edge.export.plan import ExportRequest

PREFIX = "torchvision:"


def find_source(request: ExportRequest) -> Source:
    """Returns the model as a source. Raises InputError if it cannot be used."""
    return find_module_source(load(request), request)


def load(request: ExportRequest) -> LoadedModule:
    """Makes the model; its preprocessing is that of `weights.transforms()`.

    Raises:
        InputError: if torchvision is not installed or does not know the name, or the weights cannot
            be had.
    """
    assert isinstance(request.model, str)
    models = import_library("torchvision", f"{PREFIX}NAME").models
    name = request.model.removeprefix(PREFIX)
    if name not in models.list_models():
        similar = models.list_models(include=f"*{name}*")[:5]
        near = f"; near are {', '.join(similar)}" if similar else ""
        raise InputError(f"torchvision has no model {name!r}{near}")
    weights = models.get_model_weights(name).DEFAULT
    hints = read_transforms(weights.transforms(), weights.meta.get("categories"))
    module, origin, notes = _load(models, name, request, hints)
    facts = {"source": request.model, "torchvision": import_library("torchvision", "").__version__}
    return LoadedModule(
        name, module, origin, hints, f"torchvision's transforms of {weights}", facts, notes
    )


def read_transforms(transforms: Any, categories: Any) -> ModelHints:
    """Reads one of torchvision's presets of transforms."""
    crop, size = (_side(getattr(transforms, f"{kind}_size", None)) for kind in ("crop", "resize"))
    mode = getattr(transforms, "interpolation", None)
    mean, std = (getattr(transforms, name, None) for name in ("mean", "std"))
    edge = crop or size
    return ModelHints(
        img_size=(edge, edge) if edge else None,
        mean=tuple(mean) if mean else None,
        std=tuple(std) if std else None,
        interpolation=None if mode is None else str(mode.value),
        crop=crop / size if crop and size else 1.0,
        crop_mode="center",
        labels=tuple(categories) if categories else None,
    )


def _side(value: Any) -> int | None:
    return int(value[0] if isinstance(value, (list, tuple)) else value) if value else None


def _load(
    models: Any, name: str, request: ExportRequest, hints: ModelHints
) -> tuple[nn.Module, str, tuple[str, ...]]:
    """The model, the origin of its weights in words, and notes on what is left out of a file."""
    size = request.facts.img_size
    options: dict[str, Any] = {}
    if size is not None and size != hints.img_size and name.startswith("vit_"):
        if size[0] != size[1]:
            raise InputError(f"torchvision's {name} takes square images only")
        options = {"image_size": size[0]}

    def create(weights: Any, **more: Any) -> nn.Module:
        try:
            model: nn.Module = models.get_model(name, weights=weights, **options, **more)
        except (TypeError, ValueError) as error:
            raise InputError(f"torchvision cannot make {name}: {first_line(error)}") from None
        return model

    if request.weights == RANDOM:
        with random_weights(request.seed):
            return create(None), RANDOM, ()
    if request.weights is None:
        try:
            return create("DEFAULT"), f"{PREFIX}{name}", ()
        except OSError as error:
            raise unreachable(name, error) from None
    weights = read_weights(request)

    def build(classes: int | None) -> nn.Module:
        if classes == 0:
            raise InputError(
                f"{weights.source} has no head, and torchvision's {name} is made with one"
            )
        return create(None, **({} if classes is None else {"num_classes": classes}))

    module, notes = build_for_weights(build, weights, lambda module, own: own)
    return module, weights.source, notes
