"""Models above protobuf's limit, which is lowered here: their weights lie beside the graph."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from vit_edge.export.pipeline import export_bundle
from vit_edge.export.plan import ExportRequest
from vit_edge.export.progress import Display
from vit_edge.runtime.bundle import Bundle
from vit_edge.runtime.engine import Engine
from vit_edge.runtime.errors import BundleError
from vit_edge.vit.checkpoints import encode_checkpoint
from vit_edge.vit.preprocessing import normalise
from vit_edge.vit.variants import find_variant
from vit_edge.vit.vision_transformer import VisionTransformer

from ..effort import ONE_CALL

MODEL = "vit_test_patch8_32"


@pytest.fixture(scope="module")
def large_bundle(tmp_path_factory: pytest.TempPathFactory, model: VisionTransformer) -> Path:
    """fp32 is too large, fp16 is not."""
    folder = tmp_path_factory.mktemp("large")
    weights, out = folder / "weights.safetensors", folder / "bundle"
    weights.write_bytes(encode_checkpoint(model))
    request = ExportRequest(
        timing=ONE_CALL, weights=str(weights), out=out, max_batch=4, precisions=("fp32", "fp16")
    )
    size = sum(parameter.numel() * 4 for parameter in model.parameters())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vit_edge.calibration.onnx_file.LIMIT", size * 3 // 5)
        report = export_bundle(request, Display())
    return out if report.good else pytest.fail(f"{report.problems}")


@pytest.fixture
def bundle(large_bundle: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(large_bundle, tmp_path / "bundle"))


@pytest.mark.slow
def test_weights_lie_beside_the_graph_and_everything_runs(
    bundle: Path, model: VisionTransformer, frames: np.ndarray
) -> None:
    names = {path.name for path in (bundle / "onnx").iterdir()}
    assert names == {"fp32.onnx", "fp32.data", "fp16.onnx"}
    preprocess = find_variant(MODEL).preprocess
    with torch.inference_mode():
        expected = model(normalise(frames, preprocess)).numpy()
    with Engine.load(bundle, "fp32", "onnxruntime") as engine:
        np.testing.assert_allclose(engine(frames), expected, atol=1e-4)
    # The graphs alone run in plain ONNX Runtime, which finds the weights by the graph's path.
    plain = onnxruntime.InferenceSession(bundle / "onnx" / "fp32.onnx")
    np.testing.assert_allclose(plain.run(None, {"images": frames})[0], expected, atol=1e-4)


@pytest.mark.slow
def test_altered_weights_are_refused(bundle: Path) -> None:
    path = bundle / "onnx" / "fp32.data"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"fp32\.data was altered"):
        Bundle.open(bundle).verify()
    with pytest.raises(BundleError, match=r"fp32\.data was altered"):
        Engine.load(bundle, "fp32", "onnxruntime")
