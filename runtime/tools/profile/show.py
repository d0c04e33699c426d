"""A precision that is not faster beside the higher one, as the rows of a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from .kernels import KINDS
from .work import EngineCall, NotFaster

_NONE = "-"
_SHOWN = 0.005

_FACTS: dict[str, Callable[[EngineCall], str]] = {
    "work quantised": lambda w: _percent(w.quantised),
    "fell back": lambda w: _names(w.fallback),
    "layers in more bits": lambda w: _names(w.wider),
    "dequantised at each call": lambda w: _names(w.dequantised),
    "kernels": lambda w: _number(w.kernels),
    "kernels, a block": lambda w: _number(w.kernels_per_block),
    "bytes moved": lambda w: _NONE if w.bytes is None else f"{w.bytes / 1e6:.1f} MB",
    "bound by memory": lambda w: (
        _NONE if w.memory_bound is None else f"{100 * w.memory_bound:.0f} %"
    ),
}


def columns(pair: NotFaster) -> tuple[str, str, str]:
    """The heads of the columns of `fact_rows`."""
    call = "one image" if pair.batch == 1 else f"a batch of {pair.batch}"
    return call, pair.slow.precision, pair.higher.precision


def fact_rows(pair: NotFaster) -> Iterator[tuple[str, str, str]]:
    """Yields what is known of both: times by kind, then all else; what neither has is left out."""
    slow, higher = pair.slow, pair.higher
    yield "median", f"{_ms(slow.p50_ms)} ms", f"{_ms(higher.p50_ms)} ms"
    if any(work.shares and work.whole_ms != work.p50_ms for work in (slow, higher)):
        yield "estimated", _estimated(slow), _estimated(higher)
    for kind in KINDS:
        if max(slow.shares.get(kind, 0.0), higher.shares.get(kind, 0.0)) >= _SHOWN:
            yield kind, _time(slow, kind), _time(higher, kind)
    for name, show in _FACTS.items():
        if (show(slow), show(higher)) != (_NONE, _NONE):
            yield name, show(slow), show(higher)


def _estimated(work: EngineCall) -> str:
    return f"{_ms(work.whole_ms)} ms" if work.shares else _NONE


def _time(work: EngineCall, kind: str) -> str:
    """Milliseconds and share, for example "4.31 ms, 35 %"."""
    share = work.shares.get(kind)
    return f"{_ms(work.milliseconds(kind))} ms, {100 * share:.0f} %" if share else _NONE


def _ms(milliseconds: float) -> str:
    return f"{milliseconds:.3f}" if milliseconds < 1 else f"{milliseconds:.2f}"


def _percent(share: float | None) -> str:
    return _NONE if share is None else f"{100 * share:.0f} %"


def _number(value: float | None) -> str:
    return _NONE if value is None else f"{value:g}"


def _names(layers: Sequence[str]) -> str:
    """Counts them and names the first, for example "3: head in 32 bits, ..."."""
    if not layers:
        return _NONE
    return f"{len(layers)}: {layers[0]}{', ...' if len(layers) > 1 else ''}"
