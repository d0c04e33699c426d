"""Any manifest is understood or refused with our own error; a million by
`python -m benchmarks.fuzz_manifest`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.fuzz_manifest import ACCEPTED, fuzz_block, good_manifests, outcome
from vit_edge.runtime.errors import BundleError
from vit_edge.runtime.manifest import MANIFEST, parse_manifest

FACTS = ("model", "provenance")
"""Parts of a manifest for people, of text and numbers."""
MAY_BE_NEGATIVE = {"drop", "drop_low", "drop_high", "cosine", "mean"}


@pytest.fixture(scope="module")
def raw(bundle_source: Path) -> bytes:
    return (bundle_source / MANIFEST).read_bytes()


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every value that is no container, with the keys that lead to it."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, (*path, key))
    else:
        yield path, value


def with_value(raw: bytes, path: tuple[Any, ...], value: Any) -> bytes:
    manifest = json.loads(raw)
    container = manifest
    for key in path[:-1]:
        container = container[key]
    container[path[-1]] = value
    return json.dumps(manifest).encode()


def test_every_huge_or_negative_number_is_refused(raw: bytes) -> None:
    numbers = [p for p, v in leaves(json.loads(raw)) if type(v) in (int, float)]
    assert len(numbers) > 60
    for path in numbers:
        named = next(key for key in reversed(path) if isinstance(key, str))
        hostile: list[Any] = [10**15, -(10**15), 10**30, 10**400, 1e300, -1e300, float("nan")]
        if path[0] in FACTS:
            hostile = [2**63, -(2**63), 2.0**63, 10**400, 1e300, -1e300, float("nan")]
        elif named not in MAY_BE_NEGATIVE:
            hostile += [-1, -0.5]
        for number in hostile:
            with pytest.raises(BundleError):
                parse_manifest(with_value(raw, path, number))


def test_every_wrong_type_is_refused(raw: bytes) -> None:
    for path, value in leaves(json.loads(raw)):
        wrong: list[Any] = [[], {}, True, [value], {"a": value}]
        wrong += [7] if isinstance(value, str) else ["7"]
        if isinstance(value, int):
            wrong.append(value + 0.0)
        if path[0] in FACTS:
            wrong = [[], {}, None, [value], {"a": value}]
        for other in wrong:
            with pytest.raises(BundleError):
                parse_manifest(with_value(raw, path, other))


def test_a_fact_of_one_part_hides_none_of_another(raw: bytes) -> None:
    for hostile, harmless in (FACTS, FACTS[::-1]):
        both = with_value(raw, (harmless, "same"), 7)
        with pytest.raises(BundleError, match="'same' is 1e"):
            parse_manifest(with_value(both, (hostile, "same"), 1e300))


@pytest.mark.parametrize("part", FACTS)
@pytest.mark.parametrize("value", ["192", "", 192, -3, 0, 0.5, 1e-6, 2.0, True, False])
def test_facts_keep_their_value_and_type(raw: bytes, part: str, value: object) -> None:
    facts = getattr(parse_manifest(with_value(raw, (part, "new"), value)), part)
    assert facts["new"] == value
    assert type(facts["new"]) is type(value)


def test_text_among_facts_is_printable_text(raw: bytes) -> None:
    for hostile in ("a\x1b[2J", "a\nb", "x" * (1 << 17)):
        with pytest.raises(BundleError):
            parse_manifest(with_value(raw, ("model", "new"), hostile))


def test_every_doubled_key_is_refused(raw: bytes) -> None:
    text = raw.decode()
    for line in [line for line in text.splitlines() if line.rstrip().endswith(",") and ":" in line]:
        with pytest.raises(BundleError, match="is there twice"):
            parse_manifest(text.replace(line, line + line, 1).encode())


def test_thousands_of_hostile_manifests_raise_nothing_else(raw: bytes) -> None:
    outcomes = fuzz_block(good_manifests(raw), 0, 1500)
    assert outcomes.total() == 1500
    assert 0 < outcomes[ACCEPTED] < 300
    assert len(outcomes) > 25  # they fail for many reasons, not all for the same


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=300, deadline=None)
@given(value=json_values, data=st.data())
def test_any_value_in_any_place_raises_nothing_else(
    raw: bytes, value: Any, data: st.DataObject
) -> None:
    path = data.draw(st.sampled_from([path for path, _ in leaves(json.loads(raw))]))
    outcome(with_value(raw, path[: data.draw(st.integers(1, len(path)))], value))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_raise_nothing_else(junk: bytes) -> None:
    with pytest.raises(BundleError):
        parse_manifest(junk)


@pytest.mark.parametrize(
    "hostile",
    [
        b"[" * (1 << 20),
        b'{"a":' * (1 << 18),
        b'{"a": ' + b"9" * (1 << 22) + b"}",
        b'{"a": 0.' + b"9" * (1 << 22) + b"}",
        b'{"a": 1e' + b"9" * (1 << 20) + b"}",
        b"{" + b",".join(b'"%d":0' % i for i in range(100_000)) + b',"0":0}',
        b'{"schema_version": [' + b"[]," * (1 << 18) + b"[]]}",
        b'{"' + b"\\u0000" * (1 << 18) + b'": 0}',
    ],
    ids=["lists", "objects", "integer", "fraction", "exponent", "keys", "version", "escapes"],
)
def test_what_is_made_to_be_slow_is_refused_in_a_moment(hostile: bytes) -> None:
    start = time.process_time()
    with pytest.raises(BundleError) as caught:
        parse_manifest(hostile)
    assert time.process_time() - start < 2
    assert len(str(caught.value)) < 400
