"""Catches a collapsed lowering, whatever the cause: overflow, wrong scales, lost layers."""

from __future__ import annotations

from .check import find_export_faults, find_faults
from .explained import PlainLowerings
from .limits import Fault, Limits

__all__ = ["Fault", "Limits", "PlainLowerings", "find_export_faults", "find_faults"]
