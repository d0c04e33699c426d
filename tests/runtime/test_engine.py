from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vit_edge.runtime import ClosedError, Engine, InputError

from ..concurrency import wrong_answers

CPU_BACKENDS = ("onnxruntime", "openvino")


@pytest.mark.parametrize("count", [1, 3, 4, 5, 10])
def test_any_number_of_frames_is_scored(
    bundle_source: Path, digit_frames: np.ndarray, count: int
) -> None:
    """The profile ends at 4 here: more are cut into batches."""
    with Engine.load(bundle_source, "fp32") as engine:
        scores = engine(digit_frames[:count])
        assert scores.shape == (count, 10)
        assert scores.dtype == np.float32
        single = np.concatenate([engine(digit_frames[[i]]) for i in range(count)])
    np.testing.assert_allclose(scores, single, atol=1e-5)


def test_frames_may_be_a_view(bundle_source: Path, digit_frames: np.ndarray) -> None:
    with Engine.load(bundle_source, "fp32") as engine:
        flipped = digit_frames[:, ::-1]
        np.testing.assert_allclose(engine(flipped), engine(flipped.copy()), atol=1e-6)


@pytest.mark.parametrize(
    ("frames", "named"),
    [
        (np.zeros((1, 8, 8, 3), np.uint8), r"\[1, 8, 8, 3\]"),
        (np.zeros((8, 8, 1), np.uint8), r"\[8, 8, 1\]"),
        (np.zeros((0, 8, 8, 1), np.uint8), "N > 0"),
        (np.zeros((1, 8, 8, 1), np.float32), "float32"),
        ([[1]], "list"),
        (torch.zeros(1, 8, 8, 1), "float32"),
        (torch.zeros(1, 8, 8, 1, dtype=torch.bfloat16), "Tensor that numpy cannot take"),
    ],
)
def test_wrong_frames_are_named(bundle_source: Path, frames: object, named: str) -> None:
    with Engine.load(bundle_source, "fp32") as engine, pytest.raises(InputError, match=named):
        engine(frames)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_a_closed_engine_says_so(
    bundle_source: Path, digit_frames: np.ndarray, backend: str
) -> None:
    engine = Engine.load(bundle_source, "fp32", backend)
    answers = engine.stream(iter([digit_frames]))
    engine.close()
    engine.close()
    with pytest.raises(ClosedError, match="closed"):
        engine(digit_frames)
    with pytest.raises(ClosedError, match="closed"):
        next(answers)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_threads_share_an_engine(
    bundle_source: Path, digit_frames: np.ndarray, backend: str
) -> None:
    with Engine.load(bundle_source, "fp32", backend) as engine:
        assert wrong_answers(engine, digit_frames, engine(digit_frames), rounds=50) == []


def test_unknown_wishes_are_named(bundle_source: Path) -> None:
    with pytest.raises(InputError, match="no precision 'fp8'"):
        Engine.load(bundle_source, precision="fp8")
    with pytest.raises(InputError, match="unknown backend 'tpu'"):
        Engine.load(bundle_source, backend="tpu")


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_frames_are_not_copied_on_their_way(
    bundle_source: Path, digit_frames: np.ndarray, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a numpy array, nor a read-only one, nor that of another library."""
    tensor = torch.from_numpy(digit_frames[:2].copy())
    locked = digit_frames[:2].copy()
    locked.setflags(write=False)
    with Engine.load(bundle_source, "fp32", backend) as engine:
        expected, run, seen = engine(digit_frames[:2]), engine._session.run, []
        monkeypatch.setattr(
            engine._session, "run", lambda images: (seen.append(images.ctypes.data), run(images))[1]
        )
        for frames in (tensor, locked):
            np.testing.assert_array_equal(engine(frames), expected)
    assert seen == [tensor.data_ptr(), locked.ctypes.data]


def test_frames_on_a_gpu_are_refused_by_a_cpu(bundle_source: Path) -> None:
    interface = {"shape": (1, 8, 8, 1), "typestr": "|u1", "data": (4096, False), "version": 3}
    frames = SimpleNamespace(__cuda_array_interface__=interface)
    with (
        Engine.load(bundle_source, "fp32", "onnxruntime") as engine,
        pytest.raises(InputError, match=r"lie on a GPU, and onnxruntime runs on .*cores?\)"),
    ):
        engine(frames)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_a_stream_is_answered_in_order(
    bundle_source: Path, digit_frames: np.ndarray, backend: str
) -> None:
    """Single frames, batches, and batches above the profile's 4 too."""
    with Engine.load(bundle_source, "fp32", backend) as engine:
        items = [digit_frames[0], digit_frames[1:3], digit_frames, digit_frames[3]]
        answers = list(engine.stream(iter(items)))
        assert [a.shape for a in answers] == [(10,), (2, 10), (10, 10), (10,)]
        for answer, item in zip(answers, items, strict=True):
            expected = engine(item.reshape(-1, 8, 8, 1)).reshape(answer.shape)
            np.testing.assert_allclose(answer, expected, atol=1e-5)


def test_a_stream_fetches_ahead_while_the_engine_computes(
    bundle_source: Path, digit_frames: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = threading.Event()

    def camera() -> Iterator[np.ndarray]:
        yield digit_frames[0]
        fetched.set()
        yield digit_frames[1]

    with Engine.load(bundle_source, "fp32", "onnxruntime") as engine:
        run = engine._session.run
        monkeypatch.setattr(
            engine._session, "run", lambda x: run(x) if fetched.wait(10) else pytest.fail("waited")
        )
        assert len(list(engine.stream(camera()))) == 2


def test_a_stream_reads_at_most_a_few_frames_ahead_and_may_be_left(
    bundle_source: Path, digit_frames: np.ndarray
) -> None:
    read: list[int] = []

    def camera() -> Iterator[np.ndarray]:
        for index in range(1000):
            read.append(index)
            yield digit_frames[0]

    with Engine.load(bundle_source, "fp32", "onnxruntime") as engine:
        answers = engine.stream(camera())
        next(answers)
        answers.close()
    assert len(read) <= 3


def test_what_a_stream_raises_comes_through(bundle_source: Path, digit_frames: np.ndarray) -> None:
    def camera() -> Iterator[np.ndarray]:
        yield digit_frames[0]
        raise TimeoutError("the camera went away")

    with Engine.load(bundle_source, "fp32", "onnxruntime") as engine:
        answers = engine.stream(camera())
        np.testing.assert_allclose(next(answers), engine(digit_frames[:1])[0], atol=1e-5)
        with pytest.raises(TimeoutError, match="camera"):
            next(answers)
        with pytest.raises(InputError, match="float64"):
            list(engine.stream([np.zeros((8, 8, 1))]))
        assert engine(digit_frames).shape == (10, 10)
