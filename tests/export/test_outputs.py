"""Several outputs through an export: joined for searches, proven by their kinds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from tests.effort import ONE_CALL
from vit_edge.export.accuracy import Reference, assess, find_problem
from vit_edge.export.outputs import (
    VARIED,
    find_scales,
    join_outputs,
    join_values,
    parse_outputs,
    varied_images,
)
from vit_edge.export.pipeline import export_bundle
from vit_edge.export.plan import ExportRequest, make_plan
from vit_edge.export.precision import PRECISIONS
from vit_edge.export.progress import Display
from vit_edge.export.report import Report
from vit_edge.export.user_code import Metric, load_metric
from vit_edge.runtime.bundle import Bundle
from vit_edge.runtime.engine import Engine
from vit_edge.runtime.errors import InputError
from vit_edge.runtime.outputs import OutputSpec, pack, spread
from vit_edge.runtime.tools.cli import main
from vit_edge.runtime.tools.images import from_array
from vit_edge.vit.hints import ModelHints

SHAPES = {"value": (2,), "embedding": (16,), "tokens": (5, 4), "map": (3, 6, 6), "boxes": (4, 4)}
WIDTH = 32


def reference_of(kind: str, images: int = 64, labels: bool = False) -> Reference:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((images, int(np.prod(SHAPES[kind])))).astype(np.float32)
    classes = np.arange(images) % 4
    if kind == "embedding":  # four groups
        values = (0.3 * values + 5 * np.eye(4, 16)[classes]).astype(np.float32)
    output = OutputSpec("out", kind, SHAPES[kind], spread(values))
    return Reference(values, (output,), classes if labels else None, np.arange(images))


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_each_kind_has_a_budget_that_noise_breaks(kind: str, precision: str) -> None:
    known, budget = reference_of(kind), PRECISIONS[precision].budget
    scale = known.outputs[0].scale or 0
    noise = np.random.default_rng(1).standard_normal(known.values.shape)
    problems = []
    for share in (0.5, 1.5):
        size = share * budget.max_rms[kind] * scale
        accuracy = assess((known.values + size * noise).astype(np.float32), known, "here")
        problems.append(find_problem(accuracy, known.outputs, budget, random_weights=True))
    assert problems[0] is None
    assert "relative RMS error" in str(problems[1])


def test_an_embedding_that_confuses_neighbours_misses() -> None:
    """Its error is small; its nearest neighbours are others."""
    known = reference_of("embedding")
    rng = np.random.default_rng(1)
    near = known.values[:32] + 1e-3 * rng.standard_normal((32, 16)).astype(np.float32)
    pairs = np.concatenate([known.values[:32], near])
    output = replace(known.outputs[0], scale=spread(pairs))
    known = Reference(pairs, (output,), None, known.golden)
    weak = (pairs + 0.02 * rng.standard_normal(pairs.shape)).astype(np.float32)
    twins = assess(weak, known, "here")
    assert find_problem(twins, known.outputs, PRECISIONS["int8"].budget, False) is None
    swapped = pairs.copy()
    swapped[:, 4:] += (0.4 * rng.standard_normal((64, 12))).astype(np.float32)
    problem = find_problem(
        assess(swapped, known, "here"),
        known.outputs,
        replace(PRECISIONS["int8"].budget, max_rms={}),
        False,
    )
    assert "nearest neighbours" in str(problem)


def test_labels_judge_an_embedding_by_its_neighbours() -> None:
    known = reference_of("embedding", labels=True)
    broken = known.values[::-1].copy()  # images of other groups
    accuracy = assess(broken, known, "here")
    assert accuracy["out"].reference_top1 == 1
    budget = replace(PRECISIONS["int8"].budget, max_rms={}, min_neighbours=None)
    swapped = known.values.copy()
    swapped[:20] = known.values[1:21]
    problem = find_problem(assess(swapped, known, "here"), known.outputs, budget, False)
    assert "k-NN top-1" in str(problem)


class Several(nn.Module):
    """A small ViT with a head, an embedding and a map."""

    def __init__(self, dim: int = 48) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, dim, 8, 8)
        self.positions = nn.Parameter(0.3 * torch.randn(1, 16, dim))
        layer = {"nhead": 2, "dim_feedforward": 96, "activation": "gelu", "norm_first": True}
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(dim, dropout=0.0, batch_first=True, **layer)  # type: ignore[arg-type]
            for _ in range(2)
        )
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, 10)
        self.depth = nn.Conv2d(dim, 1, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        tokens = self.patch(images).flatten(2).transpose(1, 2) + self.positions
        for block in self.blocks:
            tokens = block(tokens)
        tokens = self.norm(tokens)
        pooled = tokens.mean(1)
        grid = tokens.transpose(1, 2).reshape(-1, tokens.shape[2], 4, 4)
        depth = nn.functional.interpolate(self.depth(grid), size=(WIDTH, WIDTH), mode="bilinear")
        return self.head(pooled), pooled, depth


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    torch.backends.mha.set_fastpath_enabled(False)  # one operator that no exporter knows
    path = tmp_path_factory.mktemp("several") / "several.onnx"
    names = ["logits", "embedding", "depth"]
    torch.onnx.export(
        Several().eval().requires_grad_(False),
        (torch.zeros(1, 3, WIDTH, WIDTH),),
        path,
        dynamo=False,
        opset_version=17,
        input_names=["x"],
        output_names=names,
        dynamic_axes={name: {0: "batch"} for name in ("x", *names)},
    )
    torch.backends.mha.set_fastpath_enabled(True)
    return path


def export(file: Path, out: Path, *precisions: str, **options: object) -> Report:
    request = ExportRequest(
        timing=ONE_CALL,
        onnx=file,
        out=out,
        precisions=precisions,
        targets=("onnxruntime",),
        facts=ModelHints(mean=(0.5,) * 3, std=(0.5,) * 3),
        **options,  # type: ignore[arg-type]
    )
    return export_bundle(request, Display())


@pytest.fixture(scope="module")
def bundle(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "several"
    assert export(file, out, "fp32", "fp16", "int8").good
    return out


def test_every_output_is_proven_and_comes_by_name(file: Path, bundle: Path) -> None:
    manifest = Bundle.open(bundle).manifest
    kinds = {output.name: output.kind for output in manifest.spec.outputs}
    assert kinds == {"logits": "logits", "embedding": "embedding", "depth": "map"}
    for precision in manifest.precisions.values():
        for graph in precision.graphs.values():
            assert graph.accuracy.keys() == graph.rms_tolerance.keys() == kinds.keys()
            assert all(0 < a.rms_error < 0.1 for a in graph.accuracy.values())
    import onnxruntime

    frames = np.random.default_rng(0).integers(0, 256, (3, WIDTH, WIDTH, 3), dtype=np.uint8)
    pixels = ((frames / 255 - 0.5) / 0.5).transpose(0, 3, 1, 2).astype(np.float32)
    expected = onnxruntime.InferenceSession(file).run(None, {"x": pixels})
    with Engine.load(bundle, "fp32", "onnxruntime") as engine:
        values = engine(frames)
        assert list(values) == list(kinds)
        for array, other in zip(values.values(), expected, strict=True):
            np.testing.assert_allclose(array, other, atol=1e-3)
        assert engine.top(values["logits"][0]) == engine.top({n: v[0] for n, v in values.items()})


def test_commands_show_every_output(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    frames = np.random.default_rng(0).integers(0, 256, (WIDTH, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(frames).save(tmp_path / "picture.png")
    assert main(["check", str(bundle)]) == 0
    assert main(["inspect", str(bundle)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("depth") > 6
    maps = tmp_path / "maps"
    arguments = ["run", str(bundle), str(tmp_path / "picture.png"), "--maps", str(maps)]
    assert main([*arguments, "--precision", "fp32", "--backend", "onnxruntime"]) == 0
    printed = capsys.readouterr().out
    assert "embedding: 48 features of norm" in printed
    assert "depth: 1 x 32 x 32" in printed
    (drawn,) = maps.iterdir()
    pixels = np.asarray(Image.open(drawn))
    assert pixels.shape == (WIDTH, WIDTH)
    assert (pixels.min(), pixels.max()) == (0, 255)


def test_precisions_that_a_new_export_drops_are_said(file: Path, bundle: Path) -> None:
    hints = ModelHints(mean=(0.5,) * 3, std=(0.5,) * 3)
    plan = make_plan(ExportRequest(onnx=file, out=bundle, precisions=("fp32",), facts=hints))
    (note,) = [note for note in plan.notes if "leaves out" in note]
    assert "has fp16, int8 too" in note


def test_few_images_are_weak_evidence(file: Path, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, WIDTH, WIDTH, 3), dtype=np.uint8)
    data, out = tmp_path / "few.npz", tmp_path / "out"
    np.savez(data, images=images)
    report = export(file, out, "fp16", outputs={"logits": None}, evaluation=str(data))
    assert report.good
    assert report.rows[0][-1] == "shipped on weak evidence"
    assert "agreement may be as low as" in report.weaknesses[0]
    assert Bundle.open(out).manifest.precisions["fp16"].evidence in report.weaknesses[0]
    with Engine.load(out) as engine:
        assert "would do" in engine.info.evidence


def test_a_broken_output_is_named(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vit_edge.runtime.backends.onnxruntime import OnnxRuntimeSession
    from vit_edge.runtime.errors import SelfCheckError

    run = OnnxRuntimeSession.run

    def scrambled(self: OnnxRuntimeSession, images: np.ndarray) -> np.ndarray:
        packed = run(self, images)
        packed[:, 10:58] = packed[:, 10:58][:, ::-1]
        return packed

    monkeypatch.setattr(OnnxRuntimeSession, "run", scrambled)
    with pytest.raises(SelfCheckError, match="embedding are"):
        Engine.load(bundle, "int8", "onnxruntime")


def test_the_users_metric_is_one_more(file: Path, tmp_path: Path) -> None:
    script = tmp_path / "mine.py"
    script.write_text(
        "import numpy as np\n"
        "def brightness(outputs, labels):\n"
        "    return float(np.abs(outputs['depth']).mean())\n"
        "def coarse(outputs, labels):\n"
        "    return -float(outputs['depth'].astype('float16').tobytes().__hash__() % 97)\n"
    )
    report = export(file, tmp_path / "out", "fp32", metric=f"{script}:brightness", max_drop=1e-4)
    assert report.good
    (accuracy,) = (r["graphs"]["cpu"]["outputs"] for r in report.results)
    assert accuracy["logits"]["metric"] == pytest.approx(accuracy["logits"]["reference_metric"])
    assert "your metric" in (tmp_path / "out.report" / "report.md").read_text()


def test_a_metric_that_falls_misses() -> None:
    known = reference_of("map")
    metric = Metric("mine", "key", lambda outputs, labels: float(outputs["out"].mean()))
    accuracy = assess(known.values - 0.25, known, "here", metric)
    budget = replace(PRECISIONS["int8"].budget, max_rms={}, min_agreement=None)
    problem = find_problem(accuracy, known.outputs, budget, False, 0.2)
    assert problem == "the drop of your metric is 0.25, over the budget of 0.2"
    assert find_problem(accuracy, known.outputs, budget, False, 0.3) is None


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("missing.py:f", "there is no file"),
        ("{file}:nothing", "has no function 'nothing'"),
        ("{file}:number", "has no function 'number'"),
        ("{file}", "there is no file"),
        ("{broken}:f", "failed .ZeroDivisionError"),
    ],
)
def test_metrics_that_cannot_be_loaded_are_named(text: str, named: str, tmp_path: Path) -> None:
    good, broken = tmp_path / "good.py", tmp_path / "broken.py"
    good.write_text("number = 1\ndef f(outputs, labels): return 0\n")
    broken.write_text("1 / 0\n")
    with pytest.raises(InputError, match=named):
        load_metric(text.format(file=good, broken=broken))


@pytest.mark.parametrize("result", ["nan", "None", "1 / 0"])
def test_a_metric_that_fails_is_named(result: str, tmp_path: Path) -> None:
    script = tmp_path / "mine.py"
    script.write_text(f"from math import nan\ndef f(outputs, labels): return {result}\n")
    metric = load_metric(f"{script}:f")
    with pytest.raises(InputError, match=r"mine\.py:f"):
        metric({}, None)


def test_joined_outputs_count_alike() -> None:
    outputs = (
        OutputSpec("logits", "logits", (5,), 2.0),
        OutputSpec("depth", "map", (4, 4), 100.0),
        OutputSpec("score", "value", (), 0.1),
    )
    from tests.runtime.backends.tiny import graph_of_several, tiny_frames, values_of_several
    from vit_edge.export.measure import predict

    model = ir.from_proto(onnx.load_from_string(graph_of_several()))
    frames = tiny_frames(6)
    joined = predict(join_outputs(model, outputs), from_array("tiny", frames, None))
    packed = pack(list(values_of_several(frames).values()))
    expected, scale = join_values(packed, outputs)
    assert scale == 1
    np.testing.assert_allclose(joined, expected, rtol=1e-6)
    # An error of each output's scale is an error of 1, whichever output has it.
    for name in ("logits", "depth", "score"):
        views = {n: v.copy() for n, v in values_of_several(frames).items()}
        views[name] += next(o.scale or 0 for o in outputs if o.name == name)
        off, _ = join_values(pack(list(views.values())), outputs)
        assert ((off - expected) ** 2).mean() == pytest.approx(1 / 3, rel=1e-3)


def test_a_scale_never_vanishes() -> None:
    outputs = (OutputSpec("logits", "logits", (4,)), OutputSpec("boxes", "boxes", (2, 4)))
    alike = np.ones((5, 12), np.float32)
    varied = np.random.default_rng(0).standard_normal((VARIED, 12)).astype(np.float32)
    logits, boxes = find_scales(outputs, alike, varied, 224)
    assert logits.scale == pytest.approx(0.1 * spread(varied[:, :4]))
    assert boxes.scale == 1
    dead, pixels = find_scales(outputs, 50 * alike, 50 * alike[:2], 224)
    assert (dead.scale, pixels.scale) == (50, 224)
    frames = varied_images((20, 33, 3), 0)
    assert frames.shape == (VARIED, 20, 33, 3)
    assert len({frame.tobytes() for frame in frames}) == VARIED


def test_outputs_on_the_command_line() -> None:
    assert parse_outputs(["depth=map", "logits"]) == {"depth": "map", "logits": None}
    with pytest.raises(InputError, match="unknown kind 'picture'"):
        parse_outputs(["depth=picture"])
    with pytest.raises(InputError, match="given twice"):
        parse_outputs(["depth", "depth=map"])
