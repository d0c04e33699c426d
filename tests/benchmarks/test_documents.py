from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.documents import put_into
from vit_edge.runtime.errors import InputError


def test_tables_take_the_place_of_the_old_ones(tmp_path: Path) -> None:
    document, tables = tmp_path / "page.md", "| a | b |\n"
    others = "<!-- cost -->\nstays\n<!-- /cost -->\n"
    begin, end = "<!-- speed -->", "<!-- /speed -->"
    document.write_text(f"{others}before\n{begin}\nold\n{end}\nafter\n")
    put_into(document, "speed", tables)
    put_into(document, "speed", tables)  # finds its marks again
    assert document.read_text() == f"{others}before\n{begin}\n{tables}{end}\nafter\n"


def test_a_document_without_marks_is_refused(tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text("no marks")
    with pytest.raises(InputError, match="has no lines"):
        put_into(document, "speed", "| a |\n")
    assert document.read_text() == "no marks"
