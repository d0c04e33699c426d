"""The one rule by which folders of images are classes of a model: in training, export and run.

A class is known by its name. Where no names are known, folders named 0, 1, 2, ... are indices,
and all others are in the order of their names as text, as torchvision's ImageFolder has them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..errors import InputError

_SHOWN = 8
_WNID = re.compile(r"n\d{8}")
REMEDY = (
    "name the folders as the classes, or say which is which with --labels FILE, a JSON object of "
    "folder to class index"
)


@dataclass(frozen=True)
class ClassMatch:
    """Classes of folders.

    Attributes:
        indices: The class index of each folder.
        how: How it was found, in words.
        assumed: Tells that nothing but the order of the names says so.
    """

    indices: tuple[int, ...]
    how: str
    assumed: bool = False


def order_classes(names: Iterable[str]) -> tuple[str, ...]:
    """Returns names in the order in which a training counts them: by number if they are exactly 0
    to N - 1, else as text.
    """
    ordered = sorted(names)
    if all(name.isdecimal() for name in ordered):
        numbers = sorted(ordered, key=int)
        if [int(name) for name in numbers] == list(range(len(numbers))):
            return tuple(numbers)
    return tuple(ordered)


def match_folders(
    source: str,
    folders: Sequence[str],
    known: Sequence[str] | None,
    classes: int,
    mapping: Mapping[str, int] | None = None,
) -> ClassMatch:
    """Finds the classes that folders of images are.

    Args:
        source: The folders' own folder, in words, for messages.
        folders: Their names.
        known: Names of the model's classes, by index, where they are known.
        classes: The number of the model's classes.
        mapping: Class indices by folder, where the user gives them.

    Raises:
        InputError: if one cannot be matched, showing both lists and what to do.
    """
    if mapping is not None and any(name in mapping for name in folders):
        return _by_mapping(source, folders, classes, mapping)
    if known is not None:
        match = _by_name(source, folders, known)
        if match is not None:
            return match
    if all(name.isdecimal() and int(name) < classes for name in folders):
        return ClassMatch(tuple(int(name) for name in folders), "read as class indices")
    wnids = all(_WNID.fullmatch(name) for name in folders)
    if known is not None and not (wnids and len(folders) == classes == len(known) == 1000):
        raise InputError(
            f"the class folders of {source} ({_listed(order_classes(folders))}) are none of the "
            f"model's {classes} classes ({_listed(known)}): {REMEDY}"
        )
    if len(folders) != classes:
        raise InputError(
            f"{source} has {len(folders)} class folders ({_listed(order_classes(folders))}), the "
            f"model {classes} classes, whose names are not known: give a folder for each class, "
            "or name the folders by class index or as the model's classes (--labels gives these), "
            "or give --labels FILE, a JSON object of folder to class index"
        )
    order = order_classes(folders)
    how = "wnids in ImageNet's order" if wnids else "in the order of their names"
    return ClassMatch(tuple(order.index(name) for name in folders), how, assumed=True)


def _by_mapping(
    source: str, folders: Sequence[str], classes: int, mapping: Mapping[str, int]
) -> ClassMatch:
    missing = [name for name in folders if name not in mapping]
    if missing:
        raise InputError(
            f"{source} has class folders that --labels does not map: {_listed(missing)} (it maps "
            f"{_listed(list(mapping))})"
        )
    beyond = [f"{name} to {mapping[name]}" for name in folders if mapping[name] >= classes]
    if beyond:
        raise InputError(
            f"--labels maps {_listed(beyond)}, the model's {classes} classes are 0 to {classes - 1}"
        )
    return ClassMatch(tuple(mapping[name] for name in folders), "as --labels maps them")


def _by_name(source: str, folders: Sequence[str], known: Sequence[str]) -> ClassMatch | None:
    """Matches by name; None where not one folder has a class's name."""
    for how, forms in _FORMS:
        places = defaultdict[str, list[int]](list)
        for index, name in enumerate(known):
            for form in forms(name):
                places[form].append(index)
        matches = [places.get(next(iter(forms(name)), ""), []) for name in folders]
        if all(matches):
            break
        if how == _FORMS[-1][0]:
            if not any(matches):
                return None
            unmatched = [n for n, match in zip(folders, matches, strict=True) if not match]
            raise InputError(
                f"{source} has class folders that are none of the model's {len(known)} classes: "
                f"{_listed(unmatched)} (the model knows {_listed(known)}): {REMEDY}"
            )
    several = [n for n, match in zip(folders, matches, strict=True) if len(set(match)) > 1]
    if several:
        places_of = ", ".join(map(str, matches[folders.index(several[0])]))
        raise InputError(
            f"{source}: {several[0]} is the name of several of the model's classes ({places_of}): "
            f"{REMEDY}"
        )
    indices = tuple(match[0] for match in matches)
    twice = [n for n, index in zip(folders, indices, strict=True) if indices.count(index) > 1]
    if twice:
        name = known[indices[folders.index(twice[0])]]
        raise InputError(f"{source}: {', '.join(twice[:2])} are both the class {name}: {REMEDY}")
    return ClassMatch(indices, how)


def _exact(name: str) -> tuple[str, ...]:
    return (name,)


def _plain(name: str) -> tuple[str, ...]:
    """The name without case and separators, and each of several names between commas."""
    parts = [name, *name.split(",")] if "," in name else [name]
    return tuple(dict.fromkeys(re.sub(r"[\W_]+", " ", part).strip().casefold() for part in parts))


_FORMS = (
    ("matched by name", _exact),
    ("matched by name, whatever case and separators", _plain),
)


def _listed(names: Sequence[str]) -> str:
    more = f", ... {len(names)} in all" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
