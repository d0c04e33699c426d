"""Fuzzing of a bundle: every changed byte and every cut length must be refused with BundleError.

    python -m benchmarks.fuzz_bundle BUNDLE

Works on a copy. Files up to 64 KiB are done whole: three values in place of every byte, and every
shorter length; of larger ones a seeded sample. What is accepted ends the run.
Signatures have tests of their own.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from vit_edge.runtime.bundle import Bundle
from vit_edge.runtime.errors import BundleError
from vit_edge.runtime.manifest import MANIFEST, MANIFEST_DIGEST

_WHOLE = 64 << 10


def positions(size: int, sample: int, choose: random.Random) -> Iterator[int]:
    yield from range(size) if size <= _WHOLE else choose.sample(range(size), sample)


def require_refused(good: Bundle, name: str, what: str) -> None:
    """Raises AssertionError unless the file is refused; `good` was opened before it changed."""
    try:
        if name in good.manifest.files:
            good.read(name)
        else:
            Bundle.open(good.path)
    except BundleError:
        return
    raise AssertionError(f"{name} was accepted with {what}")


def fuzz_file(folder: Path, name: str, sample: int) -> tuple[int, int]:
    """Returns the numbers of changes and of lengths that were refused."""
    path, choose, bundle = folder / name, random.Random(name), Bundle.open(folder)
    good = path.read_bytes()
    changes = lengths = 0
    with open(path, "r+b", buffering=0) as file:
        for position in positions(len(good), sample, choose):
            byte = good[position]
            for value in {byte ^ 1, byte ^ 0x80, byte ^ choose.randrange(1, 256)}:
                os.pwrite(file.fileno(), bytes([value]), position)
                require_refused(bundle, name, f"byte {position} = {value}")
                changes += 1
            os.pwrite(file.fileno(), bytes([byte]), position)
        for length in sorted(positions(len(good), sample, choose), reverse=True):
            os.ftruncate(file.fileno(), length)
            require_refused(bundle, name, f"{length} bytes")
            lengths += 1
    path.write_bytes(good)
    return changes, lengths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--sample", type=int, default=300, help="positions in each larger file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(shutil.copytree(arguments.bundle, Path(temporary) / "bundle"))
        bundle = Bundle.open(folder)
        bundle.verify()
        for name in (MANIFEST, MANIFEST_DIGEST, *sorted(bundle.manifest.files)):
            start = time.perf_counter()
            changes, lengths = fuzz_file(folder, name, arguments.sample)
            seconds = time.perf_counter() - start
            print(
                f"{name}: {changes} changes, {lengths} lengths, all refused, {seconds:.0f} s",
                flush=True,
            )
        Bundle.open(folder).verify()


if __name__ == "__main__":
    main()
