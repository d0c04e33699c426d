"""Names of classes, in the forms that files give them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vit_edge.runtime.errors import InputError

_WNID = re.compile(r"(n\d{8})[\s,]+(\S.*)")
"""A line of ImageNet's synset_words.txt."""
_INDEXED = re.compile(r"(\d+)[\s:,]+(\S.*)")
_FORMS = (
    "a line for each class; or JSON: a list of names, {index: name}, {folder or name: index}, "
    "{index: [wnid, name]}, or an object with id2label"
)


@dataclass(frozen=True)
class Labels:
    """Names of the classes, and of the folders of their images.

    Attributes:
        names: By class index; None where the file maps folders only.
        folders: Pairs of a folder's name and the class index that its images have.
    """

    names: tuple[str, ...] | None
    folders: tuple[tuple[str, int], ...] = ()


def read_labels(path: Path) -> Labels:
    """Reads the file of `--labels`.

    Raises:
        InputError: if it cannot be read, has gaps, or is of no known form.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        json_like = path.suffix.lower() == ".json" or text.lstrip()[:1] in ("{", "[")
        value = json.loads(text) if json_like else text.rstrip().split("\n")
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"--labels {path} cannot be read ({error})") from None
    try:
        return _from_lines(value) if not json_like else _from_json(value)
    except ValueError as error:
        raise InputError(f"--labels {path}: {error}. Give {_FORMS}") from None


def names_of(value: Any) -> tuple[str, ...] | None:
    """Returns class names from a list or mapping that a training saved; None if it is no such."""
    try:
        return _from_json(value).names
    except ValueError:
        return None


def overruled_labels(names: Sequence[str], others: Sequence[str], origin: str) -> str:
    """Says in words how the names that the user gives differ from those that `origin` has, which
    they replace; "" where they are the same.
    """
    if len(names) != len(others):
        return f"class names are the {len(names)} that are given; {origin} has {len(others)}"
    pairs = enumerate(zip(names, others, strict=True))
    differing = [k for k, (name, other) in pairs if name != other]
    if not differing:
        return ""
    how = (
        f"in another order than {origin} has them"
        if sorted(names) == sorted(others)
        else f"{len(differing)} of {len(names)} others than {origin} has"
    )
    first = differing[0]
    return (
        f"class names are those that are given, {how}: class {first} is {names[first]!r}, and "
        f"{others[first]!r} there"
    )


def _from_lines(lines: Sequence[str]) -> Labels:
    stripped = [line.strip() for line in lines]
    gap = next((number for number, line in enumerate(stripped, 1) if not line), None)
    if gap is not None:
        raise ValueError(f"line {gap} is empty: it is not a list of names without gaps")
    if all(matches := [_WNID.fullmatch(line) for line in stripped]):
        pairs = [match.groups() for match in matches if match]
        return Labels(
            tuple(name for _, name in pairs), tuple((wnid, k) for k, (wnid, _) in enumerate(pairs))
        )
    if all(matches := [_INDEXED.fullmatch(line) for line in stripped]):
        numbered = {int(match[1]): match[2] for match in matches if match}
        if sorted(numbered) == list(range(len(stripped))):
            return Labels(tuple(numbered[index] for index in range(len(stripped))))
    return Labels(tuple(stripped))


def _from_json(value: Any) -> Labels:
    if isinstance(value, list | tuple):
        if not value or not all(isinstance(name, str) and name.strip() for name in value):
            raise ValueError("it is not a list of names without gaps")
        return Labels(tuple(name.strip() for name in value))
    if not isinstance(value, Mapping) or not value:
        raise ValueError("it is neither a list of names nor an object")
    for group in ("id2label", "label2id"):
        if isinstance(value.get(group), Mapping):
            return _from_json(value[group])
    if all(type(index) is int for index in value.values()):
        return _from_folders(value)
    return _from_indices(value)


def _from_folders(value: Mapping[Any, int]) -> Labels:
    """{folder or name: index}; they are the classes' names too where each index has one."""
    folders = tuple((str(name), index) for name, index in value.items())
    if min(index for _, index in folders) < 0:
        raise ValueError("it has indices below 0")
    by_index = {index: name for name, index in folders}
    complete = len(by_index) == len(folders) and sorted(by_index) == list(range(len(folders)))
    numbers = all(name.isdecimal() for name, _ in folders)
    names = tuple(by_index[k] for k in range(len(folders))) if complete and not numbers else None
    return Labels(names, folders)


def _from_indices(value: Mapping[Any, Any]) -> Labels:
    """{index: name} or {index: [wnid, name]}, as imagenet_class_index.json."""
    try:
        by_index = {int(index): name for index, name in value.items()}
    except (TypeError, ValueError):
        raise ValueError("it maps neither indices to names nor names to indices") from None
    missing = [index for index in range(len(by_index)) if index not in by_index]
    if missing:
        raise ValueError(
            f"it has {len(by_index)} entries and none for class {missing[0]}: indices are 0 to "
            "the number of classes - 1"
        )
    entries = [by_index[index] for index in range(len(by_index))]
    if all(isinstance(entry, str) and entry.strip() for entry in entries):
        return Labels(tuple(entry.strip() for entry in entries))
    if all(
        isinstance(entry, list | tuple)
        and len(entry) == 2
        and all(isinstance(n, str) for n in entry)
        for entry in entries
    ):
        folders = tuple((entry[0], index) for index, entry in enumerate(entries))
        return Labels(tuple(entry[1] for entry in entries), folders)
    raise ValueError("it is not a list of names without gaps")
