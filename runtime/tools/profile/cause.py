"""The largest cause why an engine is not faster than one of a higher precision.

Half as many bits ought to halve the time of the matrix products and to leave all else as it is. An
engine that is not faster spends more than that: on products that stayed wide, on narrow ones that
are slow, on conversions, or on anything else that the other has less of. The times that it spends
more add up to the difference from the ideal, so the largest of them is the largest cause.
"""

from __future__ import annotations

from ..display import figures
from .kernels import CASTS, ELEMENTWISE, LAUNCHES, MOVES, OTHER
from .work import EngineCall, width

_GAIN = 2.0
"""How many times as fast products of half the bits ought to be."""
_LITTLE = 0.15
"""Share of products below which nothing is to be gained: 8 % of a call."""
_MORE = 1.1
_WORDS = {
    CASTS: "quantising, dequantising and casts",
    ELEMENTWISE: "attention, norms and elementwise operators",
    MOVES: "transposes, reorders and copies",
    LAUNCHES: "launches",
    OTHER: "other operators",
}


def largest_cause(slow: EngineCall, higher: EngineCall) -> str:
    """Says it in words that end a sentence."""
    if slow.shares and higher.shares:
        return _by_time(slow, higher)
    for work in (slow, higher):
        if work.problem:
            return f"why is not known, for {work.precision} could not be profiled: {work.problem}"
    return _by_plan(slow, higher)


def _by_time(slow: EngineCall, higher: EngineCall) -> str:
    products = higher.products(0, 64)
    share = products / higher.whole_ms
    if share < _LITTLE:
        most = 1 / (1 - share * (1 - 1 / _GAIN))
        return (
            f"matrix products are only {100 * share:.0f} % of a call in {higher.precision}, so "
            f"that it could be {most:.2f} times as fast at most"
        )
    bits = width(slow.precision)
    wide, narrow = slow.products(bits + 1, 64), slow.products(0, bits)
    replaced = max(products - wide, 0.0)
    causes = {
        _still_wide(slow, wide, narrow): wide - wide / _GAIN,
        _slow_products(higher, bits, narrow, replaced): narrow - replaced / _GAIN,
    }
    for kind, words in _WORDS.items():
        here, there = slow.milliseconds(kind), higher.milliseconds(kind)
        causes[f"{words} take {_ms(here)}, in {higher.precision} {_ms(there)}"] = here - there
    return max(causes, key=lambda words: causes[words])


def _still_wide(slow: EngineCall, wide: float, narrow: float) -> str:
    bits = width(slow.precision)
    if not narrow:
        return f"all its matrix products run in more than {bits} bits, {_ms(wide)} of a call"
    text = f"matrix products in more than {bits} bits still take {_ms(wide)} of a call"
    if slow.fallback:
        return f"{text}, {_layers(slow.fallback)} having fallen back"
    return f"{text} ({_named(slow.wider)})" if slow.wider else text


def _slow_products(higher: EngineCall, bits: int, narrow: float, replaced: float) -> str:
    return (
        f"products in {bits} bits take {_ms(narrow)}, and those of {higher.precision} that they "
        f"replace only {_ms(replaced)}"
    )


def _by_plan(slow: EngineCall, higher: EngineCall) -> str:
    """From what the plan counts, where the GPU is none that times are estimated for."""
    if slow.wider:
        return f"layers run in a wider type than the graph asks ({_named(slow.wider)})"
    if slow.dequantised:
        return f"weights are dequantised at every call ({_named(slow.dequantised)})"
    if slow.fallback:
        return f"of its layers {len(slow.fallback)} fell back ({_named(slow.fallback)})"
    if slow.kernels and higher.kernels and slow.kernels > _MORE * higher.kernels:
        return f"a call runs {slow.kernels} kernels, in {higher.precision} {higher.kernels}"
    if slow.bytes and higher.bytes and slow.bytes * _MORE > higher.bytes:
        return (
            f"its kernels move {slow.bytes / 1e6:.0f} MB, those of {higher.precision} "
            f"{higher.bytes / 1e6:.0f} MB"
        )
    return "neither its plan nor a profile shows why"


def _layers(layers: tuple[str, ...]) -> str:
    return f"{len(layers)} layer{'s' if len(layers) > 1 else ''}"


def _named(layers: tuple[str, ...]) -> str:
    more = f" and {len(layers) - 1} more" if len(layers) > 1 else ""
    return f"{layers[0]}{more}"


def _ms(milliseconds: float) -> str:
    return f"{figures(milliseconds)} ms"
