"""Sessions in forked processes: a child has its parent's memory, and none of its threads.

A library's threads and its GPU context only work in the process that created them. In a child, such
a session would wait forever for threads that do not exist there: when it runs, and even when it is
freed, as at the child's end. So a child never frees it, and either opens a new one or refuses.

Source: fork(2); POSIX, "fork", rationale; CUDA C++ programming guide, "CUDA initialization".
"""

from __future__ import annotations

import ctypes
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any, TypeVar
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from ..errors import ClosedError, ForkedError
from .base import Frames, Session

_log = logging.getLogger("vit_edge.runtime")
_native: WeakSet[Any] = WeakSet()
S = TypeVar("S")

REMEDY = (
    "load it after the fork (gunicorn: in post_fork, or without --preload), or start processes by "
    "spawn (multiprocessing.get_context('spawn'))"
)


def keep_in_children(session: S) -> S:
    """Returns `session`, and makes sure that children forked from now on never free it."""
    _register()
    _native.add(session)
    return session


@cache
def _register() -> None:
    os.register_at_fork(after_in_child=_keep_all)


def _keep_all() -> None:
    for session in list(_native):
        _keep(session)
    _native.clear()


def _keep(thing: object) -> None:
    """Lets the object outlive the interpreter: its destructor never runs."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


class ProcessSession:
    """Session that notices when it is used in a forked child. See `runtime.backends.base.Session`.

    Args:
        session: The session that was opened in this process.
        backend: Name of the backend, for messages.
        reopen: Opens a new session in a forked child, at the first call there; None if that is not
            safe, so that calls there raise ForkedError.
    """

    def __init__(
        self, session: Session, backend: str, reopen: Callable[[], Session] | None
    ) -> None:
        self.takes_device_arrays = session.takes_device_arrays
        self.threads = session.threads
        self._backend, self._reopen = backend, reopen
        self._sessions: dict[int, Session] = {os.getpid(): session}
        self._origin = os.getpid()
        self._locks: dict[int, threading.Lock] = {}  # a lock held at the fork stays held
        self._closed = False

    @property
    def here(self) -> Session:
        """The session of this process. Raises ForkedError if there can be none."""
        return self._sessions.get(os.getpid()) or self._open_here()

    def run(self, images: Frames) -> NDArray[np.float32]:
        return self.here.run(images)

    def stream(self, batches: Iterable[Frames]) -> Iterator[NDArray[np.float32]]:
        """See `Session.stream`. In a forked child a stream of the parent ends with ForkedError: the
        work under way belongs to the parent.
        """
        process = os.getpid()
        answers = self.here.stream(batches)
        try:
            for answer in answers:
                yield answer
                if os.getpid() != process:
                    raise self._forked(process)
        finally:
            if os.getpid() != process:
                _keep(answers)

    def _open_here(self) -> Session:
        """Opens a session for this process, once. Raises ForkedError if that is not safe."""
        if self._closed:
            raise ClosedError
        if self._reopen is None:
            raise self._forked(self._origin)
        process = os.getpid()
        with self._locks.setdefault(process, threading.Lock()):
            if process not in self._sessions:
                _log.info("%s: opened anew in process %d", self._backend, process)
                self._sessions[process] = self._reopen()
            return self._sessions[process]

    def _forked(self, process: int) -> ForkedError:
        return ForkedError(
            f"this engine was loaded by process {process}, and {self._backend} does not survive a "
            f"fork: {REMEDY}"
        )

    def close(self) -> None:
        """Frees what this process opened; a child does not free its parent's session."""
        self._closed = True
        session = self._sessions.pop(os.getpid(), None)
        if session is not None:
            session.close()
