"""The door of modules in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from vit_edge.runtime.errors import InputError

from .describe import describe_module
from .module import LoadedModule, find_module_source
from .source import Source

if TYPE_CHECKING:
    from vit_edge.export.plan import ExportRequest


def find_source(request: ExportRequest) -> Source:
    """Returns the model as a source. Raises InputError if it cannot be used."""
    return find_module_source(load(request), request)


def load(request: ExportRequest) -> LoadedModule:
    """Describes the request's module. Raises InputError if it is none."""
    module = request.model
    if not isinstance(module, nn.Module):
        raise InputError(f"the model is a {type(module).__name__}: give a torch.nn.Module")
    hints, origin = describe_module(module)
    name = type(module).__name__
    facts = {"source": "module in memory", "class": f"{type(module).__module__}.{name}"}
    return LoadedModule(name, module, "of the module in memory", hints, origin, facts)
