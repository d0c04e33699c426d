"""The report: engines that do not run as their graphs ask, and its end."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.runtime.tools.plan.test_engine_plan import asked, plan
from vit_edge.export.assemble import EngineResult, GraphResult, PrecisionResult
from vit_edge.export.plan import Target
from vit_edge.export.report import Report, _engine, _plan, _rows, show_report, write_report
from vit_edge.runtime.manifest import Accuracy

ACCURACY = Accuracy(6, None, None, None, None, None, 1.0, 1.0, 0.0, 0.0, "here")
RTX = Target("tensorrt-rtx", ("8.9",))


def engine(folder: Path, listing: str | None, form: dict[str, str] | None = None) -> EngineResult:
    """An engine with the plan of that recorded listing."""
    (folder / "engine").write_bytes(b"engine")
    file = None
    if listing is not None:
        file = folder / "plan.json"
        file.write_bytes(plan(listing, asked()).encode())
    return EngineResult(folder / "engine", RTX, "1.7.1", ("8.9",), form or {}, file)


def status(folder: Path, found: EngineResult) -> list[str]:
    (folder / "int8.onnx").write_bytes(b"graph")
    graph = GraphResult(folder / "int8.onnx", {"logits": ACCURACY}, {"logits": 1e-3})
    result = PrecisionResult("int8", {"cpu": graph, "gpu": graph}, None, engines=(found,))
    return [row[-1] for row in _rows(result, good=True)]


def test_layers_in_another_type_stand_in_the_status_by_name(tmp_path: Path) -> None:
    found = engine(tmp_path, "int8-together")
    assert status(tmp_path, found) == [
        "shipped", "shipped, blocks.0.attn.qkv in fp16 (and 3 more)",
    ]  # fmt: skip
    assert _engine("int8", found)[-1] == "blocks.0.attn.qkv in fp16 (and 3 more); not run here"


def test_an_engine_that_does_as_asked_says_so(tmp_path: Path) -> None:
    found = engine(tmp_path, "int8-saturated", {"qkv": "saturated", "patches": "product"})
    assert status(tmp_path, found) == ["shipped", "shipped"]
    assert _engine("int8", found)[3:] == (
        "int8 95 %, fp16 5 %", "3 of 3", "9.5", "as asked; not run here",
    )  # fmt: skip
    assert _plan("int8", found)[3] == "patches: product", "what is not the default is named"


def test_an_engine_whose_builder_tells_nothing_is_not_called_as_asked(tmp_path: Path) -> None:
    found = engine(tmp_path, None)
    assert _engine("int8", found)[-1] == "built; not run here"
    assert _plan("int8", found)[4] == "not listed by its builder"


@pytest.mark.parametrize("good", [True, False])
def test_an_export_ends_with_where_the_report_lies_and_what_to_do_next(
    good: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = {field.name: () for field in dataclasses.fields(Report)}
    out = tmp_path / "a model"
    report = Report(
        **empty | {"explanations": {}, "title": "t", "out": str(out), "oracle": "", "good": good}
    )
    folder = write_report(report, [], out)
    show_report(report)
    printed, news = capsys.readouterr()
    assert f"report: {folder / 'report.md'}" in printed
    assert (folder / "report.md").exists()
    assert (f"compare '{out}'" in news) == good
