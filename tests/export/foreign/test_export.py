"""The whole way from somebody else's file to a bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from vit_edge.export.foreign.rebuild import rebuild, require_same
from vit_edge.export.foreign.source import find_foreign_source, prepare
from vit_edge.export.graph_edit import array
from vit_edge.export.pipeline import export_bundle
from vit_edge.export.plan import ExportRequest
from vit_edge.export.progress import Display
from vit_edge.runtime import Engine
from vit_edge.runtime.bundle import Bundle
from vit_edge.runtime.errors import InputError
from vit_edge.vit.hints import ModelHints
from vit_edge.vit.vision_transformer import VisionTransformer

from ...effort import ONE_CALL
from .files import OLD_14, write


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, digits_model: VisionTransformer) -> Path:
    path = tmp_path_factory.mktemp("foreign") / "my digits.onnx"
    return write(digits_model, path, OLD_14, (1, 8, 8))


def request(file: Path, out: Path) -> ExportRequest:
    return ExportRequest(
        timing=ONE_CALL,
        onnx=file,
        out=out,
        calibration="digits",
        facts=ModelHints(mean=(0.5,), std=(0.5,)),
        targets=("onnxruntime",),
        max_batch=4,
    )


def test_a_foreign_file_becomes_a_bundle(
    file: Path, tmp_path: Path, digit_frames: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    report = export_bundle(request(file, out), Display())
    assert report.good
    bundle = Bundle.open(out)
    bundle.verify()
    manifest = bundle.manifest
    assert list(manifest.precisions) == ["fp16", "fp32", "int8"]
    (accuracy,) = manifest.precisions["fp32"].graphs["cpu"].accuracy.values()
    assert accuracy.logit_error < 1e-5
    assert (accuracy.reference_top1 or 0) > 0.97
    assert manifest.provenance["weights"] == "my digits.onnx"
    assert manifest.model["source"] == "ONNX file"
    assert manifest.model["producer"].startswith("pytorch")
    assert manifest.model["sha256"] == manifest.provenance["weights sha256"]
    assert "the original file" in (tmp_path / "out.report" / "report.md").read_text()
    assert str(file.parent).encode() not in (out / "onnx" / "int8.onnx").read_bytes()
    session = onnx.load(out / "onnx" / "int8.onnx")
    assert sum(node.op_type == "QuantizeLinear" for node in session.graph.node) == 16
    with Engine.load(out, precision="fp32", backend="onnxruntime") as engine:
        assert engine(digit_frames).shape == (10, 10)
    capsys.readouterr()
    assert export_bundle(request(file, out), Display()).good
    assert "ONNX graph: unchanged" in capsys.readouterr().err


def test_a_wrong_rewrite_is_not_let_through(file: Path) -> None:
    facts = request(file, file).facts
    source, original, model = find_foreign_source(file, facts), prepare(file), prepare(file)
    rebuild(model, source.preprocess)
    bias = next(v for n, v in model.graph.initializers.items() if n.endswith("fc1.bias"))
    bias.const_value = ir.tensor(array(bias) + 0.01, name=bias.name)
    with pytest.raises(InputError, match="without changing its outputs"):
        require_same(original, model, source.preprocess)
