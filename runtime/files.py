"""Reads files from a folder that others may be changing; writes files whole or not at all.

A file that is read is opened once, without following a link, and must be a regular file of the
expected size. Only bytes that were read through that one descriptor are used.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from .errors import BundleError

REMEDY = "copy the bundle again, or export it again"
_CHUNK = 1 << 20
_PRIVATE = 0o600
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
# O_NONBLOCK: a pipe that somebody puts there at the last moment must not hang the application.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


@dataclass(frozen=True)
class Folder:
    """A folder as it was when it was opened: one that has taken its place since is refused.

    `path` itself may be a link (`current -> v7`): its owner chose it.
    """

    path: Path
    identity: tuple[int, int]

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Folder:
        """Raises BundleError if there is no folder at `path`."""
        try:
            status = os.stat(path)
        except FileNotFoundError:
            status = None
        except (OSError, ValueError) as error:  # ValueError: a NUL or a surrogate in the path
            reason = getattr(error, "strerror", None) or error
            raise BundleError(f"{os.fspath(path)!r} cannot be read ({reason})") from None
        if status is None or not stat.S_ISDIR(status.st_mode):
            raise BundleError(f"there is no bundle at {path}: make one with `vit-edge export`")
        return cls(Path(path), (status.st_dev, status.st_ino))

    def read(self, name: str, limit: int, exact: int | None = None) -> bytes:
        """Returns the bytes of a regular file, which are in memory only once.

        Args:
            name: A plain relative path.
            limit: Largest size; a larger file is refused before any byte is read.
            exact: Required size; any other is refused before any byte is read. None takes any.

        Raises:
            BundleError: if the file is missing, of another kind or size, reached through a link, or
                larger than this machine's memory.
        """
        with self._opened(name, limit, exact) as (file, size):
            if size > available_memory():
                raise BundleError(
                    f"{self.path / name} has {size} bytes, more than this machine's free memory: "
                    "choose a smaller model or precision"
                )
            # One byte more than expected, to detect a file that grows meanwhile.
            data = file.read(size + 1)
        self._require_size(name, len(data), size)
        return data

    def digest(self, name: str, limit: int, exact: int | None = None) -> str:
        """Returns the SHA-256 in hex of a file's bytes, which are not kept; otherwise as `read`."""
        hasher, total = hashlib.sha256(), 0
        with self._opened(name, limit, exact) as (file, size):
            buffer = memoryview(bytearray(min(_CHUNK, size + 1)))
            while total <= size and (count := file.readinto(buffer)):  # type: ignore[attr-defined]
                hasher.update(buffer[:count])
                total += count
        self._require_size(name, total, size)
        return hasher.hexdigest()

    @contextmanager
    def _opened(self, name: str, limit: int, exact: int | None) -> Iterator[tuple[BinaryIO, int]]:
        """Yields the open file and its size."""
        where = self.path / name
        try:
            descriptor = self._descend(name)
        except FileNotFoundError:
            raise BundleError(f"{where} is missing; {REMEDY}") from None
        except OSError as error:
            raise BundleError(f"{where} cannot be read ({error.strerror}); {REMEDY}") from None
        with os.fdopen(descriptor, "rb", buffering=_CHUNK) as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise BundleError(f"{where} is not a regular file; {REMEDY}")
            if exact is not None:
                self._require_size(name, status.st_size, exact)
            if status.st_size > limit:
                raise BundleError(
                    f"{where} has {status.st_size} bytes, not at most {limit}; {REMEDY}"
                )
            try:
                yield file, status.st_size
            except OSError as error:  # a bad sector, a network drive that went away
                raise BundleError(f"{where} cannot be read ({error.strerror}); {REMEDY}") from None

    def _descend(self, name: str) -> int:
        """Opens the file and each folder on the way, following no link; returns a descriptor."""
        *parents, last = name.split("/")
        folder = os.open(self.path, _DIRECTORY)
        try:
            status = os.fstat(folder)
            if (status.st_dev, status.st_ino) != self.identity:
                raise BundleError(f"{self.path} was replaced while it was read: load it again")
            for part in parents:
                inner = os.open(part, _DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
                os.close(folder)
                folder = inner
            # Merely opening a device can have effects, so only regular files are opened.
            if not stat.S_ISREG(os.stat(last, dir_fd=folder, follow_symlinks=False).st_mode):
                raise BundleError(f"{self.path / name} is not a regular file; {REMEDY}")
            return os.open(last, _FILE, dir_fd=folder)
        finally:
            os.close(folder)

    def _require_size(self, name: str, size: int, expected: int) -> None:
        if size != expected:
            damage = "is truncated" if size < expected else "was altered"
            raise BundleError(
                f"{self.path / name} has {size} bytes, not {expected}: it {damage}; {REMEDY}"
            )


def available_memory() -> int:
    """Returns the bytes that can be allocated without swapping, within a container's limit."""
    from .backends.cpu import memory_left

    left = memory_left()
    return _free_memory() if left is None else min(left, _free_memory())


def _free_memory() -> int:
    """Returns the machine's available bytes. Source: proc(5), MemAvailable in kB."""
    try:
        with open("/proc/meminfo", "rb") as lines:
            for line in lines:
                if line.startswith(b"MemAvailable:"):
                    return int(line.split()[1]) << 10
    except (OSError, ValueError, IndexError):
        pass  # a sandbox without /proc
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def _replacing(path: Path, mode: int) -> Iterator[BinaryIO]:
    """Yields a file that takes the place of `path` when the block ends; deletes it on failure."""
    import tempfile

    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            os.fchmod(descriptor, mode)
            yield stream
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)  # neither a full disk nor Ctrl-C may leave half a file
        raise


def write_whole(path: Path, data: bytes, mode: int = _PRIVATE) -> None:
    """Writes `path`, whose folder exists. Raises OSError, and then leaves `path` as it was."""
    with _replacing(path, mode) as stream:
        stream.write(data)


@contextmanager
def replacing_durably(path: Path, mode: int = _PRIVATE) -> Iterator[BinaryIO]:
    """Yields a file that takes the place of `path` when the block ends, after which a power cut
    loses nothing. If the block fails, `path` stays as it was.
    """
    with _replacing(path, mode) as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)  # the new name must survive a power cut too
    finally:
        os.close(folder)


def write_durably(path: Path, data: bytes, mode: int = _PRIVATE) -> None:
    """Writes like `write_whole`, and a power cut after it loses nothing."""
    with replacing_durably(path, mode) as stream:
        stream.write(data)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a lock on the file `path`, whose folder exists.

    Source: flock(2); the lock ends with the descriptor, also when the process is killed.

    Raises:
        OSError: if it cannot be opened or locked.
    """
    descriptor = _open_lock(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def locked_if_possible(path: Path) -> Iterator[None]:
    """Locks like `locked`, but goes on if the file system, such as a network's, has no locks."""
    descriptor = _open_lock(path)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _PRIVATE)
