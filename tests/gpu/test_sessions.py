"""The TensorRT session on a real GPU: graphs, threads, streams, frames on the GPU, memory."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from vit_edge.runtime.backends import cuda
from vit_edge.runtime.bundle import Bundle
from vit_edge.runtime.device_cache import DeviceCache
from vit_edge.runtime.engine import Engine
from vit_edge.runtime.errors import InputError

from ..concurrency import wrong_answers

pytestmark = pytest.mark.gpu

TOLERANCE = 1e-3
"""Of fp32 logits between batch sizes, whose kernels differ."""


@pytest.fixture
def on_gpu(digit_frames: np.ndarray) -> torch.Tensor:
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch has no CUDA")
    return torch.from_numpy(digit_frames).cuda()


def test_a_graphs_answers_are_the_plain_ones(
    engine: Engine, digit_frames: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    """The first run of a size is plain, the second captured, the third launched."""
    with caplog.at_level(logging.WARNING):
        for size in (1, 3, 4):
            plain, *others = [engine(digit_frames[:size]) for _ in range(5)]
            for other in others:
                np.testing.assert_allclose(other, plain, atol=TOLERANCE)
    assert not [text for text in caplog.messages if "without CUDA graphs" in text]


def test_threads_get_their_own_answers(engine: Engine, digit_frames: np.ndarray) -> None:
    assert wrong_answers(engine, digit_frames, engine(digit_frames), 200, TOLERANCE) == []


def test_a_stream_answers_in_order(engine: Engine, digit_frames: np.ndarray) -> None:
    expected = engine(digit_frames)
    order = np.random.default_rng(0).integers(0, 10, 200)
    answers = list(engine.stream(digit_frames[i] for i in order))
    np.testing.assert_allclose(answers, expected[order], atol=TOLERANCE)
    partly = engine.stream(digit_frames[i] for i in order)
    next(partly)
    partly.close()
    np.testing.assert_allclose(engine(digit_frames), expected, atol=TOLERANCE)


def test_frames_on_the_gpu_are_taken(
    engine: Engine, digit_frames: np.ndarray, on_gpu: torch.Tensor
) -> None:
    expected = engine(digit_frames)
    for _ in range(3):
        np.testing.assert_allclose(engine(on_gpu), expected, atol=TOLERANCE)
        np.testing.assert_allclose(engine(on_gpu[3:]), expected[3:], atol=TOLERANCE)
    streamed = np.concatenate(list(engine.stream([on_gpu[:4], on_gpu[4:5], on_gpu[5:]])))
    np.testing.assert_allclose(streamed, expected, atol=TOLERANCE)
    with pytest.raises(InputError, match="not C-contiguous"):
        engine(on_gpu.permute(0, 2, 1, 3))


def test_what_another_stream_still_writes_is_waited_for(
    engine: Engine, digit_frames: np.ndarray, on_gpu: torch.Tensor
) -> None:
    expected = engine(digit_frames)
    late = torch.zeros_like(on_gpu)
    with torch.cuda.stream(torch.cuda.Stream()):
        for _ in range(3):
            late.zero_()
            torch.cuda._sleep(50_000_000)
            late.copy_(on_gpu, non_blocking=True)
            np.testing.assert_allclose(engine(late), expected, atol=TOLERANCE)


def test_frames_on_another_gpu_are_refused(engine: Engine, on_gpu: torch.Tensor) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one GPU here")
    with pytest.raises(InputError, match="not on GPU 0"):
        engine(on_gpu.to("cuda:1"))


def test_closing_gives_the_memory_back(
    gpu_backend: str, bundle_source: Path, digit_frames: np.ndarray
) -> None:
    def use() -> int:
        with Engine.load(bundle_source, "fp32", gpu_backend) as engine:
            for size in (1, 1, 1, 4, 4, 4):
                list(engine.stream([digit_frames[:size]] * 3))
        free, _ = cuda._call("cudaMemGetInfo")
        return int(free)

    use()  # what the libraries keep for good
    before = use()
    for _ in range(4):
        after = use()
    assert before - after < 8 << 20


def test_what_is_compiled_here_is_kept(
    gpu_backend: str, bundle_source: Path, digit_frames: np.ndarray
) -> None:
    if gpu_backend != "tensorrt-rtx":
        pytest.skip("full TensorRT compiles nothing at run time")
    with Engine.load(bundle_source, "fp32", gpu_backend) as engine:
        engine(digit_frames)
        info = engine.info
    key = f"fp32|{gpu_backend}|{info.version}|{info.device}"
    kept = DeviceCache.of(Bundle.open(bundle_source).digest).scratch(key).read()
    assert kept is not None
    assert len(kept) > 1000
