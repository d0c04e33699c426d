"""The emulated machine: memory, streams with deferred work, events, graphs.

Source: CUDA Runtime API; CUDA C++ Programming Guide, "Asynchronous Concurrent Execution" and "CUDA
Graphs".
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

FRESH, GARBAGE, FREED = 0xCD, 0xFF, 0xDD
"""What memory holds when it is new, when a queued copy will fill it, after it was freed. Floats of
0xFF bytes are not numbers."""
ALIGNMENT = 256
LEGACY, PER_THREAD = 1, 2


@dataclass
class Block:
    """Memory: "device", "pinned" or "managed"."""

    kind: str
    address: int
    size: int
    device: int
    storage: Any

    def fill(self, value: int) -> None:
        ctypes.memset(self.address, value, self.size)


@dataclass
class Work:
    """Something that a stream does when its turn comes. `queued` happens at once, on the host."""

    name: str
    run: Callable[[], None]
    queued: Callable[[], None] = lambda: None


@dataclass
class Capture:
    """A stream's capture under way."""

    thread: int
    everywhere: bool
    work: list[Work] = field(default_factory=list)
    valid: bool = True


@dataclass
class Stream:
    device: int
    queue: deque[Work] = field(default_factory=deque)
    queued: int = 0
    done: int = 0
    capture: Capture | None = None


@dataclass
class Executable:
    """An instantiated graph."""

    work: list[Work]
    launched: int = 0
    finished: int = 0


class Machine:
    """Everything there is on the emulated machine.

    Attributes:
        violations: What went wrong that real hardware need not report.
        trace: Names of what was queued ("execute", ...) and waited for ("synchronize"), in order.
        fail_allocation: The allocations left until one fails; None is never.
        broken: A CUDA error that lasts, once there is one.
        break_next: Makes the next work that runs fail so.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.blocks: dict[int, Block] = {}
        self.freed: list[Block] = []
        self.resources: dict[int, tuple[str, Any]] = {}  # streams, events, graphs, executables
        self.default_streams = {LEGACY: Stream(0), PER_THREAD: Stream(0)}
        self.contexts: weakref.WeakSet[Any] = weakref.WeakSet()
        self.engines: weakref.WeakSet[Any] = weakref.WeakSet()
        self.violations: list[str] = []
        self.trace: list[str] = []
        self.allocations = 0
        self.fail_allocation: int | None = None
        self.broken: str | None = None
        self.break_next: str | None = None
        self.current = threading.local()
        self._handles = 1000

    def problems(self) -> list[str]:
        """Violations, and what was never freed."""
        leaks = [f"leaked {block.kind} memory of {block.size}" for block in self.blocks.values()]
        leaks += [f"leaked {kind}" for kind, _ in self.resources.values()]
        leaks += [f"leaked {len(self.contexts)} contexts"] if len(self.contexts) else []
        return [*self.violations, *leaks]

    def note(self, violation: str) -> None:
        self.violations.append(violation)

    def may_allocate(self) -> bool:
        self.allocations += 1
        if self.fail_allocation is None:
            return True
        self.fail_allocation -= 1
        return self.fail_allocation != -1

    def allocate(self, kind: str, size: int, device: int) -> Block:
        storage = (ctypes.c_uint8 * (size + ALIGNMENT))()
        start = ctypes.addressof(storage)
        block = Block(kind, start + -start % ALIGNMENT, size, device, storage)
        block.fill(FRESH)
        self.blocks[block.address] = block
        return block

    def free(self, address: int) -> None:
        block = self.blocks.pop(address)
        block.fill(FREED)
        self.freed.append(block)  # its pages stay, so that whoever still uses them is found out

    def find(self, address: int, size: int = 1) -> Block | None:
        """The live block that holds all of these bytes."""
        for block in self.blocks.values():
            if block.address <= address and address + size <= block.address + block.size:
                return block
        return None

    def require(self, address: int, size: int, kinds: tuple[str, ...], what: str) -> bool:
        block = self.find(address, size)
        if block is None or block.kind not in kinds:
            stale = any(b.address <= address < b.address + b.size for b in self.freed)
            state = "freed" if stale else "no" if block is None else block.kind
            self.note(f"{what}: {state} memory where {' or '.join(kinds)} memory is needed")
            return False
        return True

    def keep(self, kind: str, resource: Any) -> int:
        self._handles += 1
        self.resources[self._handles] = (kind, resource)
        return self._handles

    def resource(self, kind: str, handle: int) -> Any:
        """Raises KeyError, which the emulated calls answer as an invalid handle."""
        found, resource = self.resources[int(handle)]
        if found != kind:
            raise KeyError(handle)
        return resource

    def stream(self, handle: int) -> Stream:
        known = self.default_streams.get(int(handle))
        return self.resource("stream", handle) if known is None else known

    def queue(self, handle: int, work: Work) -> None:
        """Adds work to a stream, or to the capture that it is in."""
        stream = self.stream(handle)
        if stream.capture is not None:
            stream.capture.work.append(work)
            return
        self.trace.append(work.name)
        work.queued()
        stream.queue.append(work)
        stream.queued += 1

    def drain(self, stream: Stream, until: int) -> None:
        """Does a stream's work up to its `until`-th piece, or up to what broke the machine."""
        while stream.done < until and self.broken is None:
            work = stream.queue.popleft()
            stream.done += 1
            if self.break_next is not None:
                self.broken, self.break_next = self.break_next, None
                return
            work.run()

    def invalidate_captures(self) -> bool:
        """A call that no capture of this thread (of any thread, in global mode) survives. Says
        whether there is one.
        """
        thread, found = threading.get_ident(), False
        for kind, stream in self.resources.values():
            capture = stream.capture if kind == "stream" else None
            if capture is not None and (capture.everywhere or capture.thread == thread):
                capture.valid, found = False, True
        return found
