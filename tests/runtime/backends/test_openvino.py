from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.specs import engine_spec
from vit_edge.runtime import BackendError, EngineError, ResourceError
from vit_edge.runtime.backends import BACKENDS, openvino
from vit_edge.runtime.bundle import Bundle

OPENVINO = BACKENDS["openvino"]


# Around INT8 products OpenVINO computes in bf16 where the CPU has it.
@pytest.mark.parametrize(("precision", "atol"), [("fp32", 1e-4), ("fp16", 0.02), ("int8", 0.15)])
def test_it_agrees_with_onnxruntime(
    bundle_source: Path, digit_frames: np.ndarray, precision: str, atol: float
) -> None:
    bundle = Bundle.open(bundle_source)
    manifest = bundle.manifest
    onnx = bundle.read(manifest.precisions[precision].graphs["cpu"].file)
    ours = OPENVINO.open(onnx, manifest.spec)
    theirs = BACKENDS["onnxruntime"].open(onnx, manifest.spec)
    expected = theirs.run(digit_frames)
    for count in (1, 4, 2):  # the shape changes from call to call
        answer = ours.run(digit_frames[:count])
        np.testing.assert_allclose(answer, expected[:count], atol=atol)
        assert answer.flags.owndata  # not OpenVINO's own memory, which the next call overwrites
    ours.close()
    theirs.close()


def test_fp32_is_not_computed_in_16_bits(bundle_source: Path, digit_frames: np.ndarray) -> None:
    """OpenVINO would take bf16 where the CPU has it."""
    bundle = Bundle.open(bundle_source)
    golden = bundle.golden()
    session = OPENVINO.open(bundle.read("onnx/fp32.onnx"), bundle.manifest.spec)
    np.testing.assert_allclose(session.run(golden.images), golden.logits, atol=1e-4)
    session.close()


def test_a_refusal_gives_the_reason_in_one_line(bundle_source: Path) -> None:
    spec = Bundle.open(bundle_source).manifest.spec
    with pytest.raises(EngineError, match=r"OpenVINO 20\d\d\.\S+ refuses the graph: ") as caught:
        OPENVINO.open(b"no graph", spec)
    assert "\n" not in str(caught.value)
    assert not isinstance(caught.value, ResourceError)


@pytest.mark.parametrize(
    "error", [MemoryError("std::bad_alloc"), RuntimeError("Exception from src:9:\nbad allocation")]
)
def test_memory_that_it_lacks_is_a_shortage(
    bundle_source: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*arguments: object) -> None:
        raise error

    bundle = Bundle.open(bundle_source)
    with monkeypatch.context() as patch:
        patch.setattr(openvino, "open_session", fail)
        with pytest.raises(ResourceError, match=r"refuses the graph: .*bad.alloc"):
            OPENVINO.open(bundle.read("onnx/fp32.onnx"), bundle.manifest.spec)
    session = openvino.OpenVinoSession(SimpleNamespace(run=fail, close=lambda: None), lambda: None)
    with pytest.raises(ResourceError, match=r"OpenVINO failed: .*bad.alloc"):
        session.run(bundle.golden().images[:1])


@pytest.mark.parametrize("shape", [[], None], ids=["a number", "no shape"])
def test_an_input_of_another_form_is_refused(shape: list[int] | None) -> None:
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Cast", ["images"], ["logits"], to=TensorProto.FLOAT)],
        "g",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    spec = engine_spec("images", "logits", (2, 2, 1), 3, (1, 1, 4))
    with pytest.raises(EngineError, match="refuses the graph: "):
        OPENVINO.open(model.SerializeToString(), spec)


def test_weights_beside_the_graph_are_found(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = np.arange(12, dtype=np.float32).reshape(4, 3)
    nodes = [
        helper.make_node("Cast", ["images"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", 2, 2, 1])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path = tmp_path / "m.onnx"
    onnx.save(
        model, path, save_as_external_data=True, location="w.bin", size_threshold=0,
        convert_attribute=False,
    )  # fmt: skip
    spec = engine_spec("images", "logits", (2, 2, 1), 3, (1, 1, 4))
    external = {"w.bin": memoryview((tmp_path / "w.bin").read_bytes())}
    session = OPENVINO.open(path.read_bytes(), spec, external)
    images = np.array([[1, 2, 3, 4]], np.uint8).reshape(1, 2, 2, 1)
    np.testing.assert_allclose(session.run(images), [[1, 2, 3, 4] @ weights])
    batch = np.concatenate([images, images])  # compiled when the file is gone
    np.testing.assert_allclose(session.run(batch), [[1, 2, 3, 4] @ weights] * 2)
    session.close()


def test_nothing_is_reported_to_the_librarys_maker() -> None:
    code = (
        "import sys\n"
        "from vit_edge.runtime.backends.openvino import load_library\n"
        "load_library()\n"
        "assert not [m for m in sys.modules if m.startswith('openvino_telemetry')]\n"
        "import openvino_telemetry\n"  # an application's own use is not hindered
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])


def test_without_the_library_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert "pip install 'openvino>=2025.2'" in (OPENVINO.run_problem() or "")
    with pytest.raises(BackendError, match="pip install"):
        OPENVINO.open(b"", engine_spec("images", "logits", (2, 2, 1), 3, (1, 1, 4)))


def test_an_interrupt_after_engines_were_closed_is_still_one(bundle_source: Path) -> None:
    """Each of OpenVINO's cores sets a stack for signals, and gives back that of the one before:
    freed already, where cores end in the order in which they were made. It has crashed Python.
    """
    code = (
        "import gc, os, signal, sys\n"
        "from pathlib import Path\n"
        "from vit_edge.runtime.backends import BACKENDS\n"
        "from vit_edge.runtime.bundle import Bundle\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "bundle = Bundle.open(Path(sys.argv[1]))\n"
        "graph = bundle.read('onnx/fp32.onnx')\n"
        "sessions = [BACKENDS['openvino'].open(graph, bundle.manifest.spec) for _ in range(3)]\n"
        "for _ in range(3):\n"
        "    sessions.pop(0).close()\n"
        "    gc.collect()\n"
        "try:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted')\n"
    )
    command = [sys.executable, "-X", "faulthandler", "-c", code, str(bundle_source)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert (done.returncode, done.stdout) == (0, "interrupted\n")
