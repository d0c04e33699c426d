"""What lies in a folder may be of any kind, and may change while it is read."""

from __future__ import annotations

import hashlib
import os
import socket
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import vit_edge.runtime.files
from vit_edge.runtime.errors import BundleError
from vit_edge.runtime.files import Folder, available_memory

DATA = bytes(range(256)) * 20_000
BIG = 1 << 30


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    path = tmp_path / "folder"
    (path / "a").mkdir(parents=True)
    (path / "a" / "b").write_bytes(DATA)
    return Folder.open(path)


def test_a_file_is_read_and_hashed_whole(folder: Folder) -> None:
    assert folder.read("a/b", BIG) == DATA
    assert folder.digest("a/b", BIG) == hashlib.sha256(DATA).hexdigest()
    (folder.path / "empty").touch()
    assert folder.read("empty", 0, exact=0) == b""
    assert folder.digest("empty", 0, exact=0) == hashlib.sha256().hexdigest()


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def _device(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))  # /dev/zero: it never ends


@pytest.mark.parametrize(
    "make",
    [
        os.mkfifo,
        os.mkdir,
        _socket,
        _device,
        lambda p: os.symlink("b", p),
        lambda p: os.symlink("/dev/zero", p),
        lambda p: os.symlink("nowhere", p),
    ],
)
def test_what_is_no_regular_file_is_refused(folder: Folder, make: Callable[[Path], None]) -> None:
    try:
        make(folder.path / "a" / "c")
    except PermissionError:
        pytest.skip("making a device node needs root")
    for read in (folder.read, folder.digest):
        with pytest.raises(BundleError, match="a/c is not a regular file"):
            read("a/c", BIG)


def test_a_file_that_turns_into_a_pipe_or_a_link_in_the_last_moment_is_refused(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, looked = folder.path / "a" / "b", os.stat
    outside = folder.path.parent / "outside"
    outside.write_bytes(DATA)
    for make in (os.mkfifo, lambda p: os.symlink(outside, p)):

        def look_then_swap(path, make=make, **options):  # type: ignore[no-untyped-def]
            status = looked(path, **options)
            target.unlink()
            make(target)
            return status

        with monkeypatch.context() as patch:
            patch.setattr(os, "stat", look_then_swap)
            with pytest.raises(BundleError, match=r"a/b (is not a regular file|cannot be read)"):
                folder.read("a/b", BIG)
        target.unlink()
        target.write_bytes(DATA)


def test_a_folder_on_the_way_may_not_be_a_link(folder: Folder) -> None:
    (folder.path / "c").symlink_to("a")
    with pytest.raises(BundleError, match="c/b cannot be read"):
        folder.read("c/b", BIG)


def test_the_folder_itself_may_be_a_link_but_may_not_be_swapped(folder: Folder) -> None:
    link, other = folder.path.parent / "current", folder.path.parent / "other"
    link.symlink_to("folder")
    opened = Folder.open(link)
    assert opened.read("a/b", BIG) == DATA
    (other / "a").mkdir(parents=True)
    (other / "a" / "b").write_bytes(DATA)
    link.unlink()
    link.symlink_to("other")
    with pytest.raises(BundleError, match="replaced while it was read: load it again"):
        opened.read("a/b", BIG)
    folder.path.rename(folder.path.parent / "old")
    other.rename(folder.path)
    with pytest.raises(BundleError, match="replaced while it was read"):
        folder.read("a/b", BIG)


@pytest.mark.parametrize(("exact", "damage"), [(7, "altered"), (len(DATA) + 1, "truncated")])
def test_another_size_is_refused_before_it_is_read(
    folder: Folder, exact: int, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vit_edge.runtime.files, "available_memory", lambda: pytest.fail("too late"))
    for read in (folder.read, folder.digest):
        with pytest.raises(BundleError, match=f"has {len(DATA)} bytes, not {exact}: it .*{damage}"):
            read("a/b", exact, exact=exact)
        with pytest.raises(BundleError, match="not at most 7"):
            read("a/b", 7)


def test_a_file_beyond_memory_is_refused_though_it_takes_no_disk(folder: Folder) -> None:
    size = 1 << 40
    with open(folder.path / "sparse", "wb") as file:
        file.truncate(size)
    with pytest.raises(BundleError, match="more than this machine's free memory"):
        folder.read("sparse", size, exact=size)


def test_available_memory_is_this_machines() -> None:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert total / 1000 < available_memory() <= total


def test_a_file_that_grows_or_shrinks_while_it_is_read_is_refused(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, status_of = folder.path / "a" / "b", os.fstat
    for content in (DATA + b"more", DATA[:-1]):

        def look_then_write(descriptor: int, content: bytes = content) -> os.stat_result:
            status = status_of(descriptor)
            if stat.S_ISREG(status.st_mode):
                target.write_bytes(content)
            return status

        for read in (folder.read, folder.digest):
            target.write_bytes(DATA)
            with monkeypatch.context() as patch:
                patch.setattr(os, "fstat", look_then_write)
                with pytest.raises(BundleError, match=r"it was altered|it is truncated"):
                    read("a/b", BIG)


def test_no_descriptor_is_left_open(folder: Folder) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for name in ("a/b", "nowhere", "a", "x/y", "a/b/c", "a" * 300):
        for read in (folder.read, folder.digest):
            try:
                read(name, 10)
            except BundleError:
                continue
            pytest.fail(name)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("path", ["\0", "\ud800", "a" * 300, "", "/dev/null", "/dev/null/x"])
def test_what_is_no_folder_is_our_error(path: str) -> None:
    with pytest.raises(BundleError):
        Folder.open(path)


def test_threads_may_read_at_once(folder: Folder) -> None:
    read: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: read.append(folder.read("a/b", BIG))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read == [DATA] * 8
