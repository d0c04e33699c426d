from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vit_edge.runtime import EngineError
from vit_edge.runtime.backends import BACKENDS
from vit_edge.runtime.backends.openvino import session as module
from vit_edge.runtime.backends.openvino.session import OpenVinoSession
from vit_edge.runtime.bundle import Bundle
from vit_edge.runtime.errors import ClosedError

Open = Callable[..., OpenVinoSession]
SIZES = {"small": 10**18, "large": 0}
"""What counts as large, so that the digits model is one or the other."""


@pytest.fixture(params=list(SIZES))
def open_digits(
    request: pytest.FixtureRequest, bundle_source: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Open]:
    monkeypatch.setattr(module, "_LARGE", SIZES[request.param])
    bundle, opened = Bundle.open(bundle_source), []

    def open_precision(precision: str = "fp32", **changes: Any) -> OpenVinoSession:
        spec = replace(bundle.manifest.spec, **changes)
        graph = bundle.manifest.precisions[precision].graphs["cpu"]
        session = BACKENDS["openvino"].open(bundle.read(graph.file), spec)
        assert isinstance(session, OpenVinoSession)
        opened.append(session)
        return session

    yield open_precision
    for session in opened:
        session.close()


@pytest.fixture
def expected(bundle_source: Path, digit_frames: np.ndarray) -> np.ndarray:
    bundle = Bundle.open(bundle_source)
    session = BACKENDS["onnxruntime"].open(bundle.read("onnx/fp32.onnx"), bundle.manifest.spec)
    return session.run(digit_frames)


def test_every_number_of_images_is_answered_in_order(
    open_digits: Open, digit_frames: np.ndarray, expected: np.ndarray
) -> None:
    session = open_digits()
    for count in (1, 2, 3, 5, 8, 7, 1):
        answer = session.run(digit_frames[:count])
        np.testing.assert_allclose(answer, expected[:count], atol=1e-4)
        assert answer.dtype == np.float32
        assert answer.flags.owndata  # not OpenVINO's own memory, which the next call overwrites


@pytest.mark.parametrize("largest", [1, 2, 3])
def test_an_engine_for_few_images_at_once(
    open_digits: Open, digit_frames: np.ndarray, expected: np.ndarray, largest: int
) -> None:
    session = open_digits(batch=(1, 1, largest))
    np.testing.assert_allclose(session.run(digit_frames[:largest]), expected[:largest], atol=1e-4)


@pytest.mark.parametrize("streams", [1, 2, 3, 4, 5])
def test_images_side_by_side_and_those_that_are_left_over(
    bundle_source: Path,
    digit_frames: np.ndarray,
    expected: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    streams: int,
) -> None:
    """With fewer left over than half of the streams, the single runner has them."""
    alone: list[int] = []
    together = module._Together.run

    def run(self: Any, images: np.ndarray) -> np.ndarray:
        alone.append(len(images))
        return together(self, images)

    monkeypatch.setattr(module._Together, "run", run)
    monkeypatch.setattr(module, "_LARGE", 0)
    monkeypatch.setattr(module, "_threads", lambda compiled: streams)
    bundle = Bundle.open(bundle_source)
    spec = replace(bundle.manifest.spec, batch=(1, 1, 8))
    session = BACKENDS["openvino"].open(bundle.read("onnx/fp32.onnx"), spec)
    for count in range(2, 9):
        alone.clear()
        np.testing.assert_allclose(session.run(digit_frames[:count]), expected[:count], atol=1e-4)
        rest = count % streams
        assert alone == [1] * (rest if 2 * rest <= streams else 0)
    session.close()


def test_on_arm_products_stay_products(
    bundle_source: Path,
    digit_frames: np.ndarray,
    expected: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_LARGE", 0)
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    monkeypatch.setattr(module, "as_convolutions", lambda *a: pytest.fail("were replaced"))
    bundle = Bundle.open(bundle_source)
    session = BACKENDS["openvino"].open(bundle.read("onnx/fp32.onnx"), bundle.manifest.spec)
    for count in (1, 3):
        np.testing.assert_allclose(session.run(digit_frames[:count]), expected[:count], atol=1e-4)
    session.close()


def test_threads_that_ask_at_once_get_their_own_answers(
    open_digits: Open, digit_frames: np.ndarray, expected: np.ndarray
) -> None:
    session, wrong = open_digits(), []

    def ask(offset: int) -> None:
        for turn in range(20):
            start, count = (offset + turn) % 4, 1 + (offset + turn) % 4
            answer = session.run(digit_frames[start : start + count])
            if not np.allclose(answer, expected[start : start + count], atol=1e-4):
                wrong.append((start, count))

    threads = [threading.Thread(target=ask, args=(offset,)) for offset in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_what_comes_after_the_end_is_refused(open_digits: Open, digit_frames: np.ndarray) -> None:
    """Batches too, though nothing was opened for them yet."""
    session = open_digits()
    session.close()
    for count in (1, 4):
        with pytest.raises(ClosedError):
            session.run(digit_frames[:count])
    session.close()


class _Nothing:
    """Answers nothing."""

    def run(self, images: np.ndarray) -> np.ndarray:
        return np.zeros((len(images), 1), np.float32)

    def close(self) -> None: ...


@pytest.mark.parametrize(
    "end", [lambda session: session.run(np.zeros((2, 1))), OpenVinoSession.close]
)
def test_weights_that_are_not_needed_any_more_are_let_go(end: Callable[[Any], Any]) -> None:
    """What opens batches holds them until then."""
    weights = _Nothing()
    kept = weakref.ref(weights)
    session = OpenVinoSession(_Nothing(), lambda held=weights: _Nothing())  # type: ignore[misc]
    del weights
    gc.collect()
    assert kept() is not None
    end(session)
    gc.collect()
    assert kept() is None


def test_a_failure_says_why_and_the_next_call_is_answered(
    open_digits: Open, digit_frames: np.ndarray, expected: np.ndarray
) -> None:
    session = open_digits()
    for count in (1, 4):
        with pytest.raises(EngineError, match="OpenVINO failed: ") as caught:
            session.run(digit_frames[:count, :-1])  # a row too few
        assert "\n" not in str(caught.value)
        np.testing.assert_allclose(session.run(digit_frames[:count]), expected[:count], atol=1e-4)


def test_pixels_that_are_read_only(
    open_digits: Open, digit_frames: np.ndarray, expected: np.ndarray
) -> None:
    session, frames = open_digits(), digit_frames[:3].copy()
    frames.flags.writeable = False
    np.testing.assert_allclose(session.run(frames), expected[:3], atol=1e-4)


def test_16_bits_are_those_of_the_graph(
    open_digits: Open, digit_frames: np.ndarray, expected: np.ndarray
) -> None:
    session = open_digits("fp16")
    for count in (1, 4):
        np.testing.assert_allclose(session.run(digit_frames[:count]), expected[:count], atol=0.02)


def test_8_bits_are_256_levels_on_every_graph(
    open_digits: Open, digit_frames: np.ndarray, expected: np.ndarray, bundle_source: Path
) -> None:
    """OpenVINO has rounded to 9 levels where it misread a Q/DQ pair: 0.18 off, silently."""
    session = open_digits("int8")
    batch = session.run(digit_frames)
    single = np.concatenate([session.run(frame[None]) for frame in digit_frames])
    for answer in (batch, single):
        assert np.sqrt(np.mean((answer - expected) ** 2)) / expected.std() < 0.05
