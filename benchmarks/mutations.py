"""Hostile manifests: seeded changes of a good one, by structure and by bytes."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

NUMBERS: tuple[Any, ...] = (
    0, -1, 1, 2, 255, 1 << 16, (1 << 16) + 1, 1 << 31, -(1 << 31), 1 << 32, 1 << 53, 1 << 60,
    1 << 63, 1 << 64, -(1 << 64), 10**30, 10**39, 10**41, 10**400, -(10**400), 0.0, -0.0, 0.5, -0.5,
    1.5, 1e-320, 1e15, 1e300, -1e300, float("inf"), float("-inf"), float("nan"),
)  # fmt: skip
TEXTS = (
    "", " ", "a", "0", "1e9", "NaN", "../x", "/etc/passwd", "onnx/../../x", "onnx//x", ".hidden",
    "a\\b", "a/", "CON", "Golden.npz", "manifest.json", "model.sig", "release.json", "\x00", "a\nb",
    "\x1b[2J", "\u202ea", "\ud800", "e\u0301", "\u00e9", "\u200d", "\uffff", "\U0001f600",
    "x" * 300, "x" * 70_000, "%s%n", "{0.__class__}", "__class__", "cpu", "gpu", "fp32", "center",
)  # fmt: skip
OTHERS = ("null", "true", "false", "[]", "{}", "[[]]", "[null]", '{"a": {}}', '[1, "a"]', '{"": 0}')


def hostile_value(choose: random.Random) -> Any:
    """Draws a value of any JSON type, or one that Python's `json` alone accepts."""
    kind = choose.random()
    if kind < 0.5:
        return choose.choice(NUMBERS)
    if kind < 0.8:
        return choose.choice(TEXTS)
    if kind < 0.95:
        return json.loads(choose.choice(OTHERS))
    nested: Any = choose.choice(NUMBERS)
    for _ in range(choose.choice((2, 10, 100))):
        nested = [nested] if choose.random() < 0.5 else {choose.choice(TEXTS): nested}
    return nested


def _containers(value: dict[str, Any] | list[Any]) -> Iterator[dict[str, Any] | list[Any]]:
    """Yields `value` and all the objects and lists in it, unless they are empty."""
    if value:
        yield value
    for inner in value.values() if isinstance(value, dict) else value:
        if isinstance(inner, dict | list):
            yield from _containers(inner)


def _place(choose: random.Random, value: Any) -> tuple[Any, Any]:
    """Chooses a container in `value`, and a key or an index in it."""
    container = choose.choice(list(_containers(value)))
    keys = list(container) if isinstance(container, dict) else range(len(container))
    return container, choose.choice(keys)


def _replace(choose: random.Random, value: Any) -> None:
    container, key = _place(choose, value)
    container[key] = hostile_value(choose)


def _remove(choose: random.Random, value: Any) -> None:
    container, key = _place(choose, value)
    del container[key]


def _add(choose: random.Random, value: Any) -> None:
    container, key = _place(choose, value)
    if isinstance(container, dict):
        container[choose.choice(TEXTS)] = choose.choice((container[key], hostile_value(choose)))
    else:
        container[key:key] = [choose.choice((container[key], hostile_value(choose)))]


def _rename(choose: random.Random, value: Any) -> None:
    container, key = _place(choose, value)
    if isinstance(container, dict):
        container[choose.choice(TEXTS)] = container.pop(key)


def _exchange(choose: random.Random, value: Any) -> None:
    (one, key), (other, place) = _place(choose, value), _place(choose, value)
    one[key], other[place] = json.loads(json.dumps(other[place])), json.loads(json.dumps(one[key]))


def _repeat(choose: random.Random, value: Any) -> None:
    container, key = _place(choose, value)
    many = 3 if isinstance(container[key], dict | list) else 5000
    container[key] = [container[key]] * choose.choice((1, 2, many))


STRUCTURAL: tuple[Callable[[random.Random, Any], None], ...] = (
    _replace, _replace, _replace, _remove, _add, _rename, _exchange, _repeat,
)  # fmt: skip


def _flip(choose: random.Random, raw: bytearray) -> None:
    raw[choose.randrange(len(raw))] ^= 1 << choose.randrange(8)


def _overwrite(choose: random.Random, raw: bytearray) -> None:
    raw[choose.randrange(len(raw))] = choose.choice(b'{}[]",:0123456789eE+-.\\u\x00\xff\xc0 tfn')


def _cut(choose: random.Random, raw: bytearray) -> None:
    start = choose.randrange(len(raw))
    del raw[start : start + choose.choice((1, 2, 10, 1000, len(raw)))]


def _copy(choose: random.Random, raw: bytearray) -> None:
    start, to = choose.randrange(len(raw)), choose.randrange(len(raw))
    raw[to:to] = raw[start : start + choose.choice((1, 5, 50, 500))]


def _insert(choose: random.Random, raw: bytearray) -> None:
    position = choose.randrange(len(raw))
    raw[position:position] = choose.choice(
        (b"9" * 50, b"-", b"1e999", b"[" * 2000, b'{"a":' * 2000, b"\\ud800", b"\xef\xbb\xbf",
         b"\xc0\x80", b"Infinity", b'"name":0,', b"/**/", b"\x00", b"0x10", b"1_000",
         b"\xe2\x80\xa8")
    )  # fmt: skip


BYTEWISE: tuple[Callable[[random.Random, bytearray], None], ...] = (
    _flip, _overwrite, _cut, _copy, _insert,
)  # fmt: skip


def mutate(choose: random.Random, good: bytes) -> bytes:
    """Returns `good` after one to three changes; four in five times it is still JSON."""
    if choose.random() < 0.8:
        value = json.loads(good)
        for _ in range(choose.choice((1, 1, 1, 2, 3))):
            if value:
                choose.choice(STRUCTURAL)(choose, value)
        return json.dumps(value).encode("utf-8", "surrogatepass")
    raw = bytearray(good)
    for _ in range(choose.choice((1, 1, 2, 3))):
        if raw:
            choose.choice(BYTEWISE)(choose, raw)
    return bytes(raw)
