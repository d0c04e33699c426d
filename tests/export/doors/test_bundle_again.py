"""A bundle is exported again: the same outputs and frames, from its fp32 graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vit_edge import Engine
from vit_edge.export.pipeline import export_bundle
from vit_edge.export.plan import ExportRequest
from vit_edge.export.precision.quantised import FAST
from vit_edge.export.progress import Display
from vit_edge.runtime.bundle import Bundle
from vit_edge.runtime.errors import InputError
from vit_edge.runtime.metrics import TimingBudget

from ...runtime.test_bundle import rewrite_manifest

REQUEST = ExportRequest(
    calibration="digits",
    precisions=("bf16",),
    targets=("onnxruntime",),
    effort=FAST,
    timing=TimingBudget(runs=1, seconds=0.0, most_runs=1),
)


def export(old: Path, new: Path | None, **changes: object) -> None:
    request = replace(REQUEST, model=str(old), out=new, **changes)  # type: ignore[arg-type]
    assert export_bundle(request, Display()).good


def test_a_precision_more(bundle: Path, tmp_path: Path) -> None:
    export(bundle, tmp_path / "new", precisions=("fp32", "fp16"))
    old, new = (Bundle.open(path).manifest for path in (bundle, tmp_path / "new"))
    assert sorted(new.precisions) == ["fp16", "fp32"]
    assert (new.name, new.labels, new.preprocess) == (old.name, old.labels, old.preprocess)
    assert [(o.name, o.kind, o.shape) for o in new.spec.outputs] == [
        (o.name, o.kind, o.shape) for o in old.spec.outputs
    ]
    assert new.model["source"] == "bundle"
    assert new.model["bundle"] == Bundle.open(bundle).digest
    assert new.precisions["fp32"].graphs["cpu"].accuracy["logits"].agreement == 1
    images = Bundle.open(bundle).golden().images[:5]
    outputs = []
    for path in (bundle, tmp_path / "new"):
        with Engine.load(path, backend="onnxruntime", precision="fp32") as engine:
            outputs.append(engine(images))
    np.testing.assert_allclose(*outputs, rtol=1e-4, atol=1e-5)


def test_the_bundle_itself_is_not_overwritten(bundle: Path) -> None:
    for out in (None, bundle, bundle / ".." / bundle.name):
        with pytest.raises(InputError, match="give --out, a folder other than"):
            export(bundle, out)


def test_what_the_bundle_fixes_is_refused(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--weights: fixed in the bundle"):
        export(bundle, tmp_path / "new", weights="random")


def _without_fp32(path: Path) -> None:
    rewrite_manifest(path, lambda manifest: manifest["precisions"].pop("fp32"))


def _altered(path: Path) -> None:
    file = path / "onnx" / "fp32.onnx"
    file.write_bytes(file.read_bytes()[:-1] + b"\0")


@pytest.mark.parametrize(
    ("damage", "words"), [(_without_fp32, "no fp32"), (_altered, "was altered")]
)
def test_a_bundle_that_cannot_be_used(
    bundle: Path, tmp_path: Path, damage: Callable[[Path], None], words: str
) -> None:
    damage(bundle)
    with pytest.raises(InputError, match=words):
        export(bundle, tmp_path / "new")
    assert not (tmp_path / "new").exists()
