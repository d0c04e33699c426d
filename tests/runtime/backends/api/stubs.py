"""Type stubs of a recorded release, for mypy to hold our code against it.

Names, arguments, what may be assigned and what calls return come from the recording. Types of
arguments are not recorded: any will do.
"""

from __future__ import annotations

import keyword
import re
from pathlib import Path

from . import MODULE, Api

_BUFFERS = {"IHostMemory"}
"""Classes that offer the buffer protocol, which no recording shows before Python 3.12."""
_PLAIN = {"bool", "bytes", "float", "int", "memoryview", "object", "str"}


def write_stub(api: Api, folder: Path, module: str) -> None:
    """Writes the stub of the release into `folder`, for code that imports it as `module`."""
    lines = [
        "# mypy: ignore-errors",
        "import builtins",
        "from typing import Any, ClassVar, overload",
    ]
    lines += [f"{name}: Any" for name in api.values]
    for name in api.functions:
        lines += _function(api, MODULE, name, "")
    for name in api.classes:
        if "." not in name:
            lines += _class(api, name, "")
    (folder / f"{module}.pyi").write_text("\n".join(lines) + "\n")


def _class(api: Api, owner: str, indent: str) -> list[str]:
    entry = api.classes[owner]
    lines = [f"{indent}class {owner.rpartition('.')[2]}({', '.join(entry['bases'])}):"]
    inner = indent + "    "
    if owner in _BUFFERS:
        lines.append(f"{inner}def __buffer__(self, flags: int, /) -> memoryview: ...")
    for name, member in entry["members"].items():
        if keyword.iskeyword(name):  # `None` of an enumeration: nobody can write it
            continue
        if isinstance(member, int):
            kind = owner if "value" in entry["members"] else "Any"
            lines.append(f"{inner}{name}: ClassVar[{kind}]")
        elif isinstance(member, list):
            lines += _function(api, owner, name, inner)
        elif member.startswith("class "):
            nested = member.removeprefix("class ")
            known = nested.startswith(f"{owner}.")
            lines += _class(api, nested, inner) if known else [f"{inner}{name} = {nested}"]
        elif api.settable(owner, name):
            lines.append(f"{inner}{name}: {_type(api, api.kind(owner, name))}")
        else:
            lines.append(f"{inner}@property")
            lines.append(f"{inner}def {name}(self) -> {_type(api, api.kind(owner, name))}: ...")
    return [*lines, f"{inner}..."]


def _function(api: Api, owner: str, name: str, indent: str) -> list[str]:
    heads = []
    for signature in dict.fromkeys(api.signatures(owner, name)):
        parts = ["self"] if owner != MODULE else []
        for index, argument in enumerate(signature.arguments):
            parts.append(_argument(argument) + " = ..." * (index >= signature.required))
        if signature.open_ended:
            parts += ["*args: Any", "**kwargs: Any"]
        returns = _type(api, signature.returns)
        heads.append(f"{indent}def {name}({', '.join(parts)}) -> {returns}: ...")
    overloads = len(heads) > 1
    return [line for head in heads for line in (f"{indent}@overload",) * overloads + (head,)]


def _argument(name: str) -> str:
    return f"{name}_: Any" if keyword.iskeyword(name) else f"{name}: Any"


def _type(api: Api, kind: str) -> str:
    """A recorded type as the stub names it; `Any` where it is none that Python code can name."""
    bare = re.sub(r"^I(?=[A-Z])", "", kind)  # docstrings say IParserError, Python ParserError
    if kind in _PLAIN:
        return f"builtins.{kind}"
    known = (name for name in (kind, bare) if name in api.classes)
    return "None" if kind == "None" else next(known, "Any")
