"""Commands that the documents show are ones that the programs take, and places in the source that
documents and docstrings name are there.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import pytest

from vit_edge.runtime.tools.cli import build_parser

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^```(?:sh|bash|console)?\n(.*?)^```", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"^(?:\$ )?(?:\S+=\S+ )*(?:\S*/)?vit-edge ([a-z].*)$")
PACKAGES = ("export", "runtime", "vit", "calibration")
SOURCES = [
    file for package in (*PACKAGES, "benchmarks") for file in sorted((ROOT / package).rglob("*.py"))
]
_FILE = re.compile(rf"\b(?:{'|'.join(PACKAGES)}|benchmarks|tests)/[\w/]+\.py\b")
_NAME = re.compile(rf"`((?:{'|'.join(PACKAGES)})(?:\.(?!json|npy)\w+)+)`")


def commands(document: Path) -> Iterator[list[str]]:
    """The arguments of each whole command in a document's blocks."""
    for block in _BLOCK.findall(document.read_text()):
        for line in block.replace("\\\n", " ").splitlines():
            match = _COMMAND.match(line)
            if match is None or re.search(r"\.\.\.|\[", line):  # a pattern, not a command
                continue
            words = shlex.split(match[1], comments=True)
            ends = [i for i, word in enumerate(words) if word in ("|", "&", "&&", ">", ";", "2>&1")]
            yield words[: min(ends, default=len(words))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: file.stem)
def test_commands_have_the_options_that_are_shown(
    document: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parser, wrong = build_parser(), list[str]()
    for words in commands(document):
        try:
            parser.parse_args(words)
        except SystemExit as ended:
            if ended.code:
                wrong.append(f"vit-edge {shlex.join(words)}: {capsys.readouterr().err}")
    assert not wrong


def test_they_are_found() -> None:
    assert sum(len(list(commands(document))) for document in DOCUMENTS) > 25


def is_there(name: str) -> bool:
    """True for a module of ours, and for what one holds, as `runtime.files.Folder.read`."""
    words = name.split(".")
    held = import_module("vit_edge")
    for number, word in enumerate(words):
        with suppress(ModuleNotFoundError):
            held = import_module(f"vit_edge.{'.'.join(words[: number + 1])}")
            continue
        if not hasattr(held, word) and word not in getattr(held, "__annotations__", {}):
            return False
        held = getattr(held, word, None)
    return True


def test_files_that_are_named_exist() -> None:
    named = {
        (name, file) for file in (*DOCUMENTS, *SOURCES) for name in _FILE.findall(file.read_text())
    }
    assert len(named) > 50
    assert not [f"{name} in {file}" for name, file in named if not (ROOT / name).is_file()]


def test_modules_that_are_named_exist() -> None:
    named = {(name, file) for file in SOURCES for name in _NAME.findall(file.read_text())}
    assert len(named) > 20
    assert not [f"{name} in {file}" for name, file in named if not is_there(name)]
