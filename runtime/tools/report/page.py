"""The page: what the template shows of each device, and of all of them together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..compare.comparison import REFERENCE, Comparison
from ..display import figures
from ..profile.show import columns, fact_rows
from ..profile.work import NotFaster
from .charts import draw_batches, draw_engines, draw_latency, draw_pareto, draw_sensitivity
from .devices import DeviceReport, moment, name_devices
from .look import NARROW, WIDE, Chart, Key
from .slow import draw_slow
from .tables import TIMES, all_engines, all_numbers, conditions, method

TEMPLATE = "report.html.j2"


def draw_page(comparisons: Sequence[Comparison]) -> str:
    """Returns the page of these comparisons, which escapes everything that comes from them."""
    devices = name_devices(comparisons)
    key = Key.of(row for c in comparisons for row in c.rows)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    names = list(dict.fromkeys(c.name for c in comparisons))
    return environment.get_template(TEMPLATE).render(
        title=", ".join(names),
        devices=[_section(device, key) for device in devices],
        charts=list(_pictures((draw_pareto(devices), draw_engines(devices)), key)),
        engines=all_engines(devices) if len(devices) > 1 else None,
    )


def _section(device: DeviceReport, key: Key) -> dict[str, object]:
    c = device.comparison
    charts = [draw_latency(device), draw_batches(device), draw_slow(device)]
    charts += [draw_sensitivity(name, layers) for name, layers in c.sensitivities.items()]
    return {
        "name": device.name,
        "about": f"{c.name} · {moment(c.made)} · bundle {c.bundle[:16]}",
        "chosen": c.recommendation,
        "facts": dict(_facts(device)),
        "notes": c.notes,
        "charts": list(_pictures(charts, key)),
        "not_faster": [_not_faster(pair) for pair in c.not_faster],
        "numbers": all_numbers(device),
        "method": method(c),
        "conditions": [(name, value) for name, value in conditions(c) if value],
    }


def _not_faster(pair: NotFaster) -> dict[str, object]:
    return {
        "title": pair.title,
        "explanation": pair.explanation,
        "source": pair.source,
        "columns": columns(pair),
        "rows": list(fact_rows(pair)),
    }


def _facts(device: DeviceReport) -> Iterator[tuple[str, str]]:
    """Numbers of the recommended engine."""
    row = next(filter(device.is_chosen, device.engines), None)
    if row is None:
        return
    yield "median", f"{figures(row.p50_ms)} ms"
    yield "p90", f"{figures(row.p90_ms)} ms"
    yield "throughput", f"{figures(row.images_per_s)} images/s"
    if row.speedup is not None and row.precision != REFERENCE:
        yield "against fp32", f"{row.speedup.value:.2f}{TIMES}"
    if row.agreement is not None:
        yield "agreement", f"{100 * row.agreement:.2f} %"


def _pictures(charts: Iterable[Chart | None], key: Key) -> Iterator[dict[str, str]]:
    """Each chart in light and dark, wide and narrow."""
    for chart in charts:
        if chart is not None:
            light, dark = chart.render(WIDE, key)
            narrow_light, narrow_dark = chart.render(NARROW, key)
            yield {
                "heading": chart.heading,
                "caption": chart.caption,
                "alternative": f"{chart.heading}. {chart.alternative}",
                "light": light,
                "dark": dark,
                "narrow_light": narrow_light,
                "narrow_dark": narrow_dark,
            }
