"""The commands that the documents show are ones that the programs take."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from vit_edge.runtime.tools.cli import build_parser

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^```(?:sh|bash|console)?\n(.*?)^```", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"^(?:\$ )?(?:\S+=\S+ )*(?:\S*/)?vit-edge ([a-z].*)$")


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
