"""PyTorch files: what a training saved, as data. Nothing in them is executed.

A file often holds more than tensors: options, counters, a whole module. Classes that it names are
not imported: an inert stand-in takes the place of each, and keeps the data.
"""

from __future__ import annotations

import argparse
import pickle
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint

from vit_edge.runtime.errors import InputError, first_line

from .checkpoint import RawCheckpoint
from .options import read_options

_SCRIPT, _PROGRAM = "constants.pkl", "archive_format"
"""Members of the archives of TorchScript and of `torch.export.save`."""
_DATA_MODULES = (
    "argparse", "collections", "datetime", "decimal", "enum", "fractions", "functools", "pathlib",
    "types", "uuid",
)  # fmt: skip
"""Modules of the standard library that trainings save values of; the others run programs, or open
files, and no checkpoint needs them."""
_MODULE_PARTS = ("_parameters", "_buffers", "_modules")
"""Attributes in which a `torch.nn.Module` keeps its tensors and its modules."""


class _Inert:
    """Stands for an object of a class that is not imported; its state are its attributes."""

    def __new__(cls, *arguments: Any, **options: Any) -> _Inert:
        return object.__new__(cls)

    def __init__(self, *arguments: Any, **options: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, dict):
                self.__dict__.update({str(name): value for name, value in part.items()})


def read_pickle(path: Path) -> RawCheckpoint:
    """Reads a file of `torch.save`: the tensors in it by their paths, as
    "state_dict.model.head.bias".

    Source: `torch.load(weights_only=True)`, which calls nothing but what it is allowed to.

    Raises:
        InputError: if it is damaged, a program, or names what could execute code.
    """
    archive = zipfile.is_zipfile(path)
    if archive:
        _refuse_programs(path)
    try:
        value = _load(path, archive)
    except pickle.UnpicklingError:
        raise InputError(
            f"{path} is refused: it is damaged, or holds more than tensors, and loading that could "
            "execute code. Save the state_dict alone, or convert it to safetensors"
        ) from None
    except InputError:
        raise
    except Exception as error:  # damaged bytes make the unpickler raise nearly anything
        raise InputError(f"{path} is not a whole PyTorch file ({first_line(error)})") from None
    tensors = dict(_tensors(value))
    if not tensors and value != {}:
        raise InputError(f"{path} holds no state_dict of tensors")
    hints, arch = read_options(value)
    return RawCheckpoint(path.name, tensors, hints=hints, arch=arch, options=value)


def _refuse_programs(path: Path) -> None:
    try:
        names = {name.rpartition("/")[2] for name in zipfile.ZipFile(path).namelist()}
    except (OSError, ValueError, zipfile.BadZipFile):
        return  # damaged: said when it is loaded
    if _SCRIPT in names:
        raise InputError(
            f"{path} is TorchScript, a program with weights, and is not run here. If you trust it, "
            "save its weights alone, in Python: torch.save(torch.jit.load('"
            f"{path.name}', map_location='cpu').state_dict(), 'weights.pth'), and give that file; "
            "or export it to ONNX and use --onnx"
        )
    if _PROGRAM in names:
        raise InputError(
            f"{path} is a program of torch.export. Save its weights alone, in Python: "
            f"torch.save(dict(torch.export.load('{path.name}').state_dict), 'weights.pth'), and "
            "give that file; or export it to ONNX and use --onnx"
        )


def _load(path: Path, archive: bool) -> Any:
    """Loads with inert stand-ins; mappings are tried where objects do not do."""
    names = get_unsafe_globals_in_checkpoint(str(path)) if archive else []
    for name in names:
        module = name.partition(".")[0]
        if module in sys.stdlib_module_names and module not in _DATA_MODULES:
            raise InputError(
                f"{path} is refused: it names {name}, which could execute code. Save the "
                "state_dict alone, or convert it to safetensors"
            )
    try:
        return _load_with(path, archive, {name: type("Inert", (_Inert,), {}) for name in names})
    except pickle.UnpicklingError:
        if not names:
            raise
        return _load_with(path, archive, dict.fromkeys(names, OrderedDict))


def _load_with(path: Path, archive: bool, stand_ins: Mapping[str, type]) -> Any:
    allowed: list[Any] = [(kind, name) for name, kind in stand_ins.items()]
    # Many a training saves its options along; a Namespace is plain data.
    with torch.serialization.safe_globals([argparse.Namespace, *allowed]):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=archive)


def _tensors(value: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yields the tensors of nested mappings and modules, by their paths."""
    for name, inner in _children(value):
        here = f"{path}.{name}" if path else name
        if isinstance(inner, Tensor):
            yield here, inner
        else:
            yield from _tensors(inner, here)


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield from ((name, inner) for name, inner in value.items() if isinstance(name, str))
    elif isinstance(value, _Inert):
        for name, inner in vars(value).items():
            if name in _MODULE_PARTS:
                yield from _children(inner)
            elif isinstance(inner, _Inert | Mapping):
                yield name, inner
