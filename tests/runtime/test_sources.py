from __future__ import annotations

import logging
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vit_edge.runtime.engine import Engine
from vit_edge.runtime.errors import InputError
from vit_edge.runtime.preprocess import Preprocess
from vit_edge.runtime.tools.image_sources import (
    Sampling,
    SourceImage,
    is_camera,
    read_images,
    score,
)

from .videos import write_video

GREY = Preprocess(8, 8, 1, 1.0, "bilinear", (0.5,), (0.5,))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures of one grey level each, in the folder and in others in it."""
    for name, level in {"b.png": 1, "a.JPG": 2, "deep/er/c.bmp": 3, ".hidden/d.png": 4}.items():
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (9, 9), level).save(path)
    (tmp_path / "pictures" / ".hidden.png").touch()
    return tmp_path / "pictures"


def test_a_folders_pictures_come_in_order(folder: Path) -> None:
    pictures = list(read_images(folder, GREY))
    names = [str(Path(picture.source).relative_to(folder)) for picture in pictures]
    assert names == ["a.JPG", "b.png", "deep/er/c.bmp"]
    assert [int(picture.pixels[4, 4, 0]) for picture in pictures] == [2, 1, 3]
    assert {picture.frame for picture in pictures} == {None}


def test_names_decide_and_not_the_file_system(tmp_path: Path) -> None:
    names = [f"{index:02}.png" for index in np.random.default_rng(0).permutation(30)]
    for name in names:
        Image.new("L", (9, 9)).save(tmp_path / name)
    found = [Path(picture.source).name for picture in read_images(tmp_path, GREY)]
    assert found == sorted(names)


def test_other_files_are_passed_over_and_counted(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "notes.txt").touch()
    (folder / "deep" / "more").touch()
    with caplog.at_level(logging.WARNING):
        assert len(list(read_images(folder, GREY))) == 3
    assert "2 other files are passed over" in caplog.text


def test_links_to_folders_are_followed_as_in_calibration(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    Image.new("L", (9, 9)).save(outside / "x.png")
    (folder / "link").symlink_to(outside)
    (outside / "back").symlink_to(outside)
    assert len(list(read_images(folder, GREY))) == 4


def test_pictures_are_read_when_asked_for(folder: Path) -> None:
    (folder / "b.png").write_bytes(b"damaged")
    pictures = read_images(folder, GREY)
    assert next(pictures).source.endswith("a.JPG")
    with pytest.raises(InputError, match=r"b\.png is not a readable image"):
        next(pictures)


@pytest.mark.parametrize(
    ("sampling", "frames"),
    [
        (Sampling(), list(range(20))),
        (Sampling(every=7), [0, 7, 14]),
        (Sampling(frames=3), [0, 1, 2]),
        (Sampling(every=5, frames=2), [0, 5]),
        (Sampling(every=1000), [0]),
    ],
)
def test_frames_of_a_video_are_chosen(
    tmp_path: Path, sampling: Sampling, frames: list[int]
) -> None:
    clip = write_video(tmp_path / "clip.mp4", 20)
    pictures = list(read_images(clip, GREY, sampling))
    assert [picture.frame for picture in pictures] == frames
    assert pictures[-1].name == f"{clip}, frame {frames[-1]}"
    levels = [int(picture.pixels[1, 6, 0]) for picture in pictures]
    assert np.abs(np.array(levels) - 8 * np.array(frames)).max() < 12


@pytest.mark.parametrize("numbers", [(0, None), (-3, None), (1, 0), (sys.maxsize + 1, None)])
def test_impossible_choices_are_refused(numbers: tuple[int, int | None]) -> None:
    with pytest.raises(InputError, match="not 1 or more"):
        Sampling(*numbers)


def test_a_number_is_a_camera_unless_there_is_such_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_camera("0")
    assert not is_camera("-1")
    assert not is_camera("\N{SUPERSCRIPT TWO}")
    Path("0").touch()
    assert not is_camera("0")
    with pytest.raises(InputError, match="cannot open camera 997"):
        next(read_images("997", GREY))
    with pytest.raises(InputError, match=f"there is no camera {'9' * 30}"):
        next(read_images("9" * 30, GREY))


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no images"):
        next(read_images(tmp_path, GREY))


def test_scores_come_with_their_pictures_while_the_source_goes_on(
    bundle_source: Path, digit_frames: np.ndarray
) -> None:
    """At most a few pictures are read ahead: a camera never ends."""
    asked = []

    def camera():  # type: ignore[no-untyped-def]
        for index in range(10**6):
            asked.append(index)
            yield SourceImage("camera 0", index, digit_frames[index % 10])

    with Engine.load(bundle_source, "fp32") as engine:
        expected = engine(digit_frames)
        for (picture, scores), _ in zip(score(engine, camera()), range(25), strict=False):
            np.testing.assert_allclose(scores, expected[picture.frame % 10], atol=1e-5)
    assert len(asked) < 30
