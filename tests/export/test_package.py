from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vit_edge.export.package import write_bundle
from vit_edge.runtime.bundle import Bundle
from vit_edge.runtime.errors import InputError
from vit_edge.runtime.manifest import MANIFEST
from vit_edge.runtime.tools import folders
from vit_edge.runtime.tools.folders import recover

KILLED_MIDWAY = """
import os, signal, sys
from vit_edge.export import package
from vit_edge.runtime.bundle import Bundle

placed, place = [], package._place
def place_or_die(source, target):
    if len(placed) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    placed.append(place(source, target))
package._place = place_or_die
bundle = Bundle.open(sys.argv[1])
files = {name: bundle.path / name for name in bundle.manifest.files}
package.write_bundle(bundle.path, bundle.manifest, files)
"""


def rewrite(bundle: Bundle, out: Path) -> Bundle:
    return write_bundle(out, bundle.manifest, {n: bundle.path / n for n in bundle.manifest.files})


def siblings(out: Path) -> list[str]:
    return sorted(p.name for p in out.parent.iterdir() if p.name.startswith(f".{out.name}"))


def test_a_bundle_is_written_whole_and_verified(bundle: Path, tmp_path: Path) -> None:
    written = rewrite(Bundle.open(bundle), tmp_path / "new")
    written.verify()
    assert written.digest == Bundle.open(bundle).digest
    assert siblings(tmp_path / "new") == []


def no_links(source: Path, target: Path) -> None:
    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))


def test_files_take_their_room_once_where_the_file_system_can(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Bundle.open(bundle)
    name = next(iter(source.manifest.files))
    linked = rewrite(source, tmp_path / "linked")
    assert (linked.path / name).samefile(source.path / name)
    monkeypatch.setattr(os, "link", no_links)
    copied = rewrite(source, tmp_path / "copied")
    assert not (copied.path / name).samefile(source.path / name)
    copied.verify()
    assert copied.digest == linked.digest


@pytest.mark.parametrize("exchange", [True, False])
def test_an_old_bundle_is_replaced(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    """Both ways: in one step, and aside where the file system cannot exchange."""
    if not exchange:
        monkeypatch.setattr(folders, "_exchange", lambda a, b: False)
    source, out = Bundle.open(bundle), tmp_path / "out"
    rewrite(source, out)
    (out / "onnx" / "stale").touch()
    rewrite(source, out).verify()
    assert not (out / "onnx" / "stale").exists()
    assert siblings(out) == []


def test_a_full_disk_leaves_the_old_bundle(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = Bundle.open(bundle), tmp_path / "out"
    digest = rewrite(source, out).digest

    def full(source: Path, target: Path) -> None:
        target.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "link", no_links)
    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space"):
        rewrite(source, out)
    assert Bundle.open(out).digest == digest
    Bundle.open(out).verify()
    assert siblings(out) == []


def test_a_kill_leaves_the_old_bundle_and_the_next_export_clears_up(bundle: Path) -> None:
    digest = Bundle.open(bundle).digest
    killed = subprocess.run([sys.executable, "-c", KILLED_MIDWAY, str(bundle)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert siblings(bundle)
    assert Bundle.open(bundle).digest == digest
    Bundle.open(bundle).verify()
    recover(bundle, MANIFEST)
    assert siblings(bundle) == []


def test_a_kill_between_two_renames_is_undone(bundle: Path) -> None:
    bundle.rename(bundle.parent / f".{bundle.name}.previous")
    recover(bundle, MANIFEST)
    Bundle.open(bundle).verify()
    assert siblings(bundle) == []


def test_a_folder_with_other_things_is_never_replaced(bundle: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="not a bundle"):
        rewrite(Bundle.open(bundle), precious)
    assert (precious / "thesis.txt").read_text() == "years of work"
    with pytest.raises(InputError, match="not a folder"):
        rewrite(Bundle.open(bundle), precious / "thesis.txt")
