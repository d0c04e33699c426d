"""Cost of verifying a bundle: its files read and hashed, against merely read.

    python -m benchmarks.verification [--mebibytes 90] [--rounds 21]

A synthetic bundle of two files and the manifest, in the page cache. Each way runs once in every
round, so that whatever else the machine does affects all alike; medians. "read" is the work of an
app that trusts its disk: open, read into memory, close. Peak memory is measured in a process of its
own: what loading the larger file adds to the resident memory, in copies of that file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from vit_edge.runtime.bundle import Bundle
from vit_edge.runtime.manifest import GOLDEN, MANIFEST, MANIFEST_DIGEST, SCHEMA_VERSION, digest_line

_GRAPH = "onnx/fp32.onnx"


def write_synthetic(folder: Path, size: int) -> None:
    """Writes a bundle whose graph takes nearly all of `size` bytes, and is no graph."""
    random = np.random.default_rng(0)
    contents = {_GRAPH: random.bytes(size - (1 << 20)), GOLDEN: random.bytes(1 << 20)}
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    accuracy = dict.fromkeys(
        ("top1", "reference_top1", "drop", "drop_low", "drop_high", "agreement")
    ) | {"images": 1, "cosine": 1, "logit_error": 0, "rms_error": 0, "measured_on": "nothing"}
    graph = {
        "file": _GRAPH, "external": [],
        "accuracy": {"logits": accuracy}, "rms_tolerance": {"logits": 1},
    }  # fmt: skip
    preprocess = {
        "height": 224, "width": 224, "channels": 3, "crop": 1, "crop_mode": "center",
        "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.5] * 3,
    }  # fmt: skip
    manifest = {
        "schema_version": SCHEMA_VERSION, "name": "synthetic", "labels": None,
        "spec": {"input_name": "images", "image_shape": [224, 224, 3], "batch": [1, 1, 1],
                 "outputs": [{"name": "logits", "kind": "logits", "shape": [10]}]},
        "preprocess": preprocess, "model": {}, "provenance": {}, "tools": {},
        "precisions": {
            "fp32": {"graphs": {"cpu": graph}, "engines": [], "raised": [], "reason": ""},
        },
        "files": {name: {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
                  for name, content in contents.items()},
    }  # fmt: skip
    raw = json.dumps(manifest).encode()
    (folder / MANIFEST).write_bytes(raw)
    (folder / MANIFEST_DIGEST).write_bytes(digest_line(hashlib.sha256(raw).hexdigest()))


def read_only(folder: Path) -> int:
    """Reads every file into memory, one after the other."""
    return sum(len(path.read_bytes()) for path in folder.rglob("*") if path.is_file())


def load(folder: Path) -> int:
    """Reads the files of `Engine.load`: verified, and kept in memory."""
    bundle = Bundle.open(folder)
    return sum(len(bundle.read(name)) for name in bundle.manifest.files)


def verify(folder: Path) -> None:
    """Verifies the bundle, the first step of `vit-edge check`."""
    Bundle.open(folder).verify()


def peak_growth(way: Callable[[Path], object], folder: Path) -> int:
    """Returns the growth of the peak of this process's resident memory, in bytes."""
    Bundle.open(folder)
    before = peak_memory()
    way(folder)
    return peak_memory() - before


def peak_memory() -> int:
    """Returns the peak of resident memory in bytes.

    Source: proc(5), VmHWM in KiB; getrusage's number would be the parent's.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mebibytes", type=int, default=90)
    parser.add_argument("--rounds", type=int, default=21)
    arguments = parser.parse_args()
    ways: dict[str, Callable[[Path], object]] = {
        "read": read_only, "load": load, "verify": verify,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as temporary:
        folder, size = Path(temporary), arguments.mebibytes << 20
        write_synthetic(folder, size)
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(arguments.rounds):
            for name, way in ways.items():
                start = time.perf_counter()
                way(folder)
                times[name].append(1e3 * (time.perf_counter() - start))
        base = statistics.median(times["read"])
        for name, way in ways.items():
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                peak = pool.apply(peak_growth, (way, folder))
            median = statistics.median(times[name])
            print(
                f"{name:7} {median:6.1f} ms  {median - base:+6.1f} ms  "
                f"({min(times[name]):.1f} to {max(times[name]):.1f})  peak {peak / size:.2f} copies"
            )


if __name__ == "__main__":
    main()
