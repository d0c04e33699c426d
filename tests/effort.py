"""Timing budget of the tests: what is measured is that it runs."""

from __future__ import annotations

from vit_edge.runtime.metrics import TimingBudget

ONE_CALL = TimingBudget(runs=1, seconds=0.0)
