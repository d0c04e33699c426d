"""The engine that an application embeds.

with Engine.load("build/vit_digits") as engine:
    scores = engine(frames)     # uint8 [N, height, width, channels] -> float32 [N, classes]

A model with several outputs returns a dict of them, by name.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .answers import TopK
from .backends import Frames, Session
from .backends.base import give_back_freed
from .bundle import Bundle
from .deployment import Deployment
from .device_array import DeviceArray
from .errors import ClosedError, InputError
from .frames import check_frames, cut, run_frames
from .manifest import Manifest
from .outputs import OutputSpec, unpack
from .preprocess import Preprocess
from .selection import open_best

if TYPE_CHECKING:
    from .observer import ObservedCalls, Observer
    from .trust import PublicKey


@dataclass(frozen=True)
class EngineInfo:
    """The engine that runs, where, and why it was chosen.

    Attributes:
        precision: One of the bundle's precisions.
        backend: Name of the backend.
        version: Version of the backend's library.
        device: Name of the device that it runs on.
        why: The latency, the next best, and what was refused, with the reason.
        threads: CPU threads that compute one call; None on a GPU.
        not_run: Reasons why other backends cannot run here, by name.
        evidence: Reason why the export's images could not prove its accuracy; "" if they could.
        variant: Name of the variant that `vit-edge tune` found to run fastest here; "" for the
            default.
    """

    precision: str
    backend: str
    version: str
    device: str
    why: str
    threads: int | None = None
    not_run: dict[str, str] = field(default_factory=dict)
    evidence: str = ""
    variant: str = ""

    def __str__(self) -> str:
        threads = f", {self.threads} threads" if (self.threads or 1) > 1 else ""
        threads = ", 1 thread" if self.threads == 1 else threads
        tuned = f", tuned: {self.variant}" if self.variant else ""
        return f"{self.precision} on {self.backend} {self.version}, {self.device}{threads}{tuned}"


class Engine:
    """A ViT on this device's best backend. Thread-safe; a context manager; call `close` otherwise.

    Attributes:
        info: The precision, backend and device, and why they were chosen.
        preprocess: Turns images into frames.
        top: Finds the likeliest classes of an image from its outputs.
        labels: Names of the classes, or None.
        outputs: Names, kinds and shapes of the model's outputs.
        output: Name of the first one.
    """

    info: EngineInfo
    preprocess: Preprocess
    top: TopK
    labels: tuple[str, ...] | None
    outputs: tuple[OutputSpec, ...]
    output: str

    def __init__(
        self,
        session: Session,
        manifest: Manifest,
        info: EngineInfo,
        observer: Observer | None = None,
    ) -> None:
        self._session: Session | None = session
        self._spec = manifest.spec
        self.info, self.preprocess, self.labels = info, manifest.preprocess, manifest.labels
        self.outputs = manifest.spec.outputs
        self.output = self.outputs[0].name
        self.top = TopK(self.labels, manifest.spec.labelled or self.outputs[0])
        self._name = manifest.name
        self._as_it_is = len(self.outputs) == len(self.outputs[0].shape) == 1
        self._watch: ObservedCalls | None = None
        if observer is not None:
            from .observer import ObservedCalls  # only where there is one

            self._watch = ObservedCalls(observer, info, self.outputs)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        precision: str | None = None,
        backend: str | None = None,
        public_key: PublicKey | None = None,
        threads: int | None = None,
        observer: Observer | None = None,
    ) -> Engine:
        """Verifies the bundle at `path` and opens its best engine.

        Hashes are checked at every load, the outputs for the golden samples at an engine's first
        load on this device.

        Args:
            path: A bundle that `vit-edge export` wrote.
            precision: The precision; None: the best here. Engines that can run are measured at the
                bundle's first load on this device, which takes a few seconds; within noise the one
                with the smallest error is taken.
            backend: The backend; None: the best here, likewise.
            public_key: Requires this key's signature, and a release that is not older than one that
                has run here.
            threads: CPU threads that compute one call; None: one for each core that this process
                may use, within a container's quota. Not used on a GPU.
            observer: Receives every call; those in `vit_edge.runtime.tools.health` watch metrics
                and drift.

        Raises:
            InputError: if the precision, backend, public key or number of threads is invalid.
            BundleError: if the bundle is missing or altered.
            SignatureError: if it is not signed with `public_key`.
            RollbackError: if it is older than one that this device has run.
            BackendError: if nothing in the bundle can run here.
            EngineError: if the backend refuses the engine that was asked for.
            SelfCheckError: if its outputs are wrong here.
        """
        from .backends.process import ProcessSession

        bundle = Bundle.open(path, public_key)
        deployment = Deployment(bundle, threads)
        chosen = open_best(deployment, deployment.candidates(precision, backend))
        candidate, session = chosen.candidate, chosen.session
        used = candidate.backend
        info = EngineInfo(
            candidate.precision,
            used.name,
            used.version(),
            used.device(),
            chosen.why,
            session.threads,
            chosen.not_run,
            bundle.manifest.precisions[candidate.precision].evidence,
            "" if candidate.variant is None else candidate.variant.name,
        )
        reopen = (lambda: deployment.open(candidate)) if used.opens_after_fork else None
        engine = cls(ProcessSession(session, used.name, reopen), bundle.manifest, info, observer)
        try:
            bundle.remember_release()
        except BaseException:
            engine.close()
            raise
        give_back_freed()
        return engine

    def __call__(self, frames: Any) -> Any:
        """Runs frames, uint8 `[N, height, width, channels]` with any N > 0. Returns the model's
        output, float32 `[N, *shape]` such as `[N, classes]`; several outputs as a dict by name.

        Args:
            frames: A numpy array, or another library's array in host memory (DLPack) or on the GPU
                that the engine runs on (`__cuda_array_interface__`, DLPack). Contiguous ones are
                not copied.

        Raises:
            InputError: if `frames` have another shape or dtype, or lie where the backend cannot
                read them.
            ClosedError: if the engine is closed.
            EngineError: if the backend fails.
        """
        watch = self._watch
        packed = self._run(frames)[1] if watch is None else watch.call(lambda: self._run(frames))
        return packed if self._as_it_is else self._named(packed)

    def _run(self, frames: Any) -> tuple[Frames, NDArray[np.float32]]:
        """Returns the checked frames and their packed outputs."""
        session = self._opened()
        checked = self._check(session, frames)
        return checked, run_frames(session, self._spec, checked)

    def stream(self, frames: Iterable[Any]) -> Iterator[Any]:
        """Runs frames as they come, in order: the next ones are fetched, and copied to the GPU,
        while the engine computes.

        Args:
            frames: Yields what the engine takes when called, or single frames uint8 `[height,
                width, channels]`; is read at most a few items ahead of the outputs. Each item
                needs a buffer of its own: it is still read when the next is requested.

        Yields:
            Outputs as a call returns them, for `[N, height, width, channels]`; for a single frame
            the same without the first axis.

        Raises:
            InputError, ClosedError, EngineError: as above. An exception of `frames` itself is
                raised after the outputs of all that it yielded before.
        """
        answers = self._stream(frames)
        return answers if self._watch is None else self._watch.stream(answers)

    def _stream(self, frames: Iterable[Any]) -> Iterator[Any]:
        session, watch = self._opened(), self._watch
        failures = list[Exception]()
        counts: deque[tuple[int, ...]] = deque()  # of the frames in each part of an item
        arrivals: deque[tuple[Frames, float]] = deque()  # for the observer

        def parts() -> Iterator[Frames]:
            for item in frames:
                single = isinstance(item, np.ndarray) and item.ndim == 3
                checked = self._check(session, item[None] if single else item)
                pieces = list(cut(checked, self._spec))
                counts.append(() if single else tuple(piece.count for piece in pieces))
                if watch is not None:
                    arrivals.append((checked, time.perf_counter()))
                yield from (piece.images for piece in pieces)

        answers = session.stream(_until_failure(parts(), failures))
        for first in answers:
            expected = counts.popleft()
            packed = first[: expected[0]] if expected else first
            rest = [next(answers)[:count] for count in expected[1:]]
            packed = np.concatenate([packed, *rest]) if rest else packed
            if watch is not None:
                came, start = arrivals.popleft()
                watch.answered(came, packed[: len(came)], start)
            yield self._named(packed) if expected else self._of_one(packed)
        if failures:
            raise failures[0]

    def _named(self, packed: NDArray[np.float32]) -> Any:
        views = unpack(packed, self.outputs)
        return views if len(views) > 1 else views[self.output]

    def _of_one(self, packed: NDArray[np.float32]) -> Any:
        views = {name: view[0] for name, view in unpack(packed, self.outputs).items()}
        return views if len(views) > 1 else views[self.output]

    def _opened(self) -> Session:
        session = self._session
        if session is None:
            raise ClosedError()
        return session

    def _check(self, session: Session, frames: Any) -> Frames:
        checked = check_frames(frames, self._spec)
        if isinstance(checked, DeviceArray) and not session.takes_device_arrays:
            raise InputError(
                f"the frames lie on a GPU, and {self.info.backend} runs on {self.info.device}: "
                "pass a numpy array"
            )
        return checked

    def __repr__(self) -> str:
        size = ", ".join(map(str, self._spec.image_shape))
        gives = ", ".join(
            f"{o.name} [{', '.join(map(str, ('N', *o.shape)))}]" for o in self.outputs
        )
        closed = ", closed" if self._session is None else ""
        return f"<Engine {self._name}: uint8 [N, {size}] -> {gives}; {self.info}{closed}>"

    def __reduce__(self) -> Any:
        raise TypeError(
            "an engine cannot be sent to another process: send the bundle's path, and load it there"
        )

    def close(self) -> None:
        """Frees the engine. Closing twice is fine."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _until_failure(items: Iterable[Frames], failures: list[Exception]) -> Iterator[Frames]:
    """Yields items until their source raises; the error goes to `failures`, because a backend that
    saw it would drop the outputs that are under way.
    """
    try:
        yield from items
    except Exception as error:
        failures.append(error)
