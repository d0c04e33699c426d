"""PyTorch files: what a training saved, as data. Nothing in them is executed.

A file often holds more than tensors: options, counters, a whole module. Classes that it names are
not imported: an inert stand-in takes the place of each, and keeps the data.
"""

from __future__ import annotations

import argparse
import pickle
import pickletools
import sys
import zipfile
from _compat_pickle import IMPORT_MAPPING
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import suppress
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
_BUILT_IN = (
    "bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "object",
    "range", "set", "slice", "str", "tuple",
)  # fmt: skip
_DATA_NAMES = (
    "_codecs.encode",
    *(f"{module}.{name}" for module in ("builtins", "__builtin__") for name in _BUILT_IN),
)
_MODULE_PARTS = ("_parameters", "_buffers", "_modules")
"""Attributes in which a `torch.nn.Module` keeps its tensors and its modules."""
_LEGACY_PICKLES = 4
"""Of a file of PyTorch before 1.6: magic number, protocol, system, content; tensors follow."""


class _Inert:
    """Stands for an object of a class that is not imported; its state are its attributes."""

    def __new__(cls, *arguments: Any, **options: Any) -> _Inert:
        return object.__new__(cls)

    def __init__(self, *arguments: Any, **options: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, dict):
                self.__dict__.update({str(name): value for name, value in part.items()})


class _InertMapping:
    """Stands for a mapping of a class that is not imported; its items are kept."""

    def __new__(cls, *arguments: Any, **options: Any) -> OrderedDict[Any, Any]:  # type: ignore[misc]
        return OrderedDict()


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
    names = [name for name in _globals(path, archive) if name not in _DATA_NAMES]
    for name in names:
        module = name.partition(".")[0]
        module = IMPORT_MAPPING.get(module, module)  # the names of Python 2, which pickles keep
        if module in sys.stdlib_module_names and module not in _DATA_MODULES:
            raise InputError(
                f"{path} is refused: it names {name}, which could execute code. Save the "
                "state_dict alone, or convert it to safetensors"
            )
    names += _DATA_NAMES
    mappings = [name for name in names if name == "collections.defaultdict"]
    others = [name for name in names if not name.startswith("numpy.")]
    try:
        return _load_with(path, archive, names, mappings)
    except pickle.UnpicklingError:
        return _load_with(path, archive, names, others)


def _globals(path: Path, archive: bool) -> list[str]:
    """Lists the names in a file that PyTorch does not know as data; nothing is loaded."""
    if archive:
        return list(get_unsafe_globals_in_checkpoint(str(path)))
    names = set[str]()
    with path.open("rb") as stream, suppress(ValueError, EOFError):  # damaged: said at loading
        for _ in range(_LEGACY_PICKLES):
            for operation, name, _ in pickletools.genops(stream):
                if operation.name == "GLOBAL":
                    names.add(str(name).replace(" ", "."))
    return list(names)


def _load_with(path: Path, archive: bool, names: list[str], mappings: list[str]) -> Any:
    allowed: list[Any] = [
        (type("Inert", (_InertMapping if name in mappings else _Inert,), {}), name)
        for name in names
    ]
    # Many a training saves its options along; a Namespace is plain data.
    with torch.serialization.safe_globals([*allowed, argparse.Namespace]):
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
    if isinstance(value, _Inert | OrderedDict):
        for name, inner in vars(value).items():
            if name in _MODULE_PARTS:
                yield from _children(inner)
            elif isinstance(inner, _Inert | Mapping):
                yield name, inner
