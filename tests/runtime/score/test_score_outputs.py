"""Columns of bundles with several outputs of several kinds, and with class names."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from tests.effort import ONE_CALL
from tests.export.test_outputs import WIDTH, Several
from vit_edge.export.pipeline import export_bundle
from vit_edge.export.plan import ExportRequest
from vit_edge.export.progress import Display
from vit_edge.runtime import Bundle, Engine
from vit_edge.runtime.outputs import OutputSpec
from vit_edge.runtime.tools.score import folder as score_folder
from vit_edge.runtime.tools.score.columns import NOT_FINITE, Columns
from vit_edge.runtime.tools.score.decode import Decoded
from vit_edge.vit.hints import ModelHints

from .rig import column, parts, read, score, write_images

COUNT = 9
LABELS = tuple(f"class {index}" for index in range(10))
NAMES = ("logits", "embedding", "depth")


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose outputs are logits with class names, an embedding and a map."""
    folder = tmp_path_factory.mktemp("several")
    torch.manual_seed(0)
    torch.backends.mha.set_fastpath_enabled(False)  # one operator that no exporter knows
    torch.onnx.export(
        Several().eval().requires_grad_(False),
        (torch.zeros(1, 3, WIDTH, WIDTH),),
        folder / "several.onnx",
        dynamo=False,
        opset_version=17,
        input_names=["x"],
        output_names=list(NAMES),
        dynamic_axes={name: {0: "batch"} for name in ("x", *NAMES)},
    )
    torch.backends.mha.set_fastpath_enabled(True)
    request = ExportRequest(
        timing=ONE_CALL,
        onnx=folder / "several.onnx",
        out=folder / "bundle",
        precisions=("fp32",),
        targets=("onnxruntime",),
        facts=ModelHints(mean=(0.5,) * 3, std=(0.5,) * 3, labels=LABELS),
    )
    assert export_bundle(request, Display()).good
    return folder / "bundle"


def test_every_output_has_its_columns(
    several: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    images = write_images(tmp_path / "images", COUNT)
    images[4].write_bytes(b"damaged")
    monkeypatch.setattr(score_folder, "_GROUP_BYTES", 1)  # as maps make it: many row groups
    out = tmp_path / "out"
    arguments = ("--out", out, "--top", 3, "--batch", 2, "--backend", "onnxruntime")
    status, _, err = score(capsys, several, tmp_path / "images", *arguments)
    assert status == 1, err
    (part,) = parts(out)
    assert pq.read_metadata(part).num_row_groups > 2
    table = read(out)
    assert [column(table, name)[4] for name in NAMES] == [None] * 3
    assert table["error"].null_count == COUNT - 1
    with Engine.load(several, "fp32", "onnxruntime") as engine:
        for row, image in enumerate(images):
            if row == 4:
                continue
            outputs = engine(engine.preprocess.read(image)[None])
            for name in NAMES:
                values = np.array(column(table, name)[row], np.float32)
                np.testing.assert_allclose(values, outputs[name][0].reshape(-1), atol=1e-4)
            answers = engine.top({name: values[0] for name, values in outputs.items()}, 3)
            assert column(table, "logits_top_name")[row] == [a.label for a in answers]
            assert column(table, "logits_top_index")[row] == [a.index for a in answers]
    facts = pq.read_schema(part).metadata
    assert tuple(json.loads(facts[b"vit_edge.class_names"])) == LABELS
    described = {o["name"]: (o["kind"], o["shape"]) for o in json.loads(facts[b"vit_edge.outputs"])}
    specs = Bundle.open(several).manifest.spec.outputs
    assert described == {o.name: (o.kind, list(o.shape)) for o in specs}
    assert described["depth"] == ("map", [1, WIDTH, WIDTH])


def test_numbers_labels_and_names_that_clash() -> None:
    """Outputs of every kind, one of them named as a column of our own."""
    outputs = (
        OutputSpec("error", "value", ()),
        OutputSpec("error_output", "value", ()),
        OutputSpec("tags", "multilabel", (3,)),
        OutputSpec("tags_top_index", "value", ()),
        OutputSpec("tokens", "tokens", (2, 4)),
    )
    columns = Columns(outputs, outputs[2], ("a", "b", "c"), 2)
    schema = columns.schema({"run": "x"})
    frame = np.zeros((1, 1, 1), np.uint8)
    images = [Decoded(7, "x", frame), Decoded(8, "y", None, "gone"), Decoded(9, "z", frame)]
    values = {
        "error": np.array([0.5, 2.0], np.float32),
        "error_output": np.array([7.0, 8.0], np.float32),
        "tags_top_index": np.array([5.0, 6.0], np.float32),
        "tags": np.array([[0.0, 3.0, -3.0], [9.0, 0.0, 1.0]], np.float32),
        "tokens": np.arange(16, dtype=np.float32).reshape(2, 2, 4),
    }
    table = columns.table(schema, images, values)
    assert len(set(table.column_names)) == len(table.column_names)
    assert column(table, "error_output") == [0.5, None, 2.0]
    assert column(table, "error_output_output") == [7.0, None, 8.0]
    assert column(table, "tags_top_index") == [[1, 0], None, [0, 2]]
    assert column(table, "tags_top_index_output") == [5.0, None, 6.0]
    assert column(table, "tags_top_name") == [["b", "a"], None, ["a", "c"]]
    np.testing.assert_allclose(column(table, "tags_top_probability")[0], [0.952574, 0.5], atol=1e-6)
    assert column(table, "tokens")[2] == list(range(8, 16))
    assert column(table, "error") == [None, "gone", None]
    values["tokens"][1, 0, 0] = np.nan
    table = columns.table(schema, images, values)
    assert column(table, "error") == [None, "gone", f"z: {NOT_FINITE}"]
    assert column(table, "tags") == [[0.0, 3.0, -3.0], None, None]
    empty = columns.table(schema, [replace(images[1], index=10)], {})
    assert column(empty, "tags_top_index") == [None]
