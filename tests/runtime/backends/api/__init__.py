"""The genuine APIs of TensorRT and CUDA, recorded: what names, attributes and arguments exist.

    api = recorded("tensorrt", "11.4.0")
    api.has("IExecutionContext", "execute_async_v3")
    api.signatures("Runtime", "deserialize_cuda_engine")[0].arguments   # ("serialized_engine",)

`record.py` writes the files beside this one from the libraries' own Python modules. In a file, a
class has `bases` and `members`; a member is an enumeration's value (int), the signatures of a
method (`["model path= -> bool"]`, one for each overload, `=` marks what may be left out, `"*"`
that nothing is known), a property (`"get set ICudaEngine"`), or `"class NAME"`.
"""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent
MODULE = ""
"""Stands for the module itself where a class is asked for."""


@dataclass(frozen=True)
class Signature:
    """How a function is called: its arguments without `self`, and what it returns ("" unknown)."""

    arguments: tuple[str, ...]
    required: int
    returns: str
    open_ended: bool = False

    def takes(self, positional: int, keywords: tuple[str, ...]) -> bool:
        """Whether a call with so many positional arguments and these keywords fits."""
        if self.open_ended:
            return True
        filled = {*self.arguments[:positional], *keywords}
        return (
            positional <= len(self.arguments)
            and len(filled) == positional + len(keywords)
            and filled <= set(self.arguments)
            and filled >= set(self.arguments[: self.required])
        )


@dataclass(frozen=True)
class Api:
    """What one release of a library offers."""

    library: str
    version: str
    classes: dict[str, Any]
    functions: dict[str, Any]
    values: dict[str, Any]

    def member(self, owner: str, name: str) -> Any:
        """What is recorded of a member, inherited ones included; None if there is none."""
        if owner == MODULE:
            return self._global(name)
        entry = self.classes.get(owner)
        if entry is None:
            return None
        if name in entry["members"]:
            return entry["members"][name]
        inherited = (self.member(base, name) for base in entry["bases"])
        return next((found for found in inherited if found is not None), None)

    def _global(self, name: str) -> Any:
        if name in self.classes:
            return f"class {name}"
        if name in self.functions:
            return self.functions[name]
        value = self.values.get(name)
        return "" if value is None and name in self.values else value

    def has(self, owner: str, name: str | None = None) -> bool:
        """Whether there is a class `owner`, or a member `name` of it (of the module: `MODULE`)."""
        if name is None:
            return owner in self.classes
        return self.member(owner, name) is not None

    def signatures(self, owner: str, name: str) -> tuple[Signature, ...]:
        """Of a method, a function or (name `__init__`) a constructor; empty for anything else."""
        found = self.member(owner, name)
        return tuple(map(_signature, found)) if isinstance(found, list) else ()

    def settable(self, owner: str, name: str) -> bool:
        """Whether it is a property that may be assigned."""
        found = self.member(owner, name)
        return isinstance(found, str) and found.startswith("get set")

    def kind(self, owner: str, name: str) -> str:
        """The type of a property as the library names it; "" if it is no property or unknown."""
        found = self.member(owner, name)
        if not isinstance(found, str) or not found.startswith("get"):
            return ""
        return found.removeprefix("get").strip().removeprefix("set").strip()

    def enum(self, owner: str) -> dict[str, int]:
        """The members of an enumeration with their values."""
        members = self.classes[owner]["members"]
        return {name: value for name, value in members.items() if isinstance(value, int)}


def differences(stand_in: type, api: Api, owner: str) -> list[str]:
    """Public methods of an emulated class that the genuine one lacks or that take other arguments,
    by the names of their arguments.
    """
    found = []
    for name, method in vars(stand_in).items():
        if name.startswith("_") or not inspect.isfunction(method):
            continue
        arguments = tuple(inspect.signature(method).parameters)[1:]
        if arguments not in [signature.arguments for signature in api.signatures(owner, name)]:
            found.append(f"{api.library} {api.version} has no {owner}.{name}{arguments}")
    return found


def _signature(text: str) -> Signature:
    if text == "*":
        return Signature((), 0, "", open_ended=True)
    given, _, returns = f" {text}".partition(" ->")
    parts = given.split()
    arguments = tuple(part.rstrip("=") for part in parts if part not in ("/", "*"))
    required = sum(not part.endswith("=") for part in parts if part not in ("/", "*"))
    return Signature(arguments, required, returns.strip())


def parse(library: str, version: str, described: dict[str, Any]) -> Api:
    """What `describe.describe` gave, as an `Api`."""
    return Api(library, version, *(described[part] for part in ("classes", "functions", "values")))


@cache
def recorded(library: str, version: str) -> Api:
    """The recording of `library` ("tensorrt", "tensorrt_rtx", "tensorrt_lean", "cuda_bindings").

    Raises:
        KeyError: if that version was not recorded.
    """
    file = _FOLDER / f"{library}-{version}.json"
    if not file.is_file():
        known = ", ".join(sorted(path.stem for path in _FOLDER.glob("*.json")))
        raise KeyError(f"no recording of {library} {version}: there are {known}")
    return parse(library, version, json.loads(file.read_text()))


def recordings(library: str) -> tuple[Api, ...]:
    """Every recorded version of a library, oldest first."""
    versions = [path.stem.partition("-")[2] for path in _FOLDER.glob(f"{library}-*.json")]
    ordered = sorted(versions, key=lambda text: tuple(map(int, text.split("."))))
    return tuple(recorded(library, version) for version in ordered)
