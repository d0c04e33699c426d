"""Models of the zoo go the whole way: none ends in an error that was not expected."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.zoo.models import Entry, read_entries
from benchmarks.zoo.onnx_files import DYNAMO, OLDER
from benchmarks.zoo.table import write_table
from benchmarks.zoo.trial import (
    CRASHED,
    HELD_BACK,
    NO_FILE,
    REFUSED,
    SHIPPED,
    Record,
    Settings,
    decode,
    encode,
    try_model,
)

_FP32_ERROR = 1e-3
_SETTINGS = Settings(("fp32", "int8"))
_REFUSED = {"ViTMAEModel": "its batch of 1 is built in"}
"""Files that are refused, and rightly: the reason that the error gives."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("zoo")


@pytest.mark.parametrize("entry", read_entries(), ids=lambda entry: entry.name)
@pytest.mark.parametrize("door", [OLDER, DYNAMO])
def test_every_model_ends_as_expected(entry: Entry, door: str, folder: Path) -> None:
    record = try_model(entry, door, _SETTINGS, folder)
    if entry.name in _REFUSED:
        assert record.outcome == REFUSED
        assert _REFUSED[entry.name] in record.error
        return
    assert record.outcome in (SHIPPED, HELD_BACK, NO_FILE), record.error
    if record.outcome == NO_FILE:
        pytest.skip(f"PyTorch's exporter: {record.error[:100]}")
    assert record.fp32_error is not None
    assert record.fp32_error < _FP32_ERROR
    assert record.precisions["int8"]["quantised"]["all"] > 0


def test_a_record_comes_back_as_it_was_and_fills_a_row(tmp_path: Path) -> None:
    int8 = {
        "problem": "", "fallback": ["a.fc1"], "cosine": 0.9991,
        "quantised": {"all": 0.75, "Linears": 0.9, "attention": 0.0},
    }  # fmt: skip
    good = Record("vit", "timm", OLDER, SHIPPED, "", 2e-7, {"int8": int8}, 1, 3.2)
    bad = Record("swin", "timm", DYNAMO, CRASHED, "KeyError at a.py:1: \x1b[96m'x' | y\x1b[0m")
    assert decode(encode(good)) == good
    write_table(tmp_path / "models.md", [good, bad])
    text = (tmp_path / "models.md").read_text()
    assert (
        "| vit | older exporter | shipped | 2e-07 | - | 0.99910 | 75 % (Linears 90, attention 0)"
        in text
    )
    assert "| older exporter | 1 | 1 | 0 | 0 | 0 | 0 | 0 |" in text
    assert "'x' / y" in text, "a bar would end the cell"
