from __future__ import annotations

from pathlib import Path

import pytest

from vit_edge.export.cache import StageCache, open_cache, source_digest, tool_versions
from vit_edge.export.progress import Display, Update
from vit_edge.runtime.errors import InputError


def write(folder: Path, update: Update) -> None:
    (folder / "result").write_text("done")


def refuse(folder: Path, update: Update) -> None:
    raise AssertionError("an unchanged stage ran again")


def names(cache_folder: Path) -> set[str]:
    return {entry.name.rpartition("-")[0] for entry in cache_folder.iterdir() if entry.is_dir()}


def test_a_stage_runs_once_for_the_same_inputs(tmp_path: Path) -> None:
    with open_cache(tmp_path, Display()) as cache:
        first = cache.run("stage", [1, "a"], write)
        assert cache.run("stage", [1, "a"], refuse) == first
        assert cache.run("stage", [2, "a"], write) != first
        assert cache.run("other", [1, "a"], write) != first
    assert (first / "result").read_text() == "done"


def test_a_changed_stage_changes_those_after_it(tmp_path: Path) -> None:
    with open_cache(tmp_path, Display()) as cache:
        after = [cache.run("after", [cache.run("before", [n], write)], write) for n in (1, 2)]
    assert after[0] != after[1]


def test_a_stage_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path, update: Update) -> None:
        (folder / "half").touch()
        raise RuntimeError("power cut")

    with open_cache(tmp_path, Display()) as cache:
        with pytest.raises(RuntimeError, match="power cut"):
            cache.run("stage", [], fail)
        assert names(tmp_path) == set()
        assert cache.run("stage", [], write).is_dir()


def test_prune_keeps_what_this_run_used(tmp_path: Path) -> None:
    with open_cache(tmp_path, Display()) as cache:
        cache.run("old", [], write)
    with open_cache(tmp_path, Display()) as cache:
        cache.run("new", [], write)
        cache.prune()
    assert names(tmp_path) == {"new"}


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
    first = StageCache(tmp_path, Display()).run("stage", [], write)
    for name in ("source_digest", "tool_versions"):
        with monkeypatch.context() as patch:
            patch.setattr(f"vit_edge.export.cache.{name}", lambda: "changed")
            assert StageCache(tmp_path, Display()).run("stage", [], write) != first


def test_source_digest_and_versions_say_what_is_here() -> None:
    assert source_digest() == source_digest()
    assert {"python", "numpy", "torch", "onnxruntime"} <= tool_versions().keys()


def test_a_damaged_stage_is_made_again(tmp_path: Path) -> None:
    with open_cache(tmp_path, Display()) as cache:
        folder = cache.run("stage", [], write)
        (folder / "result").write_text("")
        assert (cache.run("stage", [], write) / "result").read_text() == "done"
        (folder / "result").unlink()
        assert (cache.run("stage", [], write) / "result").read_text() == "done"
