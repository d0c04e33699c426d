from __future__ import annotations

import json
from pathlib import Path

import pytest

from vit_edge.runtime.tools.compare.files import default_folder, write_reports

from .tables import comparison, row


def test_the_reports_lie_beside_the_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert default_folder(Path("build/vit")) == tmp_path / "build" / "vit.compare"
    (tmp_path / "vit").mkdir()
    monkeypatch.chdir(tmp_path / "vit")
    assert default_folder(Path(".")) == tmp_path / "vit.compare"


def test_both_reports_are_written_and_written_again(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "reports"
    for precision in ("fp32", "int8"):
        page = write_reports(comparison(row(precision, 1.0, 1e-3)), folder)
        assert f"{precision} on onnxruntime" in page.read_text()
        told = json.loads((folder / "report.json").read_text())
        assert told["rows"][0]["precision"] == precision
    assert sorted(p.name for p in folder.iterdir()) == ["report.html", "report.json"]
    assert (folder / "report.html").stat().st_mode & 0o777 == 0o644


def test_a_failed_write_leaves_the_earlier_report_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_reports(comparison(row("fp32", 1.0, 1e-3)), tmp_path)
    before = (tmp_path / "report.html").read_text()

    def full(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space"):
        write_reports(comparison(row("int8", 1.0, 1e-3)), tmp_path)
    assert (tmp_path / "report.html").read_text() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "report.json"]
