"""Fuzzing of manifests, by the million: each must parse to a manifest that means what it says, or
be refused with BundleError.

    python -m benchmarks.fuzz_manifest BUNDLE --inputs 1000000

Prints how many were accepted and refused, for which reasons, and the rate. An input that raises
anything else ends the run and is written to a file. Every input follows from its number alone.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from vit_edge.runtime.errors import BundleError
from vit_edge.runtime.manifest import parse_manifest
from vit_edge.runtime.schema import encode

from .mutations import mutate

ACCEPTED = "accepted"
_BLOCK = 5000


def outcome(raw: bytes) -> str:
    """Returns the reason why `raw` is refused, without its values, or ACCEPTED.

    Raises:
        AssertionError: if it is accepted, and is not the same after being written and read again.
        Exception: whatever else `parse_manifest` lets through; that is the bug to find.
    """
    try:
        manifest = parse_manifest(raw)
    except BundleError as error:
        return _kind(str(error))
    assert parse_manifest(encode(manifest).encode()) == manifest
    return ACCEPTED


def _kind(message: str) -> str:
    text = message.removeprefix("manifest.json is not valid: ")
    text = re.sub(r"^[A-Z]\w*(\.[^ :]*|\[\d+\])*:? ?", "", text)
    return re.sub(r"'[^']*'|\"[^\"]*\"|\[.*?\]|-?\d[\d.e+]*", "_", text)[:50]


def fuzz_block(good: tuple[bytes, ...], first: int, count: int) -> Counter[str]:
    """Counts the outcomes of the inputs `first` to `first + count`."""
    outcomes: Counter[str] = Counter()
    for number in range(first, first + count):
        choose = random.Random(number)
        raw = mutate(choose, choose.choice(good))
        try:
            outcomes[outcome(raw)] += 1
        except Exception as error:
            path = Path(f"fuzz_manifest.{number}.json")
            path.write_bytes(raw)
            raise AssertionError(f"{path}: {type(error).__name__}: {error}") from error
    return outcomes


def good_manifests(raw: bytes) -> tuple[bytes, ...]:
    """Returns the manifest itself, and four times one with every kind of field but few of each: it
    is faster to parse, and more of the changes hit a number.
    """
    value = json.loads(raw)
    name, entry = next(iter(value["precisions"].items()))
    kind, graph = next(iter(entry["graphs"].items()))
    entry["graphs"], entry["engines"] = {kind: graph}, entry["engines"][:1]
    files = {graph["file"], "golden.npz", *(engine["file"] for engine in entry["engines"])}
    value["precisions"] = {name: entry}
    value["files"] = {path: value["files"][path] for path in files}
    value["model"], value["tools"], value["provenance"] = {"a": "b", "c": 7}, {}, {"d": 0.5}
    return (raw, *[json.dumps(value, sort_keys=True).encode()] * 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    good = good_manifests((arguments.bundle / "manifest.json").read_bytes())
    firsts = range(arguments.first, arguments.first + arguments.inputs, _BLOCK)
    outcomes: Counter[str] = Counter()
    start = time.perf_counter()
    with ProcessPoolExecutor(arguments.processes) as pool:
        for counted in pool.map(partial(fuzz_block, good, count=_BLOCK), firsts):
            outcomes += counted
    seconds = time.perf_counter() - start
    total = outcomes.total()
    print(f"{total} inputs in {seconds:.0f} s, {total / seconds:.0f} a second, none unhandled")
    print(f"{outcomes[ACCEPTED]} accepted, {total - outcomes[ACCEPTED]} refused with BundleError")
    for kind, count in outcomes.most_common(40):
        print(f"{count:9d}  {kind}")


if __name__ == "__main__":
    main()
