"""Outputs of a model during an export: which there are, their kinds, and one vector of them all."""

from .join import JOINED, join_outputs, join_values
from .kinds import FoundOutput, choose_outputs, parse_outputs, safe_name
from .scale import find_scales

__all__ = [
    "JOINED",
    "FoundOutput",
    "choose_outputs",
    "find_scales",
    "join_outputs",
    "join_values",
    "parse_outputs",
    "safe_name",
]
