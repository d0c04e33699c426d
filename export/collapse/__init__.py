"""Catches a collapsed lowering, whatever the cause: overflow, wrong scales, lost layers."""

from __future__ import annotations

from .check import find_export_faults, find_faults
from .fault import Fault
from .limits import Limits

__all__ = ["Fault", "Limits", "find_export_faults", "find_faults"]
