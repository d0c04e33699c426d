"""Fixtures of the backends' tests."""

from __future__ import annotations

from .rig import full, rig, rtx

__all__ = ["full", "rig", "rtx"]
