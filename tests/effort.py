"""Timing budget of the tests: what is measured is that it runs."""

from __future__ import annotations

from vit_edge.runtime.latency import Effort

ONE_CALL = Effort(runs=1, seconds=0.0)
