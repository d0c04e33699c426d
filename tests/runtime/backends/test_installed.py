"""Versions of installed libraries, told without reading their metadata where that is possible."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import distributions, version
from pathlib import Path

import pytest

from vit_edge.runtime.backends.installed import installed_version


def test_versions_are_those_of_the_metadata() -> None:
    names = {distribution.metadata["Name"] for distribution in distributions()}
    assert len(names) > 20
    assert {name: installed_version(name) for name in names} == {n: version(n) for n in names}


def test_the_first_that_is_installed_counts() -> None:
    assert installed_version("no-such-thing", "numpy") == version("numpy")
    assert installed_version("no-such-thing") is None


def test_names_are_normalised_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("Some_Library-1.2+cpu.dist-info", "some_library_more-3.dist-info"):
        (tmp_path / name).mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert installed_version("some.library") == "1.2+cpu"
    assert installed_version("some-library-more") == "3"
    assert installed_version("library") is None


def test_older_metadata_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Debian packages have it, TensorRT's among them."""
    folder = tmp_path / "old_library-4.5.egg-info"
    folder.mkdir()
    (folder / "PKG-INFO").write_text("Metadata-Version: 1.0\nName: old-library\nVersion: 4.5\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert installed_version("old-library") == "4.5"


def test_an_application_does_not_pay_for_reading_it() -> None:
    code = (
        "import sys; from vit_edge.runtime.backends.installed import installed_version; "
        "assert installed_version('numpy'); print('importlib.metadata' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
