"""Frames on the GPU in the TensorRT session: without a copy, and not before they are there."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from vit_edge.runtime.errors import InputError

from .emulation import LEGACY, producer_stream
from .rig import Rig
from .tiny import tiny_frames, tiny_scores


def test_they_are_read_where_they_are(rig: Rig) -> None:
    session, frames = rig.open(), tiny_frames(3)
    np.testing.assert_array_equal(session.run(rig.array(frames)), tiny_scores(frames))
    assert rig.count("cudaMemcpyHostToDevice") == rig.count("cudaMemcpyDeviceToDevice") == 0
    session.close()


@pytest.mark.parametrize("stream", ["own", "default"])
def test_what_is_still_being_written_is_waited_for(rig: Rig, stream: str) -> None:
    session, frames = rig.open(), tiny_frames(3)
    producer = producer_stream(rig.gpu) if stream == "own" else LEGACY
    for _ in range(3):
        array = rig.array(frames, stream=producer)
        np.testing.assert_array_equal(session.run(array), tiny_scores(frames))
    session.close()
    rig.gpu.resources.pop(producer, None)


def test_without_a_stream_the_default_one_is_waited_for(rig: Rig) -> None:
    """Versions 0 to 2 of the interface say nothing of streams."""
    session, frames = rig.open(), tiny_frames(2)
    source = rig.on_gpu(frames, stream=LEGACY)
    source.version = 2
    found = rig.seen(source)
    np.testing.assert_array_equal(session.run(found), tiny_scores(frames))
    session.close()


def test_the_buffers_of_a_camera_get_a_graph_each(rig: Rig) -> None:
    session, frames = rig.open(), [tiny_frames(2, seed) for seed in range(3)]
    buffers = [rig.array(images) for images in frames]
    for _ in range(4):
        for images, buffer in zip(frames, buffers, strict=True):
            np.testing.assert_array_equal(session.run(buffer), tiny_scores(images))
    assert rig.count("capture") == (0 if rig.captures_itself else 3)
    assert rig.count("launch") == (0 if rig.captures_itself else 9)
    session.close()


def test_addresses_that_never_come_back_cost_no_capture(full: Rig) -> None:
    session = full.open()
    for seed in range(30):
        frames = tiny_frames(1, seed)
        np.testing.assert_array_equal(session.run(full.array(frames)), tiny_scores(frames))
    assert full.count("capture") == 0
    assert len(full.gpu.contexts) == 8
    session.close()


@pytest.mark.parametrize("offset", [1, 48, 128])
def test_unaligned_ones_are_copied_on_the_gpu(rig: Rig, offset: int) -> None:
    """TensorRT wants 256 bytes; slices of a batch begin anywhere."""
    session, frames = rig.open(), tiny_frames(2)
    for _ in range(3):
        array = rig.array(frames, offset=offset, stream=LEGACY)
        np.testing.assert_array_equal(session.run(array), tiny_scores(frames))
    assert rig.count("cudaMemcpyDeviceToDevice") == 3
    np.testing.assert_array_equal(session.run(frames), tiny_scores(frames))  # another input again
    session.close()


def test_a_part_of_a_batch_is_its_own(rig: Rig) -> None:
    session, frames = rig.open(), tiny_frames(8)
    part = rig.array(frames).part(2, 5)
    np.testing.assert_array_equal(session.run(part), tiny_scores(frames[2:5]))
    session.close()


def test_managed_memory_is_taken(rig: Rig) -> None:
    session, frames = rig.open(), tiny_frames(2)
    array = rig.array(frames, kind="managed", device=1)
    np.testing.assert_array_equal(session.run(array), tiny_scores(frames))
    session.close()


@pytest.mark.parametrize("where", [{"device": 1}, {"kind": "pinned"}])
def test_memory_elsewhere_is_refused(rig: Rig, where: dict[str, object]) -> None:
    session, frames = rig.open(), tiny_frames(2)
    with pytest.raises(InputError, match="not on GPU 0"):
        session.run(rig.array(frames, **where))
    np.testing.assert_array_equal(session.run(frames), tiny_scores(frames))
    session.close()


def test_their_owner_is_kept_until_the_answer(rig: Rig) -> None:
    session, frames = rig.open(), tiny_frames(2)
    source = rig.on_gpu(frames)
    rig.frames.clear()
    owner = weakref.ref(source)
    weakref.finalize(source, rig.gpu.free, source.block.address)
    batches = [tiny_frames(1), tiny_frames(1), rig.seen(source)]
    del source
    answers = session.stream(batches.pop() for _ in range(3))  # nobody else keeps them
    np.testing.assert_array_equal(next(answers), tiny_scores(frames))
    list(answers)
    gc.collect(1)
    assert owner() is None
    session.close()


def test_their_owner_is_let_go_when_the_reader_leaves(rig: Rig) -> None:
    session = rig.open()
    source = rig.on_gpu(tiny_frames(2))
    rig.frames.clear()
    owner = weakref.ref(source)
    weakref.finalize(source, rig.gpu.free, source.block.address)
    batches = [rig.seen(source), tiny_frames(1)]
    del source
    answers = session.stream(batches.pop() for _ in range(2))
    next(answers)
    assert owner() is not None
    answers.close()
    assert owner() is None
    session.close()


def test_a_stream_takes_them_too(rig: Rig) -> None:
    session = rig.open()
    batches = [tiny_frames(1 + seed % 3, seed) for seed in range(9)]
    arrays = (rig.array(batch, stream=LEGACY) for batch in batches)
    for answer, batch in zip(session.stream(arrays), batches, strict=True):
        np.testing.assert_array_equal(answer, tiny_scores(batch))
    session.close()
