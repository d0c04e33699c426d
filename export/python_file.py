"""Functions of Python files of the user's: a model to export, a metric."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

from vit_edge.runtime.errors import InputError, VitEdgeError, first_line


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
