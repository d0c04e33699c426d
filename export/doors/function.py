"""The door of `FILE.py:FUNCTION`: a function of the user's that returns the module."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from vit_edge.export.cache import file_sha256
from vit_edge.export.user_code import load_function
from vit_edge.runtime.errors import InputError

from . import RANDOM, split_function
from .libraries import describe_module
from .local_weights import load_weights, read_weights
from .module import LoadedModule, find_module_source
from .source import Source

if TYPE_CHECKING:
    from vit_edge.export.plan import ExportRequest


def find_source(request: ExportRequest) -> Source:
    """Returns the model as a source. Raises InputError if it cannot be used."""
    return find_module_source(load(request), request)


def load(request: ExportRequest) -> LoadedModule:
    """Runs the user's file, and calls the function for its module.

    Raises:
        InputError: if the file, the function or the module cannot be used.
    """
    assert isinstance(request.model, str)
    place = split_function(request.model)
    assert place is not None
    path, name = place
    module = load_function(path, name)()
    if not isinstance(module, nn.Module):
        raise InputError(
            f"{request.model} returns a {type(module).__name__}: a torch.nn.Module is expected"
        )
    weights, notes = f"of {path.name}:{name}", tuple[str, ...]()
    if request.weights == RANDOM:
        raise InputError(f"--weights {RANDOM}: {request.model} makes its own weights, leave it out")
    if request.weights is not None:
        local = read_weights(request)
        weights, notes = local.source, load_weights(module, local)
    hints, origin = describe_module(module)
    facts = {"source": f"{path.name}:{name}", "sha256 of the file": file_sha256(path)}
    return LoadedModule(name, module, weights, hints, origin, facts, notes)
