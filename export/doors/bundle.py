"""The door of bundles: one that was made before is exported again, to other precisions."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vit_edge.export.foreign.source import USUAL, ForeignSource, find_foreign_source
from vit_edge.runtime.bundle import Bundle
from vit_edge.runtime.errors import BundleError, InputError
from vit_edge.runtime.manifest import Graph, Manifest
from vit_edge.vit.hints import ModelHints

from . import RANDOM
from .source import Source, refuse_options

if TYPE_CHECKING:
    from vit_edge.export.plan import ExportRequest

_REFERENCE = "fp32"


@dataclass(frozen=True)
class BundleSource(ForeignSource):
    """The fp32 graph of a bundle, which stands for its model. `folder` holds the verified bytes."""

    folder: tempfile.TemporaryDirectory[str] | None = None
    oracle: str = "the bundle's fp32 graph in ONNX Runtime"


def find_source(request: ExportRequest) -> Source:
    """Returns the bundle's fp32 graph as a source, with the outputs, the preprocessing and the
    class names of its manifest.

    Raises:
        InputError: if the bundle is damaged, has no fp32 graph, or would be overwritten.
    """
    assert isinstance(request.model, str)
    path, facts = Path(request.model), request.facts
    inside = {
        "--weights": request.weights,
        "--config": request.config,
        "--image-size": facts.img_size,
        "--heads": facts.n_heads,
        "--norm-eps": facts.norm_eps,
        "--activation": facts.mlp,
        "--pool": facts.pool,
        "--mean": facts.mean,
        "--std": facts.std,
    }
    refuse_options(inside, "fixed in the bundle, leave it out")
    if request.out is None or request.out.resolve() == path.resolve():
        raise InputError(
            f"give --out, a folder other than {path}: the new bundle is measured against the fp32 "
            "graph of the old one, which should not be lost"
        )
    try:
        bundle = Bundle.open(path)
        graph, external = bundle.read_graph(_fp32(bundle.manifest, path))
    except BundleError as error:
        raise InputError(str(error)) from None
    folder = tempfile.TemporaryDirectory(prefix="vit-edge-")
    file = Path(folder.name) / f"{_REFERENCE}.onnx"
    file.write_bytes(graph)
    for name, content in external.items():
        (file.parent / name).write_bytes(content)
    return _describe(bundle, file, folder, request)


def _describe(
    bundle: Bundle, file: Path, folder: tempfile.TemporaryDirectory[str], request: ExportRequest
) -> BundleSource:
    manifest, facts = bundle.manifest, request.facts
    frames, spec = manifest.preprocess, manifest.spec
    hints = facts.or_else(
        ModelHints(
            interpolation=frames.interpolation,
            crop=frames.crop,
            crop_mode=frames.crop_mode,
            labels=manifest.labels,
        )
    )
    asked = request.outputs or {output.name: output.kind for output in spec.outputs}
    try:
        foreign = find_foreign_source(file, hints, asked, USUAL)
    except InputError as error:
        raise InputError(str(error).replace(str(file), str(bundle.path))) from None
    weights = manifest.provenance.get("weights", "-")
    distance = max(a.logit_error for a in _fp32(manifest, bundle.path).accuracy.values())
    kept = {name: value for name, value in manifest.model.items() if name not in foreign.facts}
    return BundleSource(
        **{
            **{f.name: getattr(foreign, f.name) for f in fields(ForeignSource)},
            "name": request.name or manifest.name,
            # Its mean and deviation are inside of the graph and stay what they were, for people.
            "preprocess": replace(
                frames,
                interpolation=foreign.preprocess.interpolation,
                crop=foreign.preprocess.crop,
                crop_mode=foreign.preprocess.crop_mode,
            ),
            "weights": str(weights),
            "random": weights == RANDOM,
            "facts": {**kept, **foreign.facts, "source": "bundle", "bundle": bundle.digest},
            "notes": (
                f"measured against {BundleSource.oracle}, whose worst output was {distance:.1e} of "
                "its range from its own reference",
                *foreign.notes,
            ),
            "oracle": BundleSource.oracle,
        },
        folder=folder,
    )


def _fp32(manifest: Manifest, path: Path) -> Graph:
    entry = manifest.precisions.get(_REFERENCE)
    if entry is None:
        names = ", ".join(manifest.precisions)
        raise InputError(
            f"{path} holds {names} and no {_REFERENCE}, which other precisions are made from: "
            "export its model again"
        )
    return next(iter(entry.graphs.values()))
