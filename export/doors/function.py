"""The door of `FILE.py:FUNCTION`: a function of the user's that returns the module."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from vit_edge.export.cache import file_sha256
from vit_edge.runtime.errors import InputError, VitEdgeError, first_line

from . import RANDOM, split_function
from .describe import describe_module
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
            f"{request.model} returns a {type(module).__name__}: a torch.nn.Module is wanted"
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


def load_function(path: Path, name: str) -> Any:
    """Returns a function of a Python file, wrapped so that what it raises is an InputError.

    The file's folder is on `sys.path` while the file and the function run, as if Python ran it.

    Raises:
        InputError: if the file is missing or fails, or has no such function.
    """
    if not path.is_file():
        raise InputError(f"there is no Python file at {path}")
    spec = importlib.util.spec_from_file_location(f"vit_edge_user_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    loader = spec.loader

    def run(work: Any, what: str) -> Any:
        sys.path.insert(0, str(path.parent.resolve()))
        try:
            return work()
        except VitEdgeError:
            raise
        except Exception as error:  # the file is the user's: it may raise anything
            raise InputError(
                f"{what} failed ({type(error).__name__}: {first_line(error)})"
            ) from error
        finally:
            sys.path.remove(str(path.parent.resolve()))

    run(lambda: loader.exec_module(module), str(path))
    function = getattr(module, name, None)
    if not callable(function):
        functions = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise InputError(
            f"{path} has no function {name!r}; it has {', '.join(functions) or 'none'}"
        )
    return lambda *arguments: run(lambda: function(*arguments), f"{path}:{name}")
