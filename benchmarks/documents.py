"""Tables in documents, each replaced by that of a later run."""

from __future__ import annotations

from pathlib import Path

from vit_edge.runtime.errors import InputError


def put_into(file: Path, name: str, tables: str) -> None:
    """Replaces the text between the lines `<!-- name -->` and `<!-- /name -->`.

    Raises:
        InputError: if the file does not have both.
    """
    first, last = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, begin, rest = file.read_text().partition(first)
    _, end, after = rest.partition(last)
    if not (begin and end):
        raise InputError(f"{file} has no lines {first} and {last}: add them where the tables go")
    file.write_text(f"{before}{first}\n{tables}{last}{after}")
