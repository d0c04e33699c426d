"""Draws the reports of `compare`, of one device or of several, as one page of HTML.

The charts are matplotlib's and the page is a jinja2 template. Neither is needed to measure: they
are imported when a page is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import VitEdgeError, install_command
from ..compare.comparison import Comparison


class MissingExtraError(VitEdgeError):
    """The libraries that draw reports are not installed."""


def draw_report(comparisons: Sequence[Comparison]) -> str:
    """Returns a page that needs no other file and no network.

    Raises:
        MissingExtraError: if matplotlib or jinja2 is missing.
    """
    try:
        from .page import draw_page
    except ImportError as error:
        raise MissingExtraError(
            f"drawing a report needs matplotlib and jinja2 ({error}): {install_command('report')}"
        ) from None
    return draw_page(comparisons)
