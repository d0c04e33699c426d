from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from vit_edge.runtime.tools.compare.comparison import Comparison, Recommendation
from vit_edge.runtime.tools.compare.page import draw_page

from .tables import UNITS, comparison, failed, row

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&amp;"
VOID = {"meta", "link", "img", "br", "input"}


class Reader(HTMLParser):
    """Collects the tags and fails where they do not nest."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


def full() -> Comparison:
    rows = [
        row("int8", 1.0, 6e-3),
        row("fp32", 1.9, 2e-7, size=3 << 20),
        row("fp16", 2.2, 2e-4, backend="openvino", size=2 << 20),
        row("int8", 6.0, 6e-3, batch=8, scenario="Offline", images_per_s=133.0),
        row("fp32", 12.0, 2e-7, batch=8, scenario="Offline", images_per_s=66.0),
        failed("int4"),
    ]
    return comparison(*rows, sensitivities={"int8": UNITS}, notes=("The machine was busy.",))


def pictures(page: str) -> list[str]:
    return re.findall(r"<svg.*?</svg>", page, re.DOTALL)


def test_the_page_needs_nothing_but_itself() -> None:
    page = draw_page(full())
    tags = read(page).tags
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in tags}
    assert not any(name in ("src", "href") or name.startswith("on") for _, a in tags for name in a)
    assert "url(" not in page
    assert "@import" not in page
    assert len(page) < 100_000


def test_it_holds_recommendation_pictures_numbers_and_conditions_in_this_order() -> None:
    words = " ".join(read(draw_page(full())).words)
    places = [
        words.index(heading)
        for heading in (
            "Recommended on this device", "int8 on onnxruntime", "The machine was busy.",
            "Accuracy against latency", "Speed-up", "Batches", "Size", "Sensitivity to int8",
            "All numbers", "failed: the graph is refused", "How this was measured",
            "115 to 1510 MHz", "tensorrt is not installed",
        )
    ]  # fmt: skip
    assert places == sorted(places)


def test_every_picture_is_well_formed_and_has_a_text_alternative() -> None:
    found = pictures(draw_page(full()))
    assert len(found) == 6
    for picture in found:
        root = ElementTree.fromstring(picture)
        assert root.attrib["role"] == "img"
        assert len(root.attrib["aria-label"]) > 20
        assert root.find("title") is not None
        assert root.find("desc") is not None


def test_nothing_in_a_picture_lies_outside_of_it() -> None:
    for picture in pictures(draw_page(full())):
        root = ElementTree.fromstring(picture)
        _, _, width, height = map(float, root.attrib["viewBox"].split())
        for node in root.iter():
            for name, most in (("x", width), ("x1", width), ("x2", width), ("y", height)):
                assert -0.01 <= float(node.attrib.get(name, 0)) <= most + 0.01, node.attrib


@pytest.mark.parametrize(
    "hostile",
    [
        replace(full(), name=HOSTILE),
        replace(full(), not_run={HOSTILE: HOSTILE}),
        replace(full(), notes=(HOSTILE,)),
        replace(full(), recommendation=Recommendation("int8", "onnxruntime", HOSTILE)),
        comparison(row(HOSTILE, 1.0, 1e-3), row("fp32", 2.0, 1e-7)),
        comparison(row("fp32", 1.0, 1e-7), replace(failed(HOSTILE), status=HOSTILE)),
        replace(
            full(), sensitivities={HOSTILE: (replace(UNITS[0], unit=f"blocks.0.{HOSTILE[:30]}"),)}
        ),
        replace(full(), machine=replace(full().machine, cpu=HOSTILE, versions={"a": HOSTILE})),
    ],
    ids=["name", "not_run", "note", "why", "precision", "status", "sensitivity", "machine"],
)
def test_what_comes_from_a_bundle_cannot_inject_markup(hostile: Comparison) -> None:
    reader = read(draw_page(hostile))
    assert not {"script", "img"} & {tag for tag, _ in reader.tags}
    assert not any(name.startswith("on") for _, attrs in reader.tags for name in attrs)
    assert "alert(1)" in " ".join(reader.words)  # shown as text
    for picture in pictures(draw_page(hostile)):
        ElementTree.fromstring(picture)


@pytest.mark.parametrize(
    "scarce",
    [
        comparison(failed("fp32")),
        comparison(row("fp32", 1.0, 2e-7)),
        comparison(row("fp32", 1.0, None, speedup=None, agreement=None, top1=None)),
        comparison(row("fp32", 1.0, 0.0), row("int8", 1.0, 0.0)),
        comparison(row("fp32", 1e-6, 1e-9), row("int8", 1e7, 900.0)),
    ],
    ids=["none right", "one", "no accuracy", "identical", "extreme"],
)
def test_a_page_is_drawn_of_whatever_there_is(scarce: Comparison) -> None:
    words = " ".join(read(draw_page(scarce)).words)
    assert "nan" not in words
    assert ("Nothing to recommend" in words) is (scarce.recommendation.precision is None)


def test_only_columns_that_somebody_filled_are_shown() -> None:
    assert "device ms" not in draw_page(full())
    assert "device ms" in draw_page(comparison(row("fp32", 1.0, 1e-7, device_ms=9.5)))
