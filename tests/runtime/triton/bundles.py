"""Bundles that differ from the digits' in what a model repository takes from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from vit_edge.export.package import write_bundle
from vit_edge.runtime.bundle import Bundle
from vit_edge.runtime.manifest import EngineEntry, Manifest

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def with_labels(source: Path, out: Path) -> Bundle:
    """A bundle with names of classes."""
    bundle = Bundle.open(source)
    return _written(bundle, out, replace(bundle.manifest, labels=DIGITS), {})


def with_tensorrt(source: Path, out: Path, capabilities: Mapping[str, bytes]) -> Bundle:
    """A bundle with engines of full TensorRT for fp16: bytes by the GPUs that they are for."""
    bundle = Bundle.open(source)
    scratch = out.parent / "engines"
    scratch.mkdir()
    engines, files = [], {}
    for number, (capability, data) in enumerate(capabilities.items()):
        name = f"engines/fp16.tensorrt.{number}.engine"
        files[name] = scratch / str(number)
        files[name].write_bytes(data)
        engines.append(EngineEntry(name, "tensorrt", "10.9.0", (capability,)))
    entries, listed = bundle.manifest.precisions, bundle.manifest.files
    fp16 = replace(entries["fp16"], engines=tuple(engines))
    manifest = replace(
        bundle.manifest,
        precisions={**entries, "fp16": fp16},
        files={**listed, **dict.fromkeys(files, listed["golden.npz"])},  # hashed when written
    )
    return _written(bundle, out, manifest, files)


def _written(bundle: Bundle, out: Path, manifest: Manifest, more: Mapping[str, Path]) -> Bundle:
    files = {name: bundle.path / name for name in bundle.manifest.files}
    return write_bundle(out, manifest, {**files, **more})
