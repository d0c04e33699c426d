"""Full disks, full memory and folders that cannot be written: said as such, and nothing is lost."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from vit_edge.runtime import EngineError, ResourceError
from vit_edge.runtime.backends.base import written_out
from vit_edge.runtime.device_cache import DeviceCache
from vit_edge.runtime.tools.cli import main
from vit_edge.runtime.tools.command_line import run_program

from .backends.emulation import tensorrt as emulated
from .backends.rig import Rig, rig

__all__ = ["rig"]


def full_disk(*arguments: Any, **options: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError("524288 requested and 76768 written"), "no space left (a file)"),
        (OSError(errno.ENOSPC, "No space left on device", "/data/x"), "no space left (/data/x)"),
        (
            OSError(errno.EROFS, "Read-only file system", "/data/x"),
            "/data/x: Read-only file system",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), "/x: Permission denied"),
    ],
)
def test_a_command_says_it_in_a_line(
    error: OSError,
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first is what numpy says."""
    monkeypatch.setattr("vit_edge.runtime.tools.command_line._drop_output", lambda: None)

    def fail() -> int:
        raise error

    assert run_program("vit-edge", fail) == 2
    assert capsys.readouterr().err == f"vit-edge: {said}\n"


def test_temporary_files_that_do_not_fit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Weights beside a graph are written out for libraries that read them by name."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with (
        pytest.raises(ResourceError, match=r"temporary files.*No space left.*TMPDIR"),
        written_out(b"graph", {"weights": memoryview(b"weights")}),
    ):
        pytest.fail("was opened")
    assert not any(tmp_path.iterdir())


def test_a_cache_without_room_keeps_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache = DeviceCache(tmp_path / "home" / "bundle")
    cache.store_latency("key", 1.5)
    cache.store_engine("key", b"engine")
    assert cache.problem() is None
    monkeypatch.setattr("vit_edge.runtime.device_cache.write_whole", full_disk)
    cache.store_latency("key", 9.0)
    cache.store_engine("key", b"another")
    assert cache.problem() == "no space left"
    assert cache.engine("key") == b"engine"
    assert sorted(path.suffix for path in cache.folder.iterdir()) == ["", ".engine", ".json"]
    assert caplog.text.count("cannot be written (no space left)") == 1
    assert "XDG_CACHE_HOME" in caplog.text


def test_no_engine_is_built_that_could_not_be_kept(
    bundle_source: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A build takes minutes."""
    backend = "vit_edge.runtime.backends.tensorrt.TensorRT"
    for name in ("build_problem", "run_problem"):
        monkeypatch.setattr(f"{backend}.{name}", lambda self: None)
    monkeypatch.setattr(f"{backend}.compile", lambda *a: pytest.fail("was built"))
    monkeypatch.setattr("vit_edge.runtime.device_cache.write_whole", full_disk)
    assert main(["build", str(bundle_source), "--target", "tensorrt-rtx"]) == 2
    assert "cannot be written (no space left)" in capsys.readouterr().err


def test_an_engine_that_the_gpu_has_no_memory_for(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was blamed on another version or GPU, and refused for ever."""

    def refuse(self: emulated.Runtime, blob: bytes) -> None:
        error = "[defaultAllocator] Error Code 1: Cuda Runtime (out of memory)"
        self.logger.log(rig.library.ILogger.ERROR, error)

    with monkeypatch.context() as patch:
        patch.setattr(emulated.Runtime, "deserialize_cuda_engine", refuse)
        with pytest.raises(ResourceError, match="has not enough memory for it"):
            rig.open()
    rig.open().close()


@pytest.mark.parametrize(
    ("status", "advice"),
    [("cudaErrorNoDevice", "nvidia-smi"), ("cudaErrorUnknown", "may be lost")],
)
def test_a_gpu_that_disappears(rig: Rig, status: str, advice: str) -> None:
    from .backends.tiny import tiny_frames

    session = rig.open()
    rig.gpu.break_next = status
    for _ in range(2):
        with pytest.raises(EngineError, match=f"{status}.*{advice}"):
            session.run(tiny_frames(1))
    session.close()
    assert rig.gpu.violations == []
    rig.gpu.blocks.clear()  # all of it is lost
    rig.gpu.resources.clear()


def test_a_home_that_is_not_there_is_no_folder_named_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    cache = DeviceCache.of("digest")
    assert cache.problem() is not None
    assert not any(tmp_path.iterdir())
