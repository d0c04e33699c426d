from __future__ import annotations

import logging
import os
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pytest

from vit_edge.runtime.errors import BackendError, InputError
from vit_edge.runtime.tools.video import read_video

from .videos import HEIGHT, WIDTH, frame, turn, write_video

VIDEO_CAPTURE = cv2.VideoCapture


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_video(tmp_path / "clip.mp4", 20)


class Watched:
    """A `cv2.VideoCapture` that notes its release; OpenCV's own class cannot be subclassed."""

    notes: ClassVar[list[str]] = []

    def __init__(self, *source: object) -> None:
        self._capture = VIDEO_CAPTURE(*source)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._capture, name)

    def release(self) -> None:
        self.notes.append("released")
        self._capture.release()


class Empty(Watched):
    """Opens, and has no frame."""

    def read(self) -> tuple[bool, None]:
        return False, None


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(cv2, "VideoCapture", Watched)
    Watched.notes.clear()
    return Watched.notes


@pytest.mark.parametrize("kind", [".mp4", ".avi"])
def test_frames_come_in_order_and_rgb(tmp_path: Path, kind: str) -> None:
    path = write_video(tmp_path / f"clip{kind}", 20)
    frames = list(read_video(path))
    assert len(frames) == 20
    for index, pixels in enumerate(frames):
        assert pixels.dtype == np.uint8
        assert np.abs(pixels[8, 8].astype(int) - (230, 20, 20)).max() < 25
        assert np.abs(pixels[40, 50].astype(int) - (20, 20, 230)).max() < 25
        assert abs(int(pixels[8, 50].mean()) - 8 * index) < 12
    assert len({pixels.ctypes.data for pixels in frames}) == 20  # each in memory of its own


@pytest.mark.parametrize("angle", [0, 90, 180, 270])
def test_a_video_is_turned_as_its_header_says(clip: Path, angle: int) -> None:
    turn(clip, angle)
    first = next(iter(read_video(clip)))
    upright = np.rot90(frame(0), -angle // 90)
    assert first.shape == upright.shape
    assert np.abs(first.astype(int) - upright).mean() < 12


def test_one_frame_at_a_time_is_read_and_the_file_released(clip: Path, notes: list[str]) -> None:
    video = read_video(clip)
    assert next(video).shape == (HEIGHT, WIDTH, 3)
    assert notes == []
    video.close()
    assert notes == ["released"]
    assert len(list(read_video(clip))) == 20
    assert notes == ["released"] * 2


def test_a_video_that_ends_early_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_video(tmp_path / "clip.avi", 20)
    with caplog.at_level(logging.WARNING):
        assert len(list(read_video(path))) == 20
    assert caplog.text == ""
    path.write_bytes(b"00dc".join(path.read_bytes().split(b"00dc")[:12]))  # a chunk is a frame
    with caplog.at_level(logging.WARNING):
        count = len(list(read_video(path)))
    assert 9 <= count <= 11
    assert f"clip.avi is damaged or cut short: {count} of 20 frames read" in caplog.text


def test_what_is_no_video_is_named(tmp_path: Path, clip: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video\n" * 100)
    (tmp_path / "half.mp4").write_bytes(clip.read_bytes()[:-600])  # the index lies at the end
    for name, named in (
        ("none.mp4", "there is no video file at"),
        ("pipe.mp4", "there is no video file at"),  # opening it would hang
        ("empty.mp4", r"cannot open .*empty\.mp4"),
        ("text.mp4", r"cannot open .*text\.mp4"),
        ("half.mp4", r"cannot open .*half\.mp4"),
    ):
        with pytest.raises(InputError, match=named):
            next(read_video(tmp_path / name))


def test_a_video_without_frames_is_named(
    clip: Path, notes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", Empty)
    with pytest.raises(InputError, match="holds no frame"):
        next(read_video(clip))
    assert notes == ["released"]


def test_no_pipeline_is_opened() -> None:
    with pytest.raises(InputError, match="there is no video file at"):
        next(read_video("videotestsrc ! appsink"))


def test_an_address_is_read_by_the_video_reader(clip: Path) -> None:
    handler = partial(SimpleHTTPRequestHandler, directory=str(clip.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        frames = list(read_video(f"http://127.0.0.1:{server.server_port}/{clip.name}"))
        server.shutdown()
    assert len(frames) == 20


def test_an_address_that_does_not_answer_is_named_without_its_password() -> None:
    for address in ("rtsp://me:secret@127.0.0.1:9/cam", "http://me:secret@127.0.0.1:9/a.mp4"):
        with pytest.raises(
            InputError, match=r"cannot open \w+://127\.0\.0\.1:9/.*answer"
        ) as refused:
            next(read_video(address))
        assert "secret" not in str(refused.value)


@pytest.mark.parametrize(("camera", "named"), [(-1, "the first is 0"), (997, "is it connected")])
def test_a_missing_camera_is_named(camera: int, named: str) -> None:
    with pytest.raises(InputError, match=rf"camera {camera}.*{named}"):
        next(read_video(camera))


def test_a_camera_that_stops_is_an_error(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file stands in for a camera: this machine has none."""
    monkeypatch.setattr(cv2, "VideoCapture", lambda index: VIDEO_CAPTURE(str(clip)))
    video = read_video(0)
    for _ in range(20):
        next(video)
    with pytest.raises(InputError, match="camera 0 stopped after 20 frames"):
        next(video)


def test_without_opencv_it_says_how_to_get_it(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(BackendError, match=r"pip install 'opencv-python-headless>=4\.10'"):
        next(read_video(clip))
