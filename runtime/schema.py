"""Checked decoding of JSON into frozen dataclasses, and back.

The manifest is read from a folder that may be damaged or hostile, so every field is checked for its
type, and unknown or missing fields are refused by name. Standard library only: the runtime depends
on numpy alone.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
import types
import typing
from collections.abc import Iterable
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")

_MAX_TEXT = 1 << 16
_MAX_KEY = 1 << 10
_MAX_DIGITS = 40
# Text goes to terminals and logs: no control characters, line breaks, surrogates, bidi overrides.
_UNPRINTABLE = re.compile(
    "[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029\\u202a-\\u202e\\u2066-\\u2069\\ud800-\\udfff]"
)


class SchemaError(ValueError):
    """A value does not fit its declared type; the message starts with the field's path."""


def parse_json(raw: bytes) -> Any:
    """Parses UTF-8 JSON strictly: no duplicate key, no NaN, no number of absurd length.

    Raises:
        ValueError: if `raw` is not that.
        RecursionError: if it is nested too deeply.
    """
    return json.loads(
        raw.decode("utf-8"),
        object_pairs_hook=_object,
        parse_int=lambda text: int(_number(text)),
        parse_float=lambda text: float(_number(text)),
        parse_constant=_refuse_constant,
    )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for key, value in pairs:
        if key in fields:
            raise SchemaError(f"the key {key[:60]!r} is there twice")
        fields[key] = value
    return fields


def _number(text: str) -> str:
    if len(text) > _MAX_DIGITS:
        raise SchemaError(f"{text[:20]}... is a number of {len(text)} digits")
    return text


def _refuse_constant(text: str) -> NoReturn:
    raise SchemaError(f"{text} is not a finite number")


def decode(cls: type[T], value: Any, where: str = "") -> T:
    """Builds `cls` from parsed JSON.

    Args:
        cls: A dataclass, `str`, `int`, `float`, `bool`, `tuple[X, ...]`, `dict[str, X]`, `X |
            None`, or `X | Y` of those four plain types, where each value keeps its own type.
        value: What `json.loads` returned.
        where: Path of the field, for the message.

    Raises:
        SchemaError: if a field is missing, unknown or of another type.
    """
    return typing.cast(T, _decode(cls, value, where or cls.__name__))


def _decode(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _decode_union(arguments, value, where)
    if origin is tuple:
        _expect(isinstance(value, list), value, "a list", where)
        return tuple(_decode(arguments[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is dict:
        _expect(isinstance(value, dict), value, "an object", where)
        return {
            _text(k, f"a key of {where}", _MAX_KEY): _decode(arguments[1], v, f"{where}.{k}")
            for k, v in value.items()
        }
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, value, where)
    if kind is float:
        _expect(type(value) in (int, float), value, "a number", where)
        return _finite(value, where)
    _expect(type(value) is kind, value, f"of type {kind.__name__}", where)
    return _text(value, where, _MAX_TEXT) if kind is str else value


def _decode_union(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    """Decodes a union of one type and None, or of plain types, where numbers keep their type."""
    if value is None and type(None) in kinds:
        return None
    others = [kind for kind in kinds if kind is not type(None)]
    if len(others) == 1:
        return _decode(others[0], value, where)
    if not set(others) <= {str, int, float, bool}:
        raise TypeError(f"{where}: a union of {kinds} has no one reading")
    names = " or ".join(kind.__name__ for kind in others)
    _expect(type(value) in others, value, f"of type {names}", where)
    return _decode(type(value), value, where)


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    """Returns the types of a dataclass's fields, cached: `typing` evaluates them each time."""
    return typing.get_type_hints(kind)


@functools.cache
def _required(kind: Any) -> frozenset[str]:
    """Returns the fields without a default; others may be missing, as in older files."""
    none = dataclasses.MISSING
    return frozenset(
        field.name
        for field in dataclasses.fields(kind)
        if field.default is none and field.default_factory is none
    )


def _decode_dataclass(kind: Any, value: Any, where: str) -> Any:
    _expect(isinstance(value, dict), value, "an object", where)
    hints = _hints(kind)
    unknown, missing = value.keys() - hints.keys(), _required(kind) - value.keys()
    if unknown or missing:
        named = [key[:60] for key in sorted(unknown)[:5]]
        raise SchemaError(f"{where}: missing fields {sorted(missing)}, unknown fields {named}")
    fields = {
        name: _decode(hint, value[name], f"{where}.{name}")
        for name, hint in hints.items()
        if name in value
    }
    try:
        return kind(**fields)
    except ValueError as error:  # a dataclass may check its own values
        raise SchemaError(f"{where}: {error}") from None


def _text(value: str, where: str, limit: int) -> str:
    if len(value) > limit:
        raise SchemaError(f"{where} has {len(value)} characters, not at most {limit}")
    unprintable = _UNPRINTABLE.search(value)
    if unprintable:
        raise SchemaError(
            f"{where}: {value[:60]!r} holds {unprintable.group()!r}, which is not printable"
        )
    return value


def printable(text: str) -> str:
    """Returns `text` with a space in place of each unprintable character."""
    return "".join(c if c.isprintable() else " " for c in text)


def _finite(value: float, where: str) -> float:
    try:
        number = float(value)
    except OverflowError:  # an integer of hundreds of digits
        number = math.inf
    if not math.isfinite(number):
        raise SchemaError(f"{where}: {str(value)[:40]} is not a finite number")
    return number


def _expect(fits: bool, value: Any, what: str, where: str) -> None:
    if not fits:
        raise SchemaError(f"{where}: {str(value)[:60]!r} is not {what}")


def encode(value: Any) -> str:
    """Encodes a dataclass as canonical JSON: sorted keys, two-space indent, a final newline."""
    return json.dumps(dataclasses.asdict(value), indent=2, sort_keys=True, allow_nan=False) + "\n"


def encode_all(values: Iterable[Any]) -> str:
    """Encodes dataclasses as a JSON list in the same form."""
    rows = [dataclasses.asdict(value) for value in values]
    return json.dumps(rows, indent=2, sort_keys=True, allow_nan=False) + "\n"


def decode_all(cls: type[T], text: str) -> tuple[T, ...]:
    """Decodes what `encode_all` wrote. Raises SchemaError as `decode` does."""
    return tuple(decode(cls, value) for value in json.loads(text))
