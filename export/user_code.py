"""Functions of the user's own Python files: the model to export, and a metric beside those of the
outputs' kinds.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
import sys
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
    sys.modules[spec.name] = module  # dataclasses look up their module there
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


Function = Callable[[Mapping[str, NDArray[np.float32]], NDArray[np.int64] | None], float]
"""Outputs `[N, *shape]` of all evaluation images by name, and labels int64 `[N]` or None, to a
number; higher is better."""

ALLOWED_SHARE = 0.01
"""Part of the reference's value by which a metric may fall if `--max-drop` is not given."""


@dataclass(frozen=True)
class Metric:
    """A user's measure, its name in words, and the key that identifies it in caches."""

    name: str
    key: str
    function: Function

    def __call__(
        self, outputs: Mapping[str, NDArray[np.float32]], labels: NDArray[np.int64] | None
    ) -> float:
        """Returns the measure of the outputs. Raises InputError if it fails or is not finite."""
        try:
            value = float(self.function(dict(outputs), labels))
        except InputError:
            raise
        except Exception as error:  # a user's code may raise anything
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise InputError(f"the metric {self.name} failed: {reason}") from error
        if not math.isfinite(value):
            raise InputError(f"the metric {self.name} is {value}: a finite number is expected")
        return value


def load_metric(argument: str) -> Metric:
    """Loads `FILE.py:FUNCTION`.

    Raises:
        InputError: if there is no such file or function, or the file cannot be run.
    """
    file, _, name = argument.rpartition(":")
    path = Path(file)
    if not file or not path.is_file():
        raise InputError(
            f"--metric {argument}: there is no file {file or argument}: give FILE.py:FUNCTION"
        )
    function = load_function(path, name)
    key = hashlib.sha256(path.read_bytes() + name.encode()).hexdigest()
    return Metric(argument, key, function)


def metric_of(function: Function) -> Metric:
    """The metric of a function in memory. Its results are not cached: what it reads is unknown."""
    return Metric(getattr(function, "__name__", "metric"), uuid.uuid4().hex, function)


def allowed_drop(max_drop: float | None, reference: float) -> float:
    """Returns how much lower than the reference's a metric may be."""
    return ALLOWED_SHARE * abs(reference) if max_drop is None else max_drop
