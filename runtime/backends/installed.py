"""Looks installed libraries up without importing them: an application pays for its backend."""

from __future__ import annotations

from importlib.util import find_spec
from sys import modules


def is_installed(module: str) -> bool:
    """Returns true if a top-level module can be imported, judging by its files."""
    if module in modules:  # None there stands for "cannot be imported"
        return modules[module] is not None
    try:
        return find_spec(module) is not None
    except ImportError:  # an import hook may refuse it
        return False


def installed_version(*distributions: str) -> str | None:
    """Returns the recorded version of the first of these that is installed; None if none is."""
    from importlib.metadata import PackageNotFoundError, version  # brings all of `email`

    for distribution in distributions:
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return None
