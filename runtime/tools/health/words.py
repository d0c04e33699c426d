"""Findings in words: what a drift looks like, and what may be behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .judge import StatisticReport
from .permutation import compare_numbers
from .statistics import (
    BRIGHTNESS,
    CENTRE,
    CLASS,
    CLIPPED,
    COLORS,
    CONFIDENCE,
    CONTRAST,
    DETAIL,
    ENTROPY,
    RED_BLUE,
    SATURATION,
    SHARPNESS,
    Floats,
    ReferenceStatistics,
    is_of_output,
)

_GREY = 1.0
"""Saturation, of 255, of an image that has no color."""
_ALIKE = 0.1
"""Range of a statistic, relative to the reference's, below which the images hardly differ in it."""
_RED, _GREEN, _BLUE = COLORS
_UP = {
    SHARPNESS: "the images are noisier or sharper: gain at night, compression, another resize?",
    DETAIL: "the images have more detail or noise: another scene, scale or gain?",
    CLIPPED: "more pixels are black or white: over- or underexposed, black bars?",
    CENTRE: "the middle is brighter, the edges darker: another crop, black bars, a vignette?",
    SATURATION: "the colors are stronger: another color setting of the camera?",
    RED_BLUE: "the images are redder: white balance, another light?",
}
_DOWN = {
    SHARPNESS: "the images are blurred or enlarged: focus, motion, a dirty lens, a small image "
    "scaled up?",
    DETAIL: "the images have less detail: blur, haze, darkness, an enlarged crop?",
    CLIPPED: "fewer pixels are black or white: another exposure or range?",
    CENTRE: "the middle is darker, the edges brighter: another crop or scene?",
    SATURATION: "the colors are weaker: haze, another color setting of the camera?",
    RED_BLUE: "the images are bluer: white balance, another light?",
}


def describe(
    reports: Sequence[StatisticReport], reference: ReferenceStatistics, rows: Floats
) -> tuple[str, ...]:
    """Says what the statistics that drifted look like together; empty where none did.

    Args:
        reports: All statistics of the window.
        reference: What they were compared with.
        rows: The window, `[N, len(reference.names)]`.
    """
    drifted = {report.name: report for report in reports if report.drifted}
    lines = list[str]()
    if drifted and _alike(reports):
        lines.append("the images hardly differ from each other: one scene, a frozen camera?")
        for name in [name for name, report in drifted.items() if not _moved(report)]:
            del drifted[name]
    if _swapped(drifted, reference, rows):
        lines.append("red and blue are swapped: is the camera giving BGR?")
        channels = (f"{c} {what}" for c in (_RED, _BLUE) for what in (BRIGHTNESS, CONTRAST))
        for name in (RED_BLUE, *channels):
            drifted.pop(name, None)
    saturation = drifted.get(SATURATION)
    if saturation is not None and saturation.now.high < _GREY:
        lines.append("the images are grey: night mode, a lost color?")
        for name in (SATURATION, RED_BLUE):
            drifted.pop(name, None)
    everything = {report.name: report for report in reports}
    for what, up, down in (
        (
            BRIGHTNESS,
            "the images are brighter: exposure, light, gamma?",
            "the images are darker: exposure, light, gamma?",
        ),
        (
            CONTRAST,
            "the images have more contrast: exposure, gamma, another scene?",
            "the images have less contrast: haze, blur, gamma, another scene?",
        ),
    ):
        report = _together(what, everything, drifted)
        if report is not None:
            lines.append(f"{up if report.shift > 0 else down} ({_numbers(report)})")
    sharpness, detail = drifted.get(SHARPNESS), drifted.get(DETAIL)
    if sharpness is not None and detail is not None and sharpness.shift * detail.shift > 0:
        del drifted[DETAIL]  # says nothing more
    for name in [name for name in drifted if name.startswith(f"{ENTROPY} of ")]:
        if name.replace(ENTROPY, CONFIDENCE) in drifted:
            del drifted[name]
    return (*lines, *map(_alone, drifted.values()))


def _alike(reports: Sequence[StatisticReport]) -> bool:
    """True if most statistics of the frames hardly vary within the window."""
    frames = [report for report in reports if not is_of_output(report.name)]
    narrow = [
        report
        for report in frames
        if report.now.high - report.now.low
        < _ALIKE * (report.reference.high - report.reference.low)
    ]
    return len(narrow) > len(frames) / 2


def _swapped(
    drifted: Mapping[str, StatisticReport], reference: ReferenceStatistics, rows: Floats
) -> bool:
    """True if red against blue fits the reference far better with both exchanged, and green does
    fit.
    """
    report = drifted.get(RED_BLUE)
    if report is None or f"{_GREEN} {BRIGHTNESS}" in drifted:
        return False
    column = reference.names.index(RED_BLUE)
    own = rows[:, column]
    back = compare_numbers(reference.values[:, column], -own[np.isfinite(own)])
    return abs(back.shift) < abs(report.shift) / 2


def _together(
    what: str, everything: Mapping[str, StatisticReport], drifted: dict[str, StatisticReport]
) -> StatisticReport | None:
    """Returns the channel that moved most where all of them went one way, and takes them out of
    `drifted`; None where they did not.
    """
    own = [report for name, report in everything.items() if name.split()[-1] == what]
    names = [report.name for report in own if report.name in drifted and _moved(report)]
    shifts = [report.shift for report in own]
    if not names or min(shifts) * max(shifts) <= 0:
        return None
    if min(map(abs, shifts)) < max(map(abs, shifts)) / 3:
        return None
    for name in names:
        del drifted[name]
    return max(own, key=lambda report: abs(report.shift))


def _alone(report: StatisticReport) -> str:
    kind, _, output = report.name.partition(" of ")
    if output and kind == CLASS:
        now, then = 100 * report.now.median, 100 * report.reference.median
        return (
            f"{output} give class {report.subject!r} to {now:.0f} % of the images, not {then:.0f} %"
        )
    up = report.shift > 0
    if not _moved(report):
        wider = "differs more from image to image" if report.widening > 0 else "differs less"
        return f"{report.name} {wider} than in the reference ({_numbers(report)})"
    if output and kind in (CONFIDENCE, ENTROPY):
        surer = "surer" if up == (kind == CONFIDENCE) else "less sure"
        return f"the model is {surer} than of the reference's images ({_numbers(report)})"
    words = (_UP if up else _DOWN).get(report.name)
    if words is None:
        words = f"{report.name} is {'higher' if up else 'lower'} than in the reference"
    return f"{words} ({_numbers(report)})"


def _moved(report: StatisticReport) -> bool:
    """True if it went up or down rather than apart or together."""
    return abs(report.shift) >= abs(report.widening) / 2


def _numbers(report: StatisticReport) -> str:
    now, then = report.now, report.reference
    return (
        f"{report.name} {now.median:.3g}, 90 % in {now.low:.3g} to {now.high:.3g}; reference "
        f"{then.median:.3g}, {then.low:.3g} to {then.high:.3g}"
    )
