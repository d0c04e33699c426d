"""Looks up installed libraries without importing them: applications only pay for their backend."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from sys import modules

_METADATA = ".dist-info"


def is_installed(module: str) -> bool:
    """Returns true if a top-level module can be imported, judging by its files."""
    if module in modules:  # None there stands for "cannot be imported"
        return modules[module] is not None
    try:
        return find_spec(module) is not None
    except ImportError:  # an import hook may refuse it
        return False


def installed_version(*distributions: str) -> str | None:
    """Returns the recorded version of the first of these that is installed; None if none is.

    Most versions are read from the name of a folder, `name-version.dist-info`: reading its files
    would import all of `email`, 20 ms of an application's start.
    """
    for distribution in distributions:
        recorded = _version_of_folder(distribution)
        if recorded is not None:
            return recorded
    from importlib.metadata import PackageNotFoundError, version

    for distribution in distributions:
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return None


def _version_of_folder(distribution: str) -> str | None:
    """Returns the version in the name of the first metadata folder on the path; None if none."""
    normal_name = _normalised(distribution)
    for entry in sys.path:
        try:
            names = os.listdir(entry or ".")
        except OSError:  # an archive, or a folder that is no longer there
            continue
        for name in names:
            if name.endswith(_METADATA):
                project, _, version = name.removesuffix(_METADATA).partition("-")
                if version and _normalised(project) == normal_name:
                    return version
    return None


def _normalised(name: str) -> str:
    """Normalises a distribution's name. Source: PEP 503, and PEP 427, which writes `-` as `_`."""
    return name.lower().replace("-", "_").replace(".", "_")
