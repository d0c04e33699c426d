"""`export_model`: from a module in memory to an engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vit_edge import Engine, InputError, Preprocess, export_model
from vit_edge.export.doors import find_source
from vit_edge.export.doors.module import ModuleSource
from vit_edge.export.plan import ExportRequest, make_plan
from vit_edge.runtime.bundle import Bundle
from vit_edge.vit.hints import ModelHints

from .models import CLASSES, MEAN, SIDE, STD, Tiny, to_map

FACTS = ModelHints(img_size=(SIDE, SIDE), mean=MEAN, std=STD)
PREPROCESS = {"mean": MEAN, "std": STD}


def images(count: int = 24, side: int = SIDE) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def answers(module: nn.Module, frames: np.ndarray) -> Any:
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in (MEAN, STD))
    with torch.inference_mode():
        return module.eval()((pixels - mean) / std)


def test_a_module_becomes_a_bundle_that_answers_as_it_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = Tiny(lambda tokens, logits: {"logits": logits}).train()
    labels = answers(module, images())["logits"].argmax(1).numpy()
    module.train()
    options: dict[str, Any] = {
        "evaluation": (images(), labels),
        "precisions": ["fp32"],
        "targets": ["onnxruntime"],
        "preprocess": {**PREPROCESS, "interpolation": "bilinear", "crop": 0.875},
        "labels": [f"class {k}" for k in range(CLASSES)],
        "name": "mine",
    }
    report = export_model(module, tmp_path / "out", calibration=images(), **options)
    assert module.training
    assert report.shipped
    assert report.problems == {}
    assert list(report.precisions) == ["fp32"]
    assert report.precisions["fp32"].accuracy["cpu"]["logits"].logit_error < 1e-5
    assert report.precisions["fp32"].accuracy["cpu"]["logits"].reference_top1 == 1
    assert "exported by torch's dynamo exporter" in report.notes
    assert "The reference is PyTorch" in report.report.read_text()
    manifest = Bundle.open(report.path).manifest
    assert manifest.name == "mine"
    assert manifest.labels == tuple(f"class {k}" for k in range(CLASSES))
    assert manifest.preprocess == Preprocess(SIDE, SIDE, 3, 0.875, "bilinear", MEAN, STD)
    assert manifest.model["class"].endswith(".Tiny")
    assert manifest.provenance["calibration"].startswith("12 images")  # of 24: none is in both
    with Engine.load(report.path, "fp32") as engine:
        scores = engine(images())
    expected = answers(module, images())["logits"].numpy()
    assert np.abs(scores - expected).max() < 1e-5 * np.ptp(expected)
    capsys.readouterr()
    export_model(module, tmp_path / "out", calibration=images(), **options)
    assert "PyTorch reference: unchanged" in capsys.readouterr().err
    module.head.bias.data[0] += 1
    export_model(module, tmp_path / "out", calibration=images(), **options)
    assert "PyTorch reference: unchanged" not in capsys.readouterr().err


def test_outputs_of_several_kinds_are_proven_each_by_its_own_measure(tmp_path: Path) -> None:
    def answer(tokens: Tensor, logits: Tensor) -> Any:
        return logits, to_map(tokens), tokens.mean(1), (tokens, tokens)

    module = Tiny(answer)
    report = export_model(
        module,
        tmp_path / "out",
        calibration=images(),
        precisions=["fp32", "int8"],
        targets=[],
        preprocess=PREPROCESS,
        outputs={"output_0": "logits", "output_1": None},
        metric=lambda outputs, labels: float(outputs["output_0"].shape[1]),
    )
    assert report.shipped
    expected = answers(module, images(8))
    for name, precision in report.precisions.items():
        accuracy = precision.accuracy["cpu"]
        assert list(accuracy) == ["output_0", "output_1"]
        with Engine.load(report.path, name) as engine:
            given = engine(images(8))
        assert isinstance(given, dict)
        for output, value in zip(given.values(), expected, strict=False):
            error = np.abs(output - value.numpy()).max() / np.ptp(value.numpy())
            assert error < (1e-5 if name == "fp32" else 0.1)
    kinds = {output.name: output.kind for output in Bundle.open(report.path).manifest.spec.outputs}
    assert kinds == {"output_0": "logits", "output_1": "map"}
    assert any("output_3: a tuple" in note for note in report.notes)
    assert any("output_2: --output does not name it" in note for note in report.notes)


def source(module: nn.Module, **request: Any) -> ModuleSource:
    made = find_source(ExportRequest(model=module, **{"facts": FACTS, **request}))
    assert isinstance(made, ModuleSource)
    return made


class SelfNormalising(Tiny):
    """Takes pixels of 0 to `top`."""

    def __init__(self, top: float) -> None:
        super().__init__()
        mean, std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in (MEAN, STD))
        self.register_buffer("mean", mean * top)
        self.register_buffer("std", std * top)

    def forward(self, images: Tensor) -> Any:
        return super().forward((images - self.mean) / self.std)


@pytest.mark.parametrize("top", [1.0, 255.0])
def test_a_module_that_normalises_itself_is_recognised(top: float) -> None:
    size = ModelHints(img_size=(SIDE, SIDE))
    made = source(SelfNormalising(top), facts=size)
    assert made.preprocess.mean == (0, 0, 0)
    assert made.preprocess.std == pytest.approx((1 / top,) * 3)
    scale = "0-1" if top == 1 else "0-255"
    (note,) = [n for n in made.notes if n.startswith("the model normalises")]
    assert note.endswith(f"on the {scale} scale, read from its graph")
    with pytest.raises(InputError, match="would do it twice"):
        source(SelfNormalising(top))


def test_normalisation_that_nobody_says_is_asked_for() -> None:
    with pytest.raises(InputError, match=r"give --mean and --std .*in Python preprocess="):
        source(Tiny(), facts=ModelHints(img_size=(SIDE, SIDE)))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model": "vit"}, "has no attribute"),
        ({"calibration": images().astype(np.float32)}, "calibration is float32 [24, 32, 32, 3]"),
        ({"calibration": images()[:, :, :, :2]}, "[N, H, W, 1 or 3]"),
        ({"evaluation": (images(), [1, 2])}, "evaluation's labels are int64 [2]: give int [24]"),
        ({"evaluation": [1, 2, 3]}, "evaluation is a list"),
        ({"preprocess": {"mean": MEAN, "sdt": STD}}, "unknown sdt: it takes size, mean, std"),
        ({"preprocess": {"size": (1, 2, 3)}}, "size (1, 2, 3) is neither"),
        ({"preprocess": {"mean": "half"}}, "preprocess: could not convert"),
        ({"preprocess": [0.5]}, "preprocess is a list"),
        ({"preprocess": {"mean": MEAN, "std": STD, "crop": 7}}, "crop 7.0 is not between"),
        ({"precisions": "fp32"}, "precisions is 'fp32': give a list"),
        (
            {"outputs": {"output": "scores"}},
            "unknown kind 'scores' of output: choose",
        ),
        ({"outputs": ["output"]}, "outputs is ['output']: give a mapping"),
        ({"outputs": {"depth": "map"}}, "--output depth: the model puts out output"),
        ({"labels": ["cat"]}, "--labels has 1 names, the model's outputs: output 5"),
        ({"preprocess": {**PREPROCESS, "size": 48}}, "the model fails on float32 images [3, 3, 48"),
    ],
)
def test_bad_input_is_named(changes: dict[str, Any], named: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "model": Tiny(),
        "calibration": images(),
        "preprocess": PREPROCESS,
        "targets": ["onnxruntime"],
        **changes,
    }
    if isinstance(options["model"], str):
        options["model"], named = "not a module", "unknown model 'not a module'"
    with pytest.raises(InputError) as caught:
        export_model(out=tmp_path / "out", **options)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_images_of_another_size_than_the_models_are_named() -> None:
    class AnySize(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.mean((2, 3))

    frames = images()
    with pytest.raises(InputError, match=r"images in memory are \[32, 32, 3\], the model takes"):
        export_model(AnySize(), "out", calibration=frames, preprocess={**PREPROCESS, "size": 40})
    assert not Path("out").exists()


def test_random_names_and_options_of_our_own_vit_are_refused() -> None:
    with pytest.raises(InputError, match="--heads: fixed in the model"):
        make_plan(ExportRequest(model=Tiny(), facts=ModelHints(n_heads=3)))


def test_weights_too_large_for_one_file_lie_beside_the_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vit_edge.calibration.onnx_file.LIMIT", 10_000)
    module = Tiny(lambda tokens, logits: logits)
    export_model(
        module,
        tmp_path / "out",
        calibration=images(),
        precisions=["fp32"],
        targets=["onnxruntime"],
        preprocess=PREPROCESS,
    )
    graph = Bundle.open(tmp_path / "out").manifest.precisions["fp32"].graphs["cpu"]
    assert graph.external == ("onnx/fp32.data",)
    with Engine.load(tmp_path / "out", "fp32") as engine:
        scores = engine(images())
    expected = answers(module, images()).numpy()
    assert np.abs(scores - expected).max() < 1e-5 * np.ptp(expected)
