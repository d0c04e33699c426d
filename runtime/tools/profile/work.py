"""Work of one call of an engine, by kind, and two engines of which one ought to be faster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ...schema import printable
from ...selection import LEVEL
from ..measure.statistics import Estimate
from .kernels import KINDS, Kernel, layer_name, per_block, product_bits, shares

_WIDTHS = {"fp32": 32, "fp16": 16, "bf16": 16}
_QUANTISED = 8
_MOST_NAMES, _LONGEST = 1000, 200
_ROUNDING = 1e-6


def width(precision: str) -> int:
    """Bits of the numbers that a precision multiplies; 8 for all that are quantised."""
    return _WIDTHS.get(precision, _QUANTISED)


@dataclass(frozen=True)
class EngineCall:
    """An engine's call. Empty and None where it is not known.

    Attributes:
        precision, backend: Which engine.
        p50_ms: Its measured median.
        quantised: Share of the multiplications that its graph quantises.
        fallback: The layers that the precision leaves in higher precision, to meet its budget.
        source: What `shares` and all below come from.
        problem: Why they are not known.
        shares: Share of the time by kind, one of `kernels.KINDS`.
        whole_ms: The time that they are of: the measured median, for counters make a call take
            longer; where times are estimated, their sum.
        kernels: How many a call runs.
        kernels_per_block: Median number.
        wider: Layers that multiply wider numbers than the precision's, as "head in 32 bits"; of a
            TensorRT engine, wider ones than the graph asks for.
        dequantised: Layers whose weights are widened again at every call.
        bytes: What the kernels read and write.
        memory_bound: Share of the time in kernels that the memory's bandwidth bounds.
    """

    precision: str
    backend: str
    p50_ms: float
    quantised: float | None = None
    fallback: tuple[str, ...] = ()
    source: str = ""
    problem: str = ""
    shares: dict[str, float] = field(default_factory=dict)
    whole_ms: float = 0.0
    kernels: int | None = None
    kernels_per_block: float | None = None
    wider: tuple[str, ...] = ()
    dequantised: tuple[str, ...] = ()
    bytes: float | None = None
    memory_bound: float | None = None

    def __post_init__(self) -> None:
        unknown = self.shares.keys() - set(KINDS)
        if unknown:
            raise ValueError(f"{sorted(unknown)[0][:40]!r} is no kind of work")
        if (
            self.p50_ms <= 0
            or self.whole_ms < 0
            or not all(0 <= s <= 1 + _ROUNDING for s in self.shares.values())
        ):
            raise ValueError("latencies are not below 0, and shares between 0 and 1")

    def milliseconds(self, kind: str) -> float:
        """Time of a call in that kind of work."""
        return self.whole_ms * self.shares.get(kind, 0.0)

    def products(self, least: int, most: int) -> float:
        """Milliseconds in matrix products of numbers of so many bits."""
        bits = {kind: product_bits(kind) for kind in self.shares}
        return sum(self.milliseconds(k) for k, b in bits.items() if b and least <= b <= most)


@dataclass(frozen=True)
class NotFaster:
    """A precision that is not faster than a higher one on the same backend.

    Attributes:
        slow, higher: The calls of both.
        batch: Images of a call.
        speedup: How many times as fast as the higher one it is.
        cause: The largest cause, in words.
    """

    slow: EngineCall
    higher: EngineCall
    batch: int
    speedup: Estimate
    cause: str

    @property
    def title(self) -> str:
        """Heading of the table that compares them."""
        doubt = "clearly " if self.speedup.value > LEVEL else ""
        engine = f"{self.slow.precision} on {self.slow.backend}"
        return f"{engine} is not {doubt}faster than {self.higher.precision}"

    @property
    def sentence(self) -> str:
        """Says all in one."""
        return f"{self.title}, {self.explanation}"

    @property
    def explanation(self) -> str:
        """Says by how much, and the largest cause."""
        return f"{self.speedup} times as fast: {self.cause}."

    @property
    def source(self) -> str:
        """Says where the table's numbers come from."""
        sources = [work.source or work.problem for work in (self.slow, self.higher)]
        return "; ".join(dict.fromkeys(filter(None, sources)))


def with_kernels(work: EngineCall, source: str, kernels: Sequence[Kernel]) -> EngineCall:
    """The work of a call with these kernels, which a library's own profiler tells of."""
    bits = [(kernel, product_bits(kernel.kind)) for kernel in kernels]
    wider = [
        f"{printable(layer_name(kernel.name))[:_LONGEST]} in {b} bits"
        for kernel, b in bits
        if b is not None and b > width(work.precision)
    ]
    return replace(
        work,
        source=source,
        shares=shares(kernels),
        whole_ms=work.p50_ms,
        kernels=len(kernels),
        kernels_per_block=per_block([kernel.name for kernel in kernels]),
        wider=tuple(wider[:_MOST_NAMES]),
    )
