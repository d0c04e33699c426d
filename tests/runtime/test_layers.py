"""`vit-edge inspect --layers` and `vit-edge estimate`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vit_edge.runtime.backends import BACKENDS, BuildOptions, cuda
from vit_edge.runtime.backends.tensorrt import TensorRT
from vit_edge.runtime.bundle import Bundle
from vit_edge.runtime.deployment import Candidate, Deployment
from vit_edge.runtime.tools.cli import main
from vit_edge.runtime.tools.inspect import read_all
from vit_edge.runtime.tools.plan.devices import DEVICES

from .tools.plan.inspected import TEN

RTX = BACKENDS["tensorrt-rtx"]
PROBLEM = RTX.build_problem()
needs_rtx = pytest.mark.skipif(PROBLEM is not None, reason=str(PROBLEM))


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU is there."""
    monkeypatch.setattr(cuda, "device_problem", lambda: None)
    monkeypatch.setattr(cuda, "device_name", lambda: "Some GPU (8.9)")
    monkeypatch.setattr(cuda, "compute_capability", lambda: "8.9")


@needs_rtx
class TestLayers:
    def test_engines_of_the_bundle_need_no_gpu(
        self, bundle_source: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = ["--layers", "--backend", "tensorrt-rtx", "--precision", "int8"]
        assert main(["inspect", str(bundle_source), *arguments]) == 0
        out = capsys.readouterr().out
        assert "int8: engines/int8.tensorrt-rtx.engine" in out
        assert "_gemm_mha_v2" in out
        assert "all 26 matrix products run as the graph asks" in out

    def test_json_has_a_row_for_each_engine(
        self, bundle_source: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["inspect", str(bundle_source), "--layers", "--json"]) == 0
        rows = json.loads(capsys.readouterr().out)["rows"]
        assert [row["engine"] for row in rows] == [
            f"{p}: engines/{p}.tensorrt-rtx.engine" for p in ("fp16", "fp32", "int8")
        ]
        assert rows[2]["summary"]["linear_work"]["int8"] > 0.9
        assert {layer["precision"] for layer in rows[1]["layers"]} <= {"fp32", "uint8", "?"}

    def test_engines_built_here_are_shown_too(self, device: None, bundle_source: Path) -> None:
        bundle = Bundle.open(bundle_source)
        candidate = Candidate("fp16", RTX)
        Deployment(bundle).build(candidate, BuildOptions())
        plans = read_all(bundle, "fp16", "tensorrt-rtx")
        assert list(plans) == ["fp16: engines/fp16.tensorrt-rtx.engine", f"{candidate}, here"]
        assert plans[f"{candidate}, here"].summary().fused_attentions == 4

    def test_what_its_builder_did_not_tell_the_inspector_does(
        self, device: None, bundle_source: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(TensorRT, "inspect", lambda self, *arguments: json.dumps(TEN))
        plans = read_all(Bundle.open(bundle_source), "int8", "tensorrt-rtx")
        assert len(plans["int8 on tensorrt-rtx, here"].layers) == 4

    def test_what_was_compiled_stands_in_the_inspection(
        self, bundle_source: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["inspect", str(bundle_source)]) == 0
        out = capsys.readouterr().out
        assert "what their builder compiled" in out
        assert "4 of 4" in out

    def test_a_damaged_plan_is_one_line(
        self, bundle: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        plan = bundle / "engines" / "int8.tensorrt-rtx.plan.json"
        plan.write_bytes(plan.read_bytes().replace(b"int8", b"fp16"))
        assert main(["inspect", str(bundle), "--layers"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "int8.tensorrt-rtx.plan.json was altered" in line


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--layers", "--backend", "onnxruntime"), "has no layers to tell of: TensorRT does"),
        (("--layers", "--precision", "fp7"), "no precision 'fp7'"),
        (("--precision", "fp16"), "go with --layers"),
    ],
)
def test_a_wrong_wish_is_one_line(
    bundle_source: Path,
    arguments: tuple[str, ...],
    says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["inspect", str(bundle_source), *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line


@needs_rtx
class TestEstimate:
    def test_a_table_and_what_to_make_of_it(
        self, bundle_source: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["estimate", str(bundle_source), "--device", "orin nano"]) == 0
        out = capsys.readouterr().out
        assert "Orin Nano, batch 1: " in out
        assert "not measurements" in out
        assert "compute capability 8.7; its estimates are from plans for 8.6" in out

    def test_json_has_all_devices(
        self, bundle_source: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["estimate", str(bundle_source), "--json", "--precision", "fp16"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert {row["device"] for row in found["rows"]} == set(DEVICES)
        assert {row["batch"] for row in found["rows"]} == {1, 4}
        assert all(row["milliseconds"] > 0 for row in found["rows"])
        assert found["rows"][0]["bound"] in ("memory", "arithmetic", "launches")

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (("--device", "GT 710"), "unknown device"),
            (("--precision", "fp7"), "no precision 'fp7'"),
        ],
    )
    def test_a_wrong_wish_is_one_line(
        self,
        bundle_source: Path,
        arguments: tuple[str, ...],
        says: str,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        assert main(["estimate", str(bundle_source), *arguments]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert says in line
