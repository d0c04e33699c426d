"""The report as one page of HTML: no script, no other file, readable on a phone."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from ..display import figures
from . import looks
from .charts.accuracy import draw_accuracy
from .charts.bars import draw_size, draw_speedup
from .charts.batches import draw_batches
from .charts.latency import draw_latency
from .charts.sensitivity import draw_sensitivity
from .comparison import REFERENCE, ComparedRow, Comparison
from .page_tables import draw_environment, draw_table
from .style import STYLE
from .svg import TIMES, element

_ACCURACY = (
    "Each mark is an engine: left is faster, down is nearer to the reference. The error is the "
    "root mean square of the golden samples' outputs here, relative to what tells images apart. "
    "No engine beats those on the dashed line in both; the ring is the recommendation."
)
_LATENCY = (
    "The curves show where calls lie; the marks and the numbers are p50 (the tallest), p90 and p99."
)
_SPEEDUP = (
    "Whiskers are 95 % confidence intervals over interleaved rounds. Dotted: as fast as fp32."
)
_SIZE = "Bytes that a device opens."
_BATCHES = "Images per second, end to end: all images by the time of all calls."
_SENSITIVITY = (
    "The error of the whole model when only this part is quantised, as the export measured it."
)


def draw_page(comparison: Comparison) -> str:
    """The page of a comparison. Escapes everything that comes from the bundle."""
    title = f"{comparison.name}: precisions compared"
    head = (
        '<meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style>"
    )
    body = "\n".join(_sections(comparison))
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}</head>\n'
        f"<body><main>\n{body}\n</main></body></html>\n"
    )


def _sections(c: Comparison) -> Iterator[str]:
    yield element(
        "header",
        element("h1", escape(c.name)),
        _soft(f"{c.machine.cpu} · {_moment(c.made)} · bundle {c.bundle[:16]}"),
    )
    yield _recommendation(c)
    if c.notes:
        yield _card("".join(element("p", escape(note)) for note in c.notes), "card note")
    yield element("div", *_figures(c), class_="charts")
    yield _card(element("h2", "All numbers") + draw_table(c))
    yield _card(element("h2", "How this was measured") + draw_environment(c))


def _recommendation(c: Comparison) -> str:
    chosen = c.recommendation
    if chosen.precision is None:
        return _card(
            element("h2", "Nothing to recommend") + element("p", escape(chosen.why)), "card note"
        )
    row = next(
        r
        for r in looks.single(c.rows)
        if (r.precision, r.backend) == (chosen.precision, chosen.backend)
    )
    return _card(
        element("h2", "Recommended on this device")
        + element("div", escape(f"{chosen.precision} on {chosen.backend}"), class_="what")
        + element("p", escape(chosen.why))
        + element("dl", *_facts(row), class_="facts"),
        "card chosen",
    )


def _facts(row: ComparedRow) -> Iterator[str]:
    facts = {"median": f"{figures(row.p50_ms)} ms", "p90": f"{figures(row.p90_ms)} ms"}
    facts["throughput"] = f"{figures(row.images_per_s)} images/s"
    if row.speedup is not None and row.precision != REFERENCE:
        facts["against fp32"] = f"{row.speedup.value:.2f}{TIMES}"
    if row.agreement is not None:
        facts["agreement"] = f"{100 * row.agreement:.2f} %"
    for name, value in facts.items():
        yield element("div", element("dt", name), element("dd", escape(value)))


def _figures(c: Comparison) -> Iterator[str]:
    figures = [
        ("Accuracy against latency", _ACCURACY, draw_accuracy(c.rows, c.recommendation)),
        ("Latency", _LATENCY, draw_latency(c.rows, c.distributions)),
        ("Speed-up", _SPEEDUP, draw_speedup(c.rows)),
        ("Batches", _BATCHES, draw_batches(c.rows)),
        ("Size", _SIZE, draw_size(c.rows)),
    ]
    for precision, units in c.sensitivities.items():
        figures.append(
            (f"Sensitivity to {precision}", _SENSITIVITY, draw_sensitivity(precision, units))
        )
    for heading, caption, picture in figures:
        if picture is not None:
            text = element("h2", escape(heading)) + element("figcaption", escape(caption))
            yield element("figure", text, picture, class_="card")


def _moment(made: str) -> str:
    """As "2026-11-24 22:43 UTC"."""
    return f"{made[:10]} {made[11:16]} UTC"


def _card(content: str, class_: str = "card") -> str:
    return element("section", content, class_=class_)


def _soft(content: str) -> str:
    return element("p", escape(content), class_="soft")
