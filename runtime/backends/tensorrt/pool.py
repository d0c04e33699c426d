"""Lanes shared by threads and streams.

Nobody waits for good: work that is queued and that nobody is waiting for, such as that of a stream
whose reader is busy elsewhere, is finished by whoever needs its lane.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ...errors import ClosedError, EngineError
from ..base import Frames
from .lanes import Lane

_log = logging.getLogger("vit_edge.tensorrt")

LANES = 2
"""One lane computes while the next one's frames are copied. More would share the same GPU, and each
costs the engine's working memory once more."""


class Pending:
    """The answer to a batch that is queued on a lane."""

    def __init__(self, lane: Lane, pool: LanePool) -> None:
        self._lane: Lane | None = lane
        self._pool = pool
        self._lock = threading.Lock()
        self._scores: NDArray[np.float32] | None = None
        self._error: EngineError | None = None

    def finish(self) -> None:
        """Waits for the answer and gives the lane back. Any thread may do it, any number of times;
        errors are kept for `result`.
        """
        with self._lock:
            if self._lane is None:
                return
            self._pool.claim(self)
            try:
                self._scores = self._lane.collect()
            except EngineError as error:
                self._error = error
            except BaseException:  # an interrupt, of whoever happens to wait here
                self._error = EngineError("the batch was interrupted")
                raise
            finally:
                lane, self._lane = self._lane, None
                self._pool.give_back(lane)

    def result(self) -> NDArray[np.float32]:
        """The answer. Raises EngineError if there is none."""
        self.finish()
        if self._scores is None:
            raise self._error or EngineError("there is no answer")
        return self._scores


class LanePool:
    """Up to `LANES` lanes: the first at once, a further one when all are busy.

    Raises:
        EngineError: if the first lane cannot be had.
    """

    def __init__(self, make: Callable[[], Lane]) -> None:
        self._make, self._limit = make, LANES
        self._lanes = [make()]
        self._idle = list(self._lanes)
        self._making = 0
        self._unclaimed: list[Pending] = []  # queued, and nobody waits for them; oldest first
        self._closed = False
        self._changed = threading.Condition()

    def run(self, images: Frames) -> NDArray[np.float32]:
        """Answers a batch, as soon as a lane is free.

        Raises:
            ClosedError: if the pool is closed.
            InputError, EngineError: as `Lane.enqueue` and `Lane.collect`.
        """
        lane = self._take()
        try:
            lane.enqueue(images)
            return lane.collect()
        finally:
            self.give_back(lane)

    def device_time_ms(self, images: Frames) -> float:
        """See `runtime.backends.base.DeviceTimed`. Raises as `run`."""
        lane = self._take()
        try:
            return lane.device_time_ms(images)
        finally:
            self.give_back(lane)

    def submit(self, images: Frames) -> Pending:
        """Queues a batch, as soon as a lane is free. Raises as `run`."""
        lane = self._take()
        try:
            lane.enqueue(images)
        except BaseException:
            self.give_back(lane)
            raise
        pending = Pending(lane, self)
        with self._changed:
            self._unclaimed.append(pending)
            self._wake()
        return pending

    def _take(self) -> Lane:
        while True:
            with self._changed:
                if self._closed:
                    raise ClosedError()
                if self._idle:
                    return self._idle.pop()
                grows = len(self._lanes) + self._making < self._limit
                if grows:
                    self._making += 1
                elif not self._unclaimed:
                    self._changed.wait()
                    continue
                else:
                    oldest = self._unclaimed.pop(0)
            if not grows:
                oldest.finish()
            elif (lane := self._grow()) is not None:
                return lane

    def _grow(self) -> Lane | None:
        lane = None
        try:
            lane = self._make()
        except EngineError as error:
            _log.warning("going on with %d lane(s): %s", len(self._lanes), str(error))
        finally:
            with self._changed:
                self._making -= 1
                if lane is None:
                    self._limit = len(self._lanes) + self._making
                else:
                    self._lanes.append(lane)
                self._wake()
        return lane

    def claim(self, pending: Pending) -> None:
        """Somebody waits for it now."""
        with self._changed:
            if pending in self._unclaimed:
                self._unclaimed.remove(pending)

    def give_back(self, lane: Lane) -> None:
        with self._changed:
            self._idle.append(lane)
            self._wake()

    def _wake(self) -> None:
        """Lets one who waits look again; whoever closes wants to see it too."""
        if self._closed:
            self._changed.notify_all()
        else:
            self._changed.notify()

    def close(self) -> None:
        """Lets running calls finish, then frees every lane. Closing twice is fine."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        while True:
            with self._changed:
                if self._unclaimed:
                    pending = self._unclaimed.pop(0)
                elif self._making or len(self._idle) < len(self._lanes):
                    self._changed.wait()
                    continue
                else:
                    lanes, self._lanes, self._idle = self._lanes, [], []
                    break
            pending.finish()
        for lane in lanes:
            lane.close()
