"""A device that has run a release refuses older ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from vit_edge.runtime import Engine, EngineError, RollbackError, SignatureError
from vit_edge.runtime.backends.onnxruntime import OnnxRuntime
from vit_edge.runtime.bundle import Bundle

from .keys import public_pem, sign_by_hand

KEY = ec.generate_private_key(ec.SECP256R1())
PUBLIC = public_pem(KEY)


def load(bundle: Path) -> None:
    Engine.load(bundle, "fp32", "onnxruntime", public_key=PUBLIC).close()


def seen_file() -> Path:
    return Path(os.environ["XDG_STATE_HOME"]) / "vit-edge" / "releases.json"


def test_an_older_release_is_refused_with_both_numbers(bundle: Path) -> None:
    for number in (3, 3, 5):
        sign_by_hand(bundle, KEY, number)
        load(bundle)
    sign_by_hand(bundle, KEY, 4)
    with pytest.raises(RollbackError, match=r"release 4 .* release 5 has run .* above 5"):
        load(bundle)
    with pytest.raises(RollbackError):
        Bundle.open(bundle, PUBLIC)
    Bundle.open(bundle).verify()  # nobody demanded a signature


def test_a_release_that_was_only_looked_at_or_failed_does_not_count(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a broken release could never be replaced by the one before it."""

    def refuse(self, *others):  # type: ignore[no-untyped-def]
        raise EngineError("does not run here")

    sign_by_hand(bundle, KEY, 9)
    Bundle.open(bundle, PUBLIC).verify()
    with monkeypatch.context() as patch:
        patch.setattr(OnnxRuntime, "open", refuse)
        with pytest.raises(EngineError):
            load(bundle)
    sign_by_hand(bundle, KEY, 8)
    load(bundle)


def test_names_and_keys_are_counted_apart(bundle: Path) -> None:
    sign_by_hand(bundle, KEY, 5, "lamps")
    load(bundle)
    sign_by_hand(bundle, KEY, 2, "doors")
    load(bundle)
    other = ec.generate_private_key(ec.SECP256R1())
    sign_by_hand(bundle, other, 1, "lamps")
    Engine.load(bundle, "fp32", "onnxruntime", public_key=public_pem(other)).close()
    assert sorted(json.loads(seen_file().read_text())["releases"].values()) == [1, 2, 5]


@pytest.mark.parametrize("damaged", [b"", b"{", b'{"releases": {"a": "9"}}', b"\xff", b"[]"])
def test_a_damaged_memory_is_an_error_not_an_empty_one(bundle: Path, damaged: bytes) -> None:
    sign_by_hand(bundle, KEY, 5)
    load(bundle)
    seen_file().write_bytes(damaged)
    with pytest.raises(SignatureError, match=r"releases\.json.* is damaged"):
        load(bundle)
    seen_file().unlink()
    load(bundle)


def test_a_memory_that_cannot_be_kept_is_an_error(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_by_hand(bundle, KEY, 5)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with pytest.raises(SignatureError, match="XDG_STATE_HOME"):
        load(bundle)


def test_a_known_release_needs_no_writing(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a device whose system is read-only after the roll-out."""
    sign_by_hand(bundle, KEY, 5)
    load(bundle)
    monkeypatch.setattr(
        "vit_edge.runtime.trust.write_durably", lambda *a: pytest.fail("was written")
    )
    load(bundle)


REMEMBER = """
import sys
from vit_edge.runtime import RollbackError
from vit_edge.runtime.trust import Release, SeenReleases
start = int(sys.argv[1])
for number in range(start, 41, 4):
    SeenReleases.here().remember("key", Release(f"own {start}", number))
    try:
        SeenReleases.here().remember("key", Release("a", number))
    except RollbackError:
        pass
"""


def test_processes_that_load_at_once_lose_nothing() -> None:
    starts = range(1, 5)
    running = [subprocess.Popen([sys.executable, "-c", REMEMBER, str(s)]) for s in starts]
    assert [process.wait() for process in running] == [0] * len(starts)
    expected = {"key/a": 40} | {f"key/own {s}": 36 + s for s in starts}
    assert json.loads(seen_file().read_text())["releases"] == expected
    assert [
        p.name for p in seen_file().parent.iterdir() if p.suffix not in (".json", ".lock")
    ] == []


def test_an_older_one_that_was_opened_before_a_newer_ran_is_refused_in_the_end(
    bundle: Path,
) -> None:
    sign_by_hand(bundle, KEY, 1)
    older = Bundle.open(bundle, PUBLIC)
    sign_by_hand(bundle, KEY, 2)
    load(bundle)
    with pytest.raises(RollbackError):
        older.remember_release()


@pytest.mark.parametrize(
    "raw",
    ["", "{}", '{"name": "a", "number": 0}', '{"name": "a", "number": -1}',
     '{"name": " ", "number": 1}', '{"name": "a", "number": 9223372036854775808}',
     '{"name": "a", "number": true}', '{"name": "a", "number": 1.0}',
     '{"name": "a", "number": 1, "number": 9}', '{"name": "a\\u001b", "number": 1}',
     "[" * 20_000],
)  # fmt: skip
def test_a_release_that_makes_no_sense_is_refused(
    bundle: Path, raw: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = Path.write_text
    monkeypatch.setattr(
        Path, "write_text", lambda s, text: written(s, raw if s.name == "release.json" else text)
    )
    sign_by_hand(bundle, KEY)
    with pytest.raises(SignatureError, match=r"release\.json is not valid"):
        Bundle.open(bundle, PUBLIC)
