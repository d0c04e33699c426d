"""Every row of the table of errors in docs/runtime.md, tried."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import vit_edge.runtime
from tests.specs import vector
from vit_edge.runtime import (
    BackendError,
    BundleError,
    ClosedError,
    Engine,
    EngineError,
    InputError,
    SelfCheckError,
    VitEdgeError,
)
from vit_edge.runtime.answers import TopK
from vit_edge.runtime.backends import BACKENDS
from vit_edge.runtime.backends.onnxruntime import OnnxRuntimeSession
from vit_edge.runtime.tools.video import read_video

DOCS = Path(__file__).parents[2] / "docs" / "runtime.md"
BACKEND = "onnxruntime"


@dataclass(frozen=True)
class Setting:
    """What a row may use; `bundle` is a copy to be damaged."""

    bundle: Path
    folder: Path
    monkeypatch: pytest.MonkeyPatch

    def engine(self, precision: str = "fp32") -> Engine:
        return Engine.load(self.bundle, precision, BACKEND)

    def call(self, frames: object) -> None:
        with self.engine() as engine:
            engine(frames)


def zeros(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    return np.zeros(shape, dtype)


def missing(module: str) -> Callable[[Setting], None]:
    def block(setting: Setting) -> None:
        setting.monkeypatch.setitem(sys.modules, module, None)

    return block


def unknown_color(s: Setting) -> None:
    with s.engine() as engine:
        engine.preprocess(zeros(8, 8), color="BGR")


def missing_picture(s: Setting) -> None:
    with s.engine() as engine:
        engine.preprocess.read(s.folder / "none.png")


def damaged_picture(s: Setting) -> None:
    (s.folder / "picture.png").write_bytes(b"\x89PNG damaged")
    with s.engine() as engine:
        engine.preprocess.read(s.folder / "picture.png")


def nan_scores(s: Setting) -> None:
    with s.engine() as engine:
        engine.top(np.full(10, np.nan))


def altered(s: Setting) -> None:
    path = s.bundle / "onnx" / "fp32.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    s.engine()


def cut_short(s: Setting) -> None:
    path = s.bundle / "onnx" / "fp32.onnx"
    path.write_bytes(path.read_bytes()[:-1])
    s.engine()


def no_library(s: Setting) -> None:
    missing("onnxruntime")(s)
    s.engine()


def nothing_runs(s: Setting) -> None:
    for backend in BACKENDS.values():
        s.monkeypatch.setattr(type(backend), "run_problem", lambda self: "there is no device")
    Engine.load(s.bundle)


def no_opencv(s: Setting) -> None:
    missing("cv2")(s)
    next(read_video("clip.mp4"))


def refused(s: Setting) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise RuntimeError("not on this device")

    import onnxruntime

    s.monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    s.engine()


def failing(s: Setting) -> None:
    class Broken:
        def __getattr__(self, name: str) -> object:
            raise RuntimeError("the device is gone")

    with s.engine() as engine:
        s.monkeypatch.setattr(engine._session.here, "_session", Broken())
        engine(zeros(1, 8, 8, 1))


def closed(s: Setting) -> None:
    engine = s.engine()
    engine.close()
    engine(zeros(1, 8, 8, 1))


def wrong_answers(s: Setting) -> None:
    run = OnnxRuntimeSession.run
    s.monkeypatch.setattr(OnnxRuntimeSession, "run", lambda self, images: -run(self, images))
    s.engine()


ROWS: dict[str, tuple[type[VitEdgeError], Callable[[Setting], object]]] = {
    "frames of another height or width": (InputError, lambda s: s.call(zeros(1, 9, 8, 1))),
    "frames of another number of channels": (InputError, lambda s: s.call(zeros(1, 8, 8, 3))),
    "a single frame without its batch dimension": (InputError, lambda s: s.call(zeros(8, 8, 1))),
    "an empty batch": (InputError, lambda s: s.call(zeros(0, 8, 8, 1))),
    "frames that are not uint8": (InputError, lambda s: s.call(zeros(1, 8, 8, 1, dtype=float))),
    "something that is no array": (InputError, lambda s: s.call("picture.png")),
    "an unknown precision": (InputError, lambda s: s.engine("fp12")),
    "an unknown backend": (InputError, lambda s: Engine.load(s.bundle, backend="tpu")),
    "a color order that the frame does not have": (InputError, unknown_color),
    "a picture file that is missing": (InputError, missing_picture),
    "a picture file that is damaged, or no picture": (InputError, damaged_picture),
    "a video or camera that is missing or damaged": (
        InputError,
        lambda s: next(read_video(s.folder / "none.mp4")),
    ),
    "scores that are not finite": (InputError, nan_scores),
    "classes asked of an engine for features": (
        InputError,
        lambda s: TopK(None, vector("features", 2))(zeros(4)),
    ),
    "a bundle that is missing": (BundleError, lambda s: Engine.load(s.folder / "none")),
    "a bundle of which a byte was changed": (BundleError, altered),
    "a bundle of which a file is missing or cut short": (BundleError, cut_short),
    "a backend's library that is not installed": (BackendError, no_library),
    "nothing in the bundle that can run here": (BackendError, nothing_runs),
    "Pillow or OpenCV missing where it is needed": (BackendError, no_opencv),
    "an engine that the backend refuses": (EngineError, refused),
    "a backend that fails in a call": (EngineError, failing),
    "a closed engine": (ClosedError, closed),
    "golden samples answered wrongly at the first load": (SelfCheckError, wrong_answers),
}


@pytest.mark.parametrize("when", ROWS)
def test_each_mistake_has_its_error(
    when: str, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error, mistake = ROWS[when]
    with pytest.raises(VitEdgeError) as raised:
        mistake(Setting(bundle, tmp_path, monkeypatch))
    assert type(raised.value) is error
    assert len(str(raised.value).splitlines()) == 1


def test_the_documented_table_is_the_tested_one() -> None:
    section = DOCS.read_text().split("## Errors\n")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line[:2] == "| "][2:]
    documented = {when: error.split("`")[1] for when, error in rows}
    assert documented == {when: error.__name__ for when, (error, _) in ROWS.items()}
    assert set(documented.values()) <= set(vit_edge.runtime.__all__)
