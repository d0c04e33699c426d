from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vit_edge.runtime.files import locked, locked_if_possible, write_durably, write_whole

WRITERS = (write_whole, write_durably)


@pytest.mark.parametrize("write", WRITERS)
def test_a_file_takes_the_place_of_the_old_one(
    write: Callable[[Path, bytes], None], tmp_path: Path
) -> None:
    for content in (b"old", b"new"):
        write(tmp_path / "file", content)
        assert (tmp_path / "file").read_bytes() == content
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_one_and_no_halves(
    write: Callable[[Path, bytes], None],
    error: BaseException,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write(tmp_path / "file", b"old")

    def fail(*paths: object) -> None:
        raise error

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(type(error)):
        write(tmp_path / "file", b"new")
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


@pytest.mark.parametrize("lock", [locked, locked_if_possible])
def test_another_process_has_to_wait(lock: Callable[[Path], object], tmp_path: Path) -> None:
    code = (
        "import fcntl, sys\n"
        "with open(sys.argv[1], 'r+') as file:\n"
        "    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "lock")]
    with lock(tmp_path / "lock"):  # type: ignore[attr-defined]
        assert subprocess.run(command, capture_output=True).returncode == 1
    assert subprocess.run(command, capture_output=True).returncode == 0


def test_where_there_are_no_locks_only_some_can_do_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(descriptor: int, operation: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", none)
    with locked_if_possible(tmp_path / "lock"):
        pass
    with pytest.raises(OSError, match="No locks"), locked(tmp_path / "lock"):
        pass
