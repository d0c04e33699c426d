"""Runs a trial in a process of its own, with a time limit."""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection
from pathlib import Path

from .models import Entry
from .trial import CRASHED, TIME_LIMIT, Record, Settings, try_model

SECONDS = 600


def run_apart(entry: Entry, door: str, settings: Settings, folder: Path) -> Record:
    """Runs a trial in a process of its own: none can take the others with it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(theirs, entry, door, settings, folder))
    process.start()
    theirs.close()
    try:
        if ours.poll(SECONDS):
            record: Record = ours.recv()
            return record
        return Record(entry.name, entry.library, door, TIME_LIMIT, f"over {SECONDS} s")
    except EOFError:
        process.join()
        error = f"the process ended with {process.exitcode}"
        return Record(entry.name, entry.library, door, CRASHED, error)
    finally:
        process.kill()
        process.join()


def _send(pipe: Connection, entry: Entry, door: str, settings: Settings, folder: Path) -> None:
    pipe.send(try_model(entry, door, settings, folder))
