"""The TensorRT session on an emulated GPU: answers, memory, graphs, errors."""

from __future__ import annotations

import logging
import threading

import numpy as np
import pytest

from tests.specs import engine_spec
from vit_edge.runtime.backends import cuda
from vit_edge.runtime.backends.tensorrt import contexts
from vit_edge.runtime.errors import ClosedError, EngineError, ResourceError

from .emulation import tensorrt as emulated
from .rig import Rig
from .tiny import MAX_BATCH, SPEC, tiny_frames, tiny_scores


def test_answers_are_the_graphs_at_every_batch_size(rig: Rig) -> None:
    session = rig.open()
    for seed, size in enumerate((8, 1, 3, 8, 1, 3, 8, 1, 3)):
        frames = tiny_frames(size, seed)
        np.testing.assert_array_equal(session.run(frames), tiny_scores(frames))
    session.close()


def test_an_answer_is_the_callers_own(rig: Rig) -> None:
    session = rig.open()
    first = session.run(tiny_frames(2))
    kept = first.copy()
    session.run(tiny_frames(2, seed=9))
    np.testing.assert_array_equal(first, kept)
    session.close()


def test_nothing_is_allocated_once_it_is_warm(rig: Rig) -> None:
    session = rig.open()
    for _ in range(2):
        session.run(tiny_frames(4))
    before = rig.gpu.allocations
    for _ in range(5):
        session.run(tiny_frames(4))
    assert rig.gpu.allocations == before
    session.close()


def test_any_allocation_may_fail(rig: Rig) -> None:
    """The n-th one, for every n until all is well: the engine opens and is right, or says that
    there is no memory; whichever it is, nothing is left behind.
    """
    frames, refusals, n = tiny_frames(2), list[str](), 0
    while rig.gpu.fail_allocation is None or rig.gpu.fail_allocation < 0:
        rig.gpu.fail_allocation = n
        try:
            session = rig.open()
        except ResourceError as error:
            refusals.append(str(error))
        else:
            for size in (2, 2, 1, 1):
                np.testing.assert_array_equal(
                    session.run(frames[:size]), tiny_scores(frames[:size])
                )
            session.close()
        assert [what for what in rig.gpu.problems() if "context" not in what] == []
        n += 1
    assert all("memory" in refusal.lower() for refusal in refusals)
    assert len(refusals) >= 7  # stream, event, four buffers, working memory, a context


class TestGraphs:
    def test_the_second_run_of_a_size_is_captured_and_later_ones_launched(self, rig: Rig) -> None:
        session = rig.open()
        for size in (4, 4, 4, 2, 4, 2, 2, 1):
            session.run(tiny_frames(size))
        expected = (0, 0) if rig.captures_itself else (2, 5)  # 4: 3 of 4 runs, 2: 2 of 3, 1: none
        assert (rig.count("capture"), rig.count("launch")) == expected
        session.close()

    def test_the_least_recently_used_goes_first(
        self, full: Rig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(contexts.TrtContextFactory, "max_contexts", 2)
        session = full.open()
        for size in (1, 1, 2, 2, 1, 3, 3, 1):  # 3 takes the place of 2, and 1 stays
            np.testing.assert_array_equal(
                session.run(tiny_frames(size)), tiny_scores(tiny_frames(size))
            )
        assert full.count("capture") == 3
        assert full.kinds("executable graph") == 2
        assert len(full.gpu.contexts) == 2
        session.run(tiny_frames(2))
        assert full.kinds("executable graph") == 1
        session.close()

    def test_an_engine_that_cannot_be_captured_runs_without(
        self, full: Rig, caplog: pytest.LogCaptureFixture
    ) -> None:
        full.library.refuse.add("capture")
        session = full.open()
        with caplog.at_level(logging.WARNING):
            for size in (4, 4, 4, 2, 2, 2):
                frames = tiny_frames(size)
                np.testing.assert_array_equal(session.run(frames), tiny_scores(frames))
        assert sum("without CUDA graphs" in text for text in caplog.messages) == 1
        assert full.count("launch") == 0
        session.close()

    def test_other_threads_may_use_cuda_during_a_capture(
        self, full: Rig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Such as PyTorch, which allocates when it pleases."""
        execute = emulated.Context.execute_async_v3

        def allocate() -> None:
            full.cuda.cudaFree(full.cuda.cudaMalloc(64)[1])

        def disturbed(self: emulated.Context, stream_handle: int) -> bool:
            if full.gpu.stream(stream_handle).capture is not None:
                other = threading.Thread(target=allocate)
                other.start()
                other.join()
            return execute(self, stream_handle)

        monkeypatch.setattr(emulated.Context, "execute_async_v3", disturbed)
        session = full.open()
        for _ in range(3):
            session.run(tiny_frames(2))
        assert full.count("capture") == 1
        session.close()

    def test_fewer_contexts_will_do_where_memory_is_short(
        self, full: Rig, caplog: pytest.LogCaptureFixture
    ) -> None:
        session = full.open()
        session.run(tiny_frames(1))
        full.gpu.fail_allocation = 0
        for size in (2, 1, 2, 1):
            frames = tiny_frames(size)
            np.testing.assert_array_equal(session.run(frames), tiny_scores(frames))
        assert len(full.gpu.contexts) == 1
        assert sum("1 execution context" in text for text in caplog.messages) == 1
        session.close()


class TestErrors:
    def test_an_engine_of_another_version_is_refused_with_the_remedy(self, rig: Rig) -> None:
        with pytest.raises(EngineError, match="vit-edge build") as caught:
            rig.open(b"bad")
        assert "version tag does not match" in str(caught.value)
        assert not isinstance(caught.value, ResourceError)

    def test_an_engine_for_which_there_is_no_memory_may_be_opened_later(
        self, rig: Rig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Only its log says so, but for TensorRT for RTX."""

        def refuse(self: emulated.Runtime, blob: bytes) -> None:
            if not rig.captures_itself:
                error = "[allocate] Error Code 2: OutOfMemory (Requested size was 9 bytes.)"
                self.logger.log(rig.library.ILogger.ERROR, error)

        def validity(self: emulated.Runtime, buffer: bytes) -> tuple[None, int]:
            return None, int(rig.library.EngineInvalidityDiagnostics.INSUFFICIENT_GPU_MEMORY)

        with monkeypatch.context() as patch:
            patch.setattr(emulated.Runtime, "deserialize_cuda_engine", refuse)
            patch.setattr(emulated.Runtime, "get_engine_validity", validity)
            with pytest.raises(ResourceError, match="cannot open this engine"):
                rig.open()
        rig.open().close()

    def test_wrong_tensors_are_refused(self, rig: Rig) -> None:
        other = engine_spec("pixels", "logits", SPEC.image_shape, 5, SPEC.batch)
        with pytest.raises(EngineError, match="its tensors are"):
            rig.open(spec=other)

    def test_a_batch_outside_the_engines_profile_is_refused(self, rig: Rig) -> None:
        wide = engine_spec("images", "logits", SPEC.image_shape, 5, (1, 9, 9))
        session = rig.open(spec=wide)
        for size in (9, 10):
            with pytest.raises(EngineError, match="outside the engine's profile"):
                session.run(tiny_frames(size))
        session.run(tiny_frames(8))
        session.close()

    @pytest.mark.parametrize(
        ("method", "reason"),
        [
            ("execute_async_v3", "execute_async_v3 failed: enqueueV3: internal error$"),
            ("set_tensor_address", "the address of 'images' was refused"),
        ],
    )
    def test_what_tensorrt_refuses_once_works_later(
        self, rig: Rig, method: str, reason: str
    ) -> None:
        session, frames = rig.open(), tiny_frames(2)
        for _ in range(3):
            rig.library.refuse.add(method)
            with pytest.raises(EngineError, match=reason) as caught:
                session.run(tiny_frames(3))
            assert str(caught.value).count("internal") <= 1
            rig.library.refuse.clear()
            np.testing.assert_array_equal(session.run(frames), tiny_scores(frames))
        session.close()

    def test_what_was_queued_before_a_failure_is_waited_for(self, rig: Rig) -> None:
        """It still uses the buffers, which are freed at once."""
        session = rig.open()
        rig.library.refuse.add("execute_async_v3")
        with pytest.raises(EngineError, match="failed"):
            session.run(tiny_frames(1))
        session.close()

    def test_a_refused_address_costs_no_context(self, rig: Rig) -> None:
        """There is no memory for another one."""
        session, rig.gpu.fail_allocation = rig.open(), 0
        rig.library.refuse.add("set_tensor_address")
        with pytest.raises(EngineError, match="refused"):
            session.run(tiny_frames(1))
        rig.library.refuse.clear()
        np.testing.assert_array_equal(session.run(tiny_frames(1)), tiny_scores(tiny_frames(1)))
        session.close()

    @pytest.mark.parametrize("error", ["cudaErrorDevicesUnavailable", "cudaErrorMpsServerNotReady"])
    def test_a_busy_device_is_told_from_one_that_fails(self, rig: Rig, error: str) -> None:
        session = rig.open()
        for status, kind in ((error, ResourceError), ("cudaErrorUnknown", EngineError)):
            rig.gpu.break_next = status
            for _ in range(2):  # while it waits for its work, and when it queues more
                with pytest.raises(EngineError, match=status) as caught:
                    session.run(tiny_frames(1))
                assert type(caught.value) is kind
            rig.gpu.broken = None
        np.testing.assert_array_equal(session.run(tiny_frames(1)), tiny_scores(tiny_frames(1)))
        session.close()

    def test_memory_that_tensorrt_lacks_in_a_call_is_a_shortage(
        self, rig: Rig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def execute(self: emulated.Context, stream_handle: int) -> bool:
            error = "Error Code 1: Cuda Runtime (out of memory)"
            self.engine.runtime.logger.log(rig.library.ILogger.ERROR, error)
            return False

        session = rig.open()
        with monkeypatch.context() as patch:
            patch.setattr(emulated.Context, "execute_async_v3", execute)
            with pytest.raises(ResourceError, match="execute_async_v3 failed: Error Code 1"):
                session.run(tiny_frames(1))
        session.run(tiny_frames(1))
        session.close()

    def test_an_error_that_lasts_is_told_as_such_and_closing_still_works(self, rig: Rig) -> None:
        session = rig.open()
        session.run(tiny_frames(1))
        rig.gpu.break_next = "cudaErrorIllegalAddress"
        for _ in range(2):
            with pytest.raises(EngineError, match=r"cudaErrorIllegalAddress.*restart"):
                session.run(tiny_frames(1))
        with pytest.raises(EngineError, match="cudaErrorIllegalAddress") as caught:
            rig.open()
        assert not isinstance(caught.value, ResourceError)
        session.close()
        with pytest.raises(ClosedError):
            session.run(tiny_frames(1))
        assert rig.gpu.violations == []
        rig.gpu.blocks.clear()  # all of it is lost until the process ends
        rig.gpu.resources.clear()

    def test_a_driver_that_is_too_old_is_told_with_the_remedy(self, full: Rig) -> None:
        full.cuda._functions.driver_version = 12040
        problem = cuda.device_problem()
        assert problem is not None
        assert "knows CUDA up to 12.4, cuda-bindings is for 13.5" in problem
        assert "cuda-bindings<13'" in problem
        full.cuda._functions.driver_version = 0
        assert "no NVIDIA driver is installed" in str(cuda.device_problem())
        full.cuda._functions.driver_version = 13050
        assert cuda.device_problem() is None


def test_a_session_stays_on_the_device_that_it_was_opened_on(rig: Rig) -> None:
    """Each thread has a current device of its own, and an application may change it."""
    rig.cuda.cudaSetDevice(1)
    session = rig.open()
    answers: list[np.ndarray] = []
    frames = tiny_frames(3)
    thread = threading.Thread(target=lambda: answers.append(session.run(frames)))  # on device 0
    thread.start()
    thread.join()
    assert {block.device for block in rig.gpu.blocks.values()} == {1}
    np.testing.assert_array_equal(answers[0], tiny_scores(frames))
    rig.cuda.cudaSetDevice(0)
    session.run(frames)
    assert rig.cuda.cudaGetDevice()[1] == 0
    session.close()


def test_buffers_are_for_the_largest_batch(rig: Rig) -> None:
    session = rig.open()
    sizes = sorted(block.size for block in rig.gpu.blocks.values() if block.kind == "pinned")
    assert sizes == [MAX_BATCH * 5 * 4, MAX_BATCH * 48]
    session.close()
