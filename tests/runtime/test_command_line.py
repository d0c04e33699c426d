from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time

import pytest

import vit_edge.runtime.tools.cli
from vit_edge.runtime.errors import InputError, SelfCheckError
from vit_edge.runtime.tools.command_line import run_program


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (InputError("no such file"), 2, "app: no such file"),
        (SelfCheckError("wrong"), 1, "app: wrong"),
        (KeyboardInterrupt(), 130, "app: interrupted"),
        (KeyboardInterrupt("go on with: x"), 130, "app: go on with: x"),
        (MemoryError(), 2, "app: out of memory: try a smaller batch"),
        (ZeroDivisionError("surprise"), 3, "app: unexpected ZeroDivisionError: surprise"),
    ],
)
def test_every_error_is_a_line_and_a_status(
    error: BaseException, status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    assert run_program("app", fail) == status
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(said)


def test_a_full_disk_names_the_file() -> None:
    code = (
        "from vit_edge.runtime.tools.command_line import run_program\n"
        "def fail(): raise OSError(28, 'No space left on device', 'weights.bin')\n"
        "raise SystemExit(run_program('app', fail))"
    )
    assert errno.ENOSPC == 28
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "app: no space left (weights.bin)\n")


def test_a_good_run_keeps_its_status() -> None:
    assert run_program("app", lambda: None) == 0
    assert run_program("app", lambda: 1) == 1


def test_the_debug_variable_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIT_EDGE_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        run_program("app", lambda: 1 // 0)


def test_an_interrupt_while_the_commands_are_gathered_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], interruptible: None
) -> None:
    """The packages that add commands take their time to import."""

    def interrupted() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)

    monkeypatch.setattr(vit_edge.runtime.tools.cli, "build_parser", interrupted)
    assert vit_edge.runtime.tools.cli.main(["inspect", "x"]) == 130
    assert capsys.readouterr().err == "vit-edge: interrupted\n"
