"""The door `timm:NAME`: any model of timm, with its own weights, those of a file or random ones."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from vit_edge.runtime.errors import InputError, first_line
from vit_edge.vit.hints import ModelHints

from . import RANDOM
from .libraries import import_library, random_weights, timm_hints, unreachable
from .local_weights import build_for_weights, read_weights
from .module import LoadedModule, find_module_source
from .source import Source

if TYPE_CHECKING:
    from vit_edge.export.plan import ExportRequest

PREFIX = "timm:"


def find_source(request: ExportRequest) -> Source:
    """Returns the model as a source. Raises InputError if it cannot be used."""
    return find_module_source(load(request), request)


def load(request: ExportRequest) -> LoadedModule:
    """Makes the model; its preprocessing is that of its `pretrained_cfg`.

    Raises:
        InputError: if timm is not installed or does not know the name, or the weights cannot be
            had.
    """
    assert isinstance(request.model, str)
    library = import_library("timm", f"{PREFIX}NAME")
    name = request.model.removeprefix(PREFIX)
    if ":" not in name and not library.is_model(name):
        similar = library.list_models(f"*{name.partition('.')[0]}*")[:5]
        near = f"; near are {', '.join(similar)}" if similar else ""
        raise InputError(f"timm has no model {name!r}{near}")
    options = _size_option(library, name, request.facts)
    module, weights, notes = _load(library, name, options, request)
    hints = timm_hints(library.data.resolve_model_data_config(module))
    facts = {"source": request.model, "timm": library.__version__}
    return LoadedModule(name, module, weights, hints, "timm's pretrained_cfg", facts, notes)


def _size_option(library: Any, name: str, user: ModelHints) -> dict[str, Any]:
    """The option for images of the size that the user asks for, where the model needs one."""
    if user.img_size is None or ":" in name:
        return {}
    config = library.get_pretrained_cfg(name)
    fixed = config is not None and config.fixed_input_size
    usual = tuple(config.input_size[1:]) if config is not None else ()
    return {"img_size": user.img_size} if fixed and usual != user.img_size else {}


def _load(
    library: Any, name: str, options: dict[str, Any], request: ExportRequest
) -> tuple[nn.Module, str, tuple[str, ...]]:
    """The model, the origin of its weights in words, and notes on what is left out of a file."""

    def create(*, pretrained: bool, **more: Any) -> nn.Module:
        try:
            model: nn.Module = library.create_model(name, pretrained=pretrained, **options, **more)
        except (TypeError, ValueError, AssertionError) as error:
            given = f" with {options}" if options else ""
            raise InputError(f"timm cannot make {name}{given}: {first_line(error)}") from None
        return model

    if request.weights == RANDOM:
        with random_weights(request.seed):
            return create(pretrained=False), RANDOM, ()
    if request.weights is None:
        try:
            return create(pretrained=True), f"{PREFIX}{name}", ()
        except InputError:
            raise
        except Exception as error:  # the hub's client has no base of its own for errors
            raise unreachable(name, error) from None

    def build(classes: int | None) -> nn.Module:
        return create(pretrained=False, **({} if classes is None else {"num_classes": classes}))

    weights = read_weights(request)
    module, notes = build_for_weights(build, weights, _convert)
    return module, weights.source, notes


def _convert(module: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Timm's own conversion of original checkpoints, and of positions of another size."""
    convert = getattr(sys.modules[type(module).__module__], "checkpoint_filter_fn", None)
    if convert is None or (
        set(tensors) == set(module.state_dict())
        and all(tensors[name].shape == value.shape for name, value in module.state_dict().items())
    ):
        return tensors
    try:
        return dict(convert(tensors, module))
    except Exception:  # it was made for other files: the comparison of names says what is wrong
        return tensors
