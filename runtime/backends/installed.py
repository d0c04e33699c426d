"""What is installed, without importing it: an application pays for the one backend that it uses."""

from __future__ import annotations

from importlib.util import find_spec
from sys import modules


def is_installed(module: str) -> bool:
    """Whether a top-level module can be imported, as far as its files tell."""
    if module in modules:  # None there stands for "cannot be imported"
        return modules[module] is not None
    try:
        return find_spec(module) is not None
    except ImportError:  # an import hook may refuse it
        return False


def installed_version(*distributions: str) -> str | None:
    """The version of the first of these that is installed, as its installer recorded it."""
    from importlib.metadata import PackageNotFoundError, version  # brings all of `email`

    for distribution in distributions:
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return None
