"""Describes the public API of an extension module: its classes, members, functions and arguments.

    python describe.py MODULE

Prints JSON. Runs in the library's own environment, where nothing else is installed: the standard
library only. `tests.runtime.backends.api.Api` explains the form and reads it.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
from typing import Any

Members = dict[str, Any]

ANYTHING = "*"
"""A signature that nothing is known of."""

_SPECIAL = ("__init__", "__len__", "__getitem__", "__setitem__", "__int__", "__buffer__")
_SIGNATURE = re.compile(r"(?:\d+\. )?(\w+)\((.*)\) -> (.+)")


def describe(name: str) -> dict[str, Any]:
    """The API of the module `name`, in the form that is recorded."""
    module = importlib.import_module(name)
    classes: dict[str, Any] = {}
    functions: Members = {}
    values: Members = {}
    for key in sorted(dir(module)):
        value = getattr(module, key)
        if key.startswith("_") or inspect.ismodule(value):
            continue
        if getattr(value, "__module__", None) in ("builtins", "typing"):
            continue
        if inspect.isclass(value):
            _describe_class(value, classes)
        elif callable(value):
            functions[key] = _signatures(value, bound=False)
        else:
            values[key] = int(value) if isinstance(value, int) else None
    version = str(getattr(module, "__version__", ""))
    return {"version": version, "classes": classes, "functions": functions, "values": values}


def _describe_class(cls: type, classes: dict[str, Any]) -> None:
    if cls.__qualname__ in classes:
        return
    enumerated = _enum_members(cls)
    members: Members = {name: int(value) for name, value in sorted(enumerated.items())}
    classes[cls.__qualname__] = {"bases": _bases(cls), "members": members}
    for name, member in sorted(vars(cls).items()):
        if name in members or (name.startswith("_") and name not in _SPECIAL):
            continue
        if inspect.isclass(member):
            _describe_class(member, classes)
            members[name] = f"class {member.__qualname__}"
        elif _is_property(member):
            members[name] = _property(cls, member)
        elif callable(member) or isinstance(member, (classmethod, staticmethod)):
            signatures = _signatures(getattr(cls, name), bound=True)
            if signatures != [ANYTHING] or name not in _SPECIAL:  # no constructor, say
                members[name] = signatures
        elif _enum_members(type(member)):  # a value that the class exports from its nested enum
            members[name] = int(member)


def _bases(cls: type) -> list[str]:
    return [base.__qualname__ for base in cls.__bases__ if base.__module__ == cls.__module__]


def _enum_members(cls: type) -> dict[str, Any]:
    """Of an enumeration of pybind11 or of the standard library, else nothing."""
    members = getattr(cls, "__members__", None)
    return dict(members) if hasattr(members, "items") else {}


def _is_property(member: object) -> bool:
    return isinstance(member, property) or inspect.isdatadescriptor(member)


def _property(cls: type, member: Any) -> str:
    """`get TYPE` or `get set TYPE`, with TYPE where the getter's docstring tells it."""
    getter = getattr(member, "fget", None)
    found = _SIGNATURE.search((getattr(getter, "__doc__", None) or "").replace("(", "f(", 1))
    kind = _plain(found.group(3), cls.__module__) if found else ""
    settable = getattr(member, "fset", None) is not None
    return f"get {'set ' if settable else ''}{kind}".strip()


def _signatures(function: Any, bound: bool) -> list[str]:
    """One for each overload, as `first second= -> Type`: `=` marks what may be left out."""
    documented = _documented(function, bound)
    if documented:
        return documented
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return [ANYTHING]
    parameters = [p for p in signature.parameters.values() if p.name != "self"]
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        return [ANYTHING]
    return [" ".join(p.name + ("=" if p.default is not p.empty else "") for p in parameters)]


def _documented(function: Any, bound: bool) -> list[str]:
    """From the signatures that pybind11 writes into docstrings."""
    name, module = function.__name__, getattr(function, "__module__", "") or ""
    found = []
    for line in (function.__doc__ or "").splitlines():
        match = _SIGNATURE.fullmatch(line.strip())
        if match and match.group(1) == name and "*args, **kwargs" not in line:
            names = [_argument(part) for part in _split(match.group(2))]
            names = names[1:] if bound and names and names[0] in ("self", "arg0") else names
            returned = _plain(match.group(3), module)
            found.append(" ".join([*names, "->", returned]))
    return found


def _split(arguments: str) -> list[str]:
    """At the commas that are not inside brackets."""
    parts, depth = [""], 0
    for character in arguments:
        depth += (character in "([{<") - (character in ")]}>")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


def _argument(text: str) -> str:
    name = text.partition(":")[0].partition("=")[0].strip()
    return name + ("=" if "=" in text else "")


def _plain(kind: str, module: str) -> str:
    """A type's name without the library's modules and C++ namespaces."""
    root = module.partition(".")[0]
    modules = rf"\b{re.escape(root)}(?:\.\w+)*?\.(?=[A-Z])" if root else r"(?!)"
    return re.sub(rf"{modules}|\b\w+::(?=[\w:]*)", "", kind.strip())


if __name__ == "__main__":
    json.dump(describe(sys.argv[1]), sys.stdout)
