from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vit_edge.runtime.bundle import Bundle
from vit_edge.runtime.tools.compare.run import read_sensitivities


@pytest.fixture
def report(bundle_source: Path, bundle: Path) -> Path:
    """The export's report beside the copy of its bundle."""
    folder = bundle.with_name(f"{bundle.name}.report")
    shutil.copytree(bundle_source.with_name(f"{bundle_source.name}.report"), folder)
    return folder / "report.json"


def test_the_exports_own_report_is_read(report: Path, bundle: Path) -> None:
    found = read_sensitivities(Bundle.open(bundle))
    assert set(found) == {"int8"}
    assert found["int8"][0].unit == "blocks.0.attn.qkv"
    assert all(unit.error > 0 for unit in found["int8"])
    link = bundle.parent / "current"
    link.symlink_to(bundle)
    assert read_sensitivities(Bundle.open(link)) == found


def test_without_a_report_nothing_is_known(bundle: Path) -> None:
    assert read_sensitivities(Bundle.open(bundle)) == {}


def of_another_export(report: dict[str, Any]) -> None:
    report["results"][0]["graphs"]["cpu"]["outputs"]["logits"]["cosine"] -= 1e-12


def without_a_precision(report: dict[str, Any]) -> None:
    report["results"].pop()


def with_a_text_for_a_number(report: dict[str, Any]) -> None:
    report["results"][-1]["sensitivities"][0]["error"] = "<b>"


def of_another_form(report: dict[str, Any]) -> None:
    report["results"] = {"int8": 1}


@pytest.mark.parametrize(
    "change",
    [of_another_export, without_a_precision, with_a_text_for_a_number, of_another_form],
)
def test_a_report_that_does_not_belong_or_is_damaged_is_not_used(
    change: Callable[[dict[str, Any]], None], report: Path, bundle: Path
) -> None:
    told = json.loads(report.read_text())
    change(told)
    report.write_text(json.dumps(told))
    assert read_sensitivities(Bundle.open(bundle)) == {}


def test_a_report_that_is_no_json_is_not_used(report: Path, bundle: Path) -> None:
    for junk in (b"{", b"\xff", b"[" * 100_000, b"[]", b"null"):
        report.write_bytes(junk)
        assert read_sensitivities(Bundle.open(bundle)) == {}
    report.unlink()
    report.symlink_to("/dev/zero")
    assert read_sensitivities(Bundle.open(bundle)) == {}
