from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib.style
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from vit_edge.runtime.schema import encode
from vit_edge.runtime.tools.cli import main
from vit_edge.runtime.tools.compare.command import default_folder, write_reports
from vit_edge.runtime.tools.compare.comparison import Comparison, Recommendation
from vit_edge.runtime.tools.report import draw_report
from vit_edge.runtime.tools.report.charts import (
    draw_batches,
    draw_engines,
    draw_latency,
    draw_pareto,
    draw_sensitivity,
)
from vit_edge.runtime.tools.report.devices import name_devices
from vit_edge.runtime.tools.report.look import DARK, INK, NARROW, SETTINGS, SOFT, WIDE, Key, Look
from vit_edge.runtime.tools.report.slow import draw_slow

from ..tools.profile.works import not_faster, work
from .tables import MACHINE, UNITS, comparison, failed, row

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&amp;$\\frac{"
VOID = {"meta", "link", "img", "br", "source"}


class Page(HTMLParser):
    """Tags and words of a page, whose tags nest; `svgs` are its pictures."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []
        addresses = [a["src" if t == "img" else "srcset"] for t, a in self.pictures()]
        assert all(address.startswith("data:image/svg+xml;base64,") for address in addresses)
        self.svgs = [base64.b64decode(address.split(",")[1]).decode() for address in addresses]

    def pictures(self) -> list[tuple[str, dict[str, str]]]:
        return [(tag, attributes) for tag, attributes in self.tags if tag in ("img", "source")]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def full(**other: Any) -> Comparison:
    rows = [
        row("int8", 1.0, 6e-3),
        row("fp32", 1.9, 2e-7, size=3 << 20),
        row("fp16", 2.2, 2e-4, backend="openvino", size=2 << 20),
        row("int8", 6.0, 6e-3, batch=8, scenario="Offline", images_per_s=133.0),
        row("fp32", 12.0, 2e-7, batch=8, scenario="Offline", images_per_s=66.0),
        failed("int4"),
    ]
    notes = ("The machine was busy.",)
    return replace(comparison(*rows, sensitivities={"int8": UNITS}, notes=notes), **other)


FP32 = work("fp32", p32=8.0, elementwise=2.0)
SLOW = (
    not_faster(work("int8", p8=4.0, casts=3.0, elementwise=2.0, moves=1.0, quantised=0.8), FP32),
    not_faster(work("fp16", p32=8.0, casts=3.0, elementwise=2.0, other=0.2), FP32),
    not_faster(
        work("int8_attention", "tensorrt-rtx", p4=0.5, p8=1.0, p16=0.1, launches=2.0),
        work("fp16", "tensorrt-rtx", p16=2.0, launches=1.0),
    ),
)


def elsewhere(cpu: str, **other: Any) -> Comparison:
    return full(machine=replace(MACHINE, cpu=cpu), **other)


@pytest.fixture(scope="module")
def html() -> str:
    return draw_report([full()])


def test_the_page_needs_nothing_but_itself(html: str) -> None:
    page = Page(html)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert not any("href" in a or any(n.startswith("on") for n in a) for _, a in page.tags)
    assert not re.search(r"url\(|@import|https?:", html)
    for svg in page.svgs:
        assert not re.search(r"<image|<script|href=\"[^#]|url\([^#]", svg)
    assert len(html) < 800_000
    assert html == draw_report([full()])


def test_it_holds_recommendation_charts_numbers_and_conditions_in_this_order(html: str) -> None:
    text = Page(html).text
    places = [
        text.index(heading)
        for heading in (
            "Recommended on Cortex", "int8 on onnxruntime", "The machine was busy.",
            "Accuracy against latency", "Engines side by side", "bundle 0123456789abcdef",
            "Latency", "Throughput over batch size", "Sensitivity to int8", "All numbers",
            "failed: the graph is refused", "How this was measured", "115 to 1510 MHz",
            "tensorrt is not installed",
        )
    ]  # fmt: skip
    assert places == sorted(places)


def test_every_chart_has_a_text_alternative_and_is_light_and_dark_wide_and_narrow(
    html: str,
) -> None:
    page = Page(html)
    images = [attributes for tag, attributes in page.pictures() if tag == "img"]
    assert len(images) == 5
    assert all(len(image["alt"]) > 60 for image in images)
    sources = [a["media"] for tag, a in page.pictures() if tag == "source"]
    assert len(sources) == 15
    assert sum("dark" in media for media in sources) == 10
    assert sum("max-width" in media for media in sources) == 10
    assert len(set(page.svgs)) == 20
    for media, svg in zip([a.get("media", "") for _, a in page.pictures()], page.svgs, strict=True):
        ElementTree.fromstring(svg)
        light, dark = (INK, SOFT), (DARK[INK], DARK[SOFT])
        assert any(colour in svg for colour in (dark if "dark" in media else light))
        assert not any(colour in svg for colour in (light if "dark" in media else dark))


def test_precisions_that_are_not_faster_have_a_table_each_and_a_chart() -> None:
    page = Page(draw_report([full(not_faster=SLOW)]))
    places = [
        page.text.index(words)
        for words in (
            "Where the time goes", "int8 on onnxruntime is not faster than fp32",
            "quantising, dequantising and casts take 3 ms, in fp32 0 ms.", "3.00 ms, 30 %",
            "From a clock.", "fp16 on onnxruntime is not faster than fp32",
            "int8_attention on tensorrt-rtx is not faster than fp16", "All numbers",
        )
    ]  # fmt: skip
    assert places == sorted(places)
    images = [attributes["alt"] for tag, attributes in page.pictures() if tag == "img"]
    (said,) = [alt for alt in images if alt.startswith("Where the time goes")]
    assert said.count("fp32 · onnxruntime") == 1
    assert "int8 · onnxruntime: 8-bit products 4 ms, quantise, dequantise, cast 3 ms" in said


def test_what_was_not_profiled_has_no_chart() -> None:
    blind = not_faster(work("int8", problem="no counters", shares={}), FP32)
    (device,) = name_devices([comparison(row("int8", 1.0, 1e-3), not_faster=(blind,))])
    assert draw_slow(device) is None
    assert "no counters" in Page(draw_report([device.comparison])).text


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.filterwarnings("error")
def test_nothing_of_a_chart_is_clipped(width: float) -> None:
    long = "NVIDIA Jetson AGX Orin Developer Kit with all of its words (aarch64, 12 cores)"
    rows = [row(f"{p}_attention", 1.0 + i, 10.0**-i) for i, p in enumerate(("int8", "fp8", "int4"))]
    rows += [replace(r, batch=16, images_per_s=123456.0) for r in rows]
    devices = name_devices([comparison(*rows, machine=replace(MACHINE, cpu=long)), full()])
    charts = [draw_pareto(devices), draw_engines(devices), draw_sensitivity("int8", UNITS)]
    charts += [draw(device) for draw in (draw_latency, draw_batches) for device in devices]
    slow = comparison(*rows, not_faster=SLOW)
    charts.append(draw_slow(name_devices([slow])[0]))
    key = Key.of(r for device in devices for r in device.comparison.rows)
    for chart in charts:
        assert chart is not None
        with matplotlib.style.context(["default", SETTINGS]):
            figure = chart.draw(Look(width, key))
            FigureCanvasAgg(figure).draw()
        renderer = figure.canvas.get_renderer()
        titles = [text.get_window_extent(renderer) for axes in figure.axes for text in axes.texts]
        boxes = [box.transformed(figure.dpi_scale_trans.inverted()) for box in titles]
        for box in (figure.get_tightbbox(renderer), *boxes):
            assert box.x0 >= 0, chart.heading
            assert box.y0 >= 0, chart.heading
            assert box.x1 <= figure.get_figwidth() + 0.01, chart.heading
            assert box.y1 <= figure.get_figheight() + 0.01, chart.heading


def test_devices_are_compared_in_one_page_each_with_its_recommendation() -> None:
    slow = comparison(
        row("fp16", 9.0, 2e-4, backend="openvino"), row("fp8_attention", 30.0, 5e-3),
        machine=replace(MACHINE, cpu="Raspberry Pi 5"), name="vit_tiny",
    )  # fmt: skip
    page = Page(draw_report([full(), slow]))
    heading = page.text.index("Engines side by side")
    for cpu, chosen in (
        (MACHINE.cpu, "int8 on onnxruntime"),
        ("Raspberry Pi 5", "fp16 on openvino"),
    ):
        assert page.text.index(f"Recommended on {cpu}") < page.text.index(chosen) < heading
        assert sum(cpu in a["alt"] for tag, a in page.pictures() if tag == "img") >= 2
    for precision in ("int8", "fp32", "fp16", "int4", "fp8_attention"):
        assert page.text.count(f"{precision} · ") >= 2  # in both tables
    assert sum("Raspberry Pi 5" in svg for svg in page.svgs) == 8


@pytest.mark.parametrize(
    ("comparisons", "names"),
    [
        ([full(), elsewhere("Pi")], [MACHINE.cpu, "Pi"]),
        ([elsewhere("Pi"), elsewhere("Pi", name="deit")], ["Pi · vit_small", "Pi · deit"]),
        (
            [elsewhere("Pi"), elsewhere("Pi", made="2026-01-02T05:00:00+00:00"), full()],
            ["Pi · 2026-01-02 03:04 UTC", "Pi · 2026-01-02 05:00 UTC", MACHINE.cpu],
        ),
        ([elsewhere("Pi"), elsewhere("Pi")], ["Pi · no. 1", "Pi · no. 2"]),
        ([elsewhere("Pi", devices={"tensorrt": "L4", "openvino": "Pi"})], ["L4, Pi"]),
    ],
)
def test_devices_are_named_by_what_tells_them_apart(
    comparisons: list[Comparison], names: list[str]
) -> None:
    assert [device.name for device in name_devices(comparisons)] == names


def test_a_precision_that_nobody_knew_has_a_colour_of_its_own() -> None:
    precisions = ("fp32", "fp16", "int8", "int8_attention", "fp4")
    key = Key.of(row(precision, 1.0, 1e-3) for precision in precisions)
    colours = {Look(WIDE, key).colour(precision) for precision in precisions}
    assert len({DARK[colour] for colour in colours}) == 5
    many = Key.of(row(f"new{i}", 1.0, 1e-3) for i in range(20))
    assert Look(WIDE, many).colour("new19") == Look(WIDE, many).colour("new18")


def test_text_of_a_report_cannot_inject_markup() -> None:
    rows = (row(HOSTILE, 1.0, 1e-3, backend=HOSTILE), replace(failed("a"), status=HOSTILE))
    hostile = elsewhere(
        HOSTILE, name=HOSTILE, made=HOSTILE, bundle=HOSTILE, notes=(HOSTILE,), rows=rows,
        not_run={HOSTILE: HOSTILE}, devices={HOSTILE: f"a{HOSTILE}"},
        recommendation=Recommendation(HOSTILE, HOSTILE, HOSTILE),
        sensitivities={HOSTILE: (replace(UNITS[0], unit=f"blocks.0.{HOSTILE[:30]}"),)},
    )  # fmt: skip
    page = Page(draw_report([hostile, full()]))
    assert "script" not in {tag for tag, _ in page.tags}
    assert all(a.keys() <= {"src", "alt"} for tag, a in page.tags if tag == "img")
    assert page.text.count("alert(1)") > 15
    for svg in page.svgs:
        ElementTree.fromstring(svg)
        assert "<script" not in svg


@pytest.mark.parametrize(
    "scarce",
    [
        comparison(failed("fp32")),
        comparison(row("fp32", 1.0, 2e-7)),
        comparison(row("fp32", 1.0, None, speedup=None, agreement=None, top1=None)),
        comparison(row("fp32", 1.0, 0.0), row("int8", 1.0, 0.0)),
        comparison(row("fp32", 1e-6, 1e-9), row("int8", 1e7, 900.0)),
        replace(
            full(), recommendation=Recommendation("fp9", "none", "a stranger"), distributions=()
        ),
    ],
    ids=["none right", "one", "no accuracy", "identical", "extreme", "unknown recommendation"],
)
@pytest.mark.filterwarnings("error")
def test_a_page_is_drawn_of_whatever_there_is(scarce: Comparison) -> None:
    text = Page(draw_report([scarce])).text
    assert "nan" not in text
    assert ("Nothing to recommend" in text) is (scarce.recommendation.precision is None)


def test_only_columns_that_somebody_filled_are_shown(html: str) -> None:
    assert "device ms" not in html
    assert "device ms" in draw_report([comparison(row("fp32", 1.0, 1e-7, device_ms=9.5))])


def test_both_reports_are_written_and_written_again(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "reports"
    for precision in ("fp32", "int8"):
        page = write_reports(comparison(row(precision, 1.0, 1e-3)), folder)
        assert f"{precision} on onnxruntime" in page.read_text()
        written = json.loads((folder / "report.json").read_text())
        assert written["rows"][0]["precision"] == precision
    assert sorted(p.name for p in folder.iterdir()) == ["report.html", "report.json"]
    assert (folder / "report.html").stat().st_mode & 0o777 == 0o644


def test_the_reports_lie_beside_the_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vit").mkdir()
    monkeypatch.chdir(tmp_path / "vit")
    assert default_folder(Path(".")) == tmp_path / "vit.compare"


def test_the_command_draws_several_files_also_of_earlier_versions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = comparison(row("fp32", 1.0, 1e-7))
    earlier = json.loads(encode(replace(few, machine=replace(MACHINE, cpu="Pi"))))
    del earlier["devices"]
    (tmp_path / "a.json").write_text(json.dumps(earlier))
    (tmp_path / "b.json").write_text(encode(few))
    out = tmp_path / "pages" / "all.html"
    files = [str(tmp_path / name) for name in ("a.json", "b.json")]
    assert main(["report", *files, "--out", str(out)]) == 0
    assert f"report: {out}" in capsys.readouterr().err
    assert {"Recommended on Pi", f"Recommended on {MACHINE.cpu}"} <= set(
        re.findall(r"Recommended on [^<]+", out.read_text())
    )
    before = out.read_bytes()
    (tmp_path / "b.json").write_text("{")
    assert main(["report", *files, "--out", str(out)]) == 2
    assert out.read_bytes() == before
    assert main(["report", files[0], "--out", str(tmp_path)]) == 2
    assert f"{tmp_path} cannot be written (" in capsys.readouterr().err


def without_rows(report: dict[str, Any]) -> None:
    del report["rows"]


def of_a_newer_version(report: dict[str, Any]) -> None:
    report |= {"version": 2, "colours": 3}


def of_an_export(report: dict[str, Any]) -> None:
    del report["version"]


def with_half_an_interval(report: dict[str, Any]) -> None:
    report["rows"][0]["p50_interval"].pop()


def with_a_latency_below_0(report: dict[str, Any]) -> None:
    report["rows"][0]["p90_ms"] = -1.0


def with_few_quantiles(report: dict[str, Any]) -> None:
    report["distributions"][0]["quantiles_ms"] = [1.0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (without_rows, "missing fields ['rows']"),
        (of_a_newer_version, "was made by a newer version of vit-edge (report version 2"),
        (of_an_export, "is not a report of `vit-edge compare`: it has no report version"),
        (with_half_an_interval, "an interval has two ends"),
        (with_a_latency_below_0, "above 0"),
        (with_few_quantiles, "1 quantiles, not 100"),
    ],
)
def test_a_file_that_is_no_report_is_refused_by_name(
    change: Callable[[dict[str, Any]], None], reason: str,
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    report = json.loads(encode(full()))
    change(report)
    path = tmp_path / "other.json"
    path.write_text(json.dumps(report))
    assert main(["report", str(path), "--out", str(tmp_path / "page.html")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"vit-edge: {path} ")
    assert reason in line
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    "junk", [b"", b"{", b"\xff", b"[" * 100_000, b"[]", b"null", b'{"a": NaN}']
)
def test_a_damaged_file_is_refused_by_name(
    junk: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(junk)
    assert main(["report", str(path)]) == 2
    assert f"{path} is not a report of `vit-edge compare`" in capsys.readouterr().err
    path.unlink()
    assert main(["report", str(path)]) == 2
    assert f"{path} cannot be read (No such file" in capsys.readouterr().err
