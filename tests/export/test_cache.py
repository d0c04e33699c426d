from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from vit_edge.export.cache import (
    Hashed,
    Stage,
    StageCache,
    key_part,
    open_cache,
    source_digest,
    tool_versions,
)
from vit_edge.export.progress import Display, Update
from vit_edge.runtime.errors import InputError


@dataclass(frozen=True)
class Write(Stage[Path]):
    name: str = "stage"
    number: int = 0
    before: Path | None = None
    title_of = "{name}"

    def run(self, folder: Path, update: Update) -> None:
        (folder / "result").write_text("done")

    def load(self, folder: Path) -> Path:
        return folder


class Fail(Write):
    def run(self, folder: Path, update: Update) -> None:
        (folder / "half").touch()
        raise RuntimeError("power cut")


def ran(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The titles of the stages that ran since the last call."""
    lines = capsys.readouterr().err.splitlines()
    return [line.partition(":")[0] for line in lines if line.endswith(" s")]


def names(cache_folder: Path) -> set[str]:
    return {entry.name.rpartition("-")[0] for entry in cache_folder.iterdir() if entry.is_dir()}


def test_a_stage_runs_once_for_the_same_fields(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_cache(tmp_path, Display()) as cache:
        first = cache.run(Write("stage", 1))
        assert cache.run(Write("stage", 1)) == first
        assert ran(capsys) == ["stage"]
        assert cache.run(Write("stage", 2)) != first
        assert cache.run(Write("other", 1)) != first
    assert (first / "result").read_text() == "done"


def test_a_changed_stage_changes_those_after_it(tmp_path: Path) -> None:
    with open_cache(tmp_path, Display()) as cache:
        before = [cache.run(Write("before", n)) for n in (1, 2)]
        after = [cache.run(Write("after", before=folder)) for folder in before]
    assert after[0] != after[1]


def test_a_stage_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with open_cache(tmp_path, Display()) as cache:
        with pytest.raises(RuntimeError, match="power cut"):
            cache.run(Fail("stage"))
        assert names(tmp_path) == set()
        assert cache.run(Write("stage")).is_dir()


def test_prune_keeps_what_this_run_used(tmp_path: Path) -> None:
    with open_cache(tmp_path, Display()) as cache:
        cache.run(Write("old"))
    with open_cache(tmp_path, Display()) as cache:
        cache.run(Write("new"))
        cache.prune()
    assert names(tmp_path) == {"new"}


@pytest.mark.parametrize("value", [len, object(), np.zeros(3), Path("/etc/hosts")])
def test_what_says_nothing_of_its_content_is_no_key(tmp_path: Path, value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        key_part(value, tmp_path)


def test_a_digest_stands_for_what_comes_from_outside(tmp_path: Path) -> None:
    keys = [key_part(Hashed(len, digest), tmp_path) for digest in ("a", "b", "a")]
    assert keys[0] == keys[2] != keys[1]


def test_two_exports_at_once_are_refused(tmp_path: Path) -> None:
    with (
        open_cache(tmp_path, Display()),
        pytest.raises(InputError, match="another export"),
        open_cache(tmp_path, Display()),
    ):
        pass


def test_new_sources_or_tools_make_new_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = StageCache(tmp_path, Display()).run(Write("stage"))
    for name in ("source_digest", "tool_versions"):
        with monkeypatch.context() as patch:
            patch.setattr(f"vit_edge.export.cache.{name}", lambda: "changed")
            assert StageCache(tmp_path, Display()).run(Write("stage")) != first


def test_source_digest_and_versions_say_what_is_here() -> None:
    assert source_digest() == source_digest()
    assert {"python", "numpy", "torch", "onnxruntime"} <= tool_versions().keys()


def test_a_damaged_stage_is_made_again(tmp_path: Path) -> None:
    with open_cache(tmp_path, Display()) as cache:
        folder = cache.run(Write("stage"))
        (folder / "result").write_text("")
        assert (cache.run(Write("stage")) / "result").read_text() == "done"
        (folder / "result").unlink()
        assert (cache.run(Write("stage")) / "result").read_text() == "done"
