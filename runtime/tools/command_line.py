"""Error handling of all programs: one line and an exit status for every expected error."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Callable

from ..errors import InputError, VitEdgeError, first_line
from .display import complain

CLOSED_PIPE = 141
"""Exit status of a program whose reader went away, as shells give it (128 + SIGPIPE)."""
INTERRUPTED = 130
"""Likewise of an interrupted one (128 + SIGINT)."""
BUG = 3
_SHORT = re.compile(r"\d+ requested and \d+ written")
"""The message of numpy's `tofile` for a full disk, which comes without an error number."""
DEBUG = "VIT_EDGE_DEBUG"
"""Environment variable: set, an unexpected error shows its traceback."""


def run_program(name: str, run: Callable[[], int | None]) -> int:
    """Runs a program and returns its exit status: what `run` returned, 0 where that is None, 2 for
    bad input, 3 for a bug, 130 interrupted.
    """
    try:
        status = run() or 0
        sys.stdout.flush()
        return status
    except (Exception, KeyboardInterrupt) as error:
        return _report(name, error)


def _report(name: str, error: Exception | KeyboardInterrupt) -> int:
    """Says in a line what went wrong; returns the exit status."""
    if isinstance(error, VitEdgeError):
        complain(f"{name}: {error}")
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        complain(f"{name}: {error if error.args else 'interrupted'}")
        return INTERRUPTED
    if isinstance(error, BrokenPipeError):  # the reader of our output went away
        _drop_output()
        return CLOSED_PIPE
    if isinstance(error, MemoryError):
        complain(f"{name}: out of memory: try a smaller batch")
        return InputError.exit_code
    if isinstance(error, OSError) and (error.errno == errno.ENOSPC or _SHORT.fullmatch(str(error))):
        _drop_output()
        place = error.filename or ("standard output" if error.errno else "a file")
        complain(f"{name}: no space left ({place})")
        return InputError.exit_code
    if isinstance(error, OSError) and error.errno in (errno.EROFS, errno.EACCES, errno.EDQUOT):
        complain(f"{name}: {error.filename or 'a file'}: {error.strerror}")
        return InputError.exit_code
    return _unexpected(name, error)


def _drop_output() -> None:
    """Discards what is still buffered for standard output: it has nowhere to go."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _unexpected(name: str, error: Exception) -> int:
    """Raises `error` again where the user wants its traceback."""
    if os.environ.get(DEBUG):
        raise error
    what = f"{type(error).__name__}: {first_line(error)}"
    complain(f"{name}: unexpected {what}; this is a bug: run again with {DEBUG}=1 and report it")
    return BUG
