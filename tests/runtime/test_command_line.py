from __future__ import annotations

import errno
import importlib.util
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import vit_edge.runtime.tools.cli
from vit_edge.export.progress import Display
from vit_edge.runtime.errors import InputError, SelfCheckError
from vit_edge.runtime.tools.cli import build_parser
from vit_edge.runtime.tools.command_line import run_program
from vit_edge.runtime.tools.display import complain, say, verbosity


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


def test_quiet_holds_back_all_but_what_failed(capsys: pytest.CaptureFixture[str]) -> None:
    handler = logging.StreamHandler(sys.stderr)
    log = logging.getLogger("vit_edge.runtime")
    log.addHandler(handler)

    def speak() -> str:
        say("news")
        log.warning("warning")
        log.error("wrong")
        with Display().stage("stage") as update:
            update(1, 2)
        Display().cached("other stage")
        Display().note("note")
        complain("failed")
        return capsys.readouterr().err

    try:
        with verbosity(-1):
            assert speak() == "wrong\nfailed\n"
        loud = speak()
    finally:
        log.removeHandler(handler)
    for words in ("news\n", "warning\n", "stage: 0.0 s\n", "other stage: unchanged\n", "note\n"):
        assert words in loud


def test_what_fails_while_quiet_leaves_nothing_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with verbosity(-1):
            raise InputError("no such file")

    assert run_program("app", fail) == 2
    say("news")
    assert capsys.readouterr().err == "app: no such file\nnews\n"
    assert logging.root.manager.disable == logging.NOTSET


@pytest.mark.parametrize(
    "command",
    ["build x --target y", "check x", "compare x", "export", "report x", "run x y", "train"],
)
def test_commands_that_take_long_can_be_quiet(command: str) -> None:
    parser = build_parser()
    assert parser.parse_args(command.split()).verbosity == 0
    assert parser.parse_args([*command.split(), "-q"]).verbosity == -1


def complete(line: str, tmp_path: Path, **environment: str) -> set[str]:
    """What a shell offers at the end of the line."""
    end = tmp_path / "completions"
    asked = {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(end),
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
    }
    code = "from vit_edge.runtime.tools.cli import main; raise SystemExit(main())"
    subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **asked, **environment},
        capture_output=True,
        check=False,
    )
    return {word.strip() for word in end.read_text().split("\n")} if end.exists() else set()


def test_a_shell_completes_commands_and_options(tmp_path: Path) -> None:
    pytest.importorskip("argcomplete", reason="the extra `completion` is not installed")
    assert complete("vit-edge c", tmp_path) == {"check", "compare"}
    assert {"--calib", "--calibration-size"} <= complete("vit-edge export --cal", tmp_path)


def test_without_argcomplete_a_shell_is_offered_nothing(tmp_path: Path) -> None:
    (tmp_path / "argcomplete.py").write_text("raise ImportError")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    assert complete("vit-edge c", tmp_path, PYTHONPATH=path) == set()


@pytest.mark.parametrize("module", ["vit_edge.runtime.tools.cli", "vit_edge.__main__"])
def test_modules_that_a_shell_may_run_say_that_they_complete(module: str) -> None:
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    assert "PYTHON_ARGCOMPLETE_OK" in Path(spec.origin).read_text()[:1024]


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
