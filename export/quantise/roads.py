"""Ways to quantise the Linears of a graph, by the scheme."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import onnx_ir as ir

from vit_edge.calibration.collect import Calibration
from vit_edge.calibration.samples import Samples
from vit_edge.export.progress import Update

from . import float4_search, linears
from .choice import divide_where_outputs_gain
from .explanation import SiteExplanation
from .float4 import Float4Scheme
from .float4_qdq import IR_VERSION
from .grid import Scheme
from .linears import Smoothed

Rounded = TypeVar("Rounded")
"""Decisions of a road about a site's grids."""


@dataclass(frozen=True)
class Road(Generic[Rounded]):
    """A way to quantise; see the functions of these names in `linears`, of `divide` in `choice`.

    Attributes:
        divide: None where the scales of blocks follow the channels by themselves.
        ir_version: The first version of ONNX's representation that knows the types.
    """

    smooth_all: Callable[[ir.Graph, Samples, Scheme, Update], dict[str, Smoothed]]
    divide: (
        Callable[
            [ir.Model, Calibration, Mapping[str, Smoothed], Scheme, float, Update],
            dict[str, Smoothed],
        ]
        | None
    )
    round_all: Callable[[ir.Graph, Mapping[str, Smoothed], Scheme, Update], dict[str, Rounded]]
    quantise: Callable[[ir.Graph, Mapping[str, Rounded], Scheme], None]
    explain: Callable[
        [ir.Graph, Samples, Mapping[str, Smoothed], Mapping[str, Rounded]],
        tuple[SiteExplanation, ...],
    ]
    quantise_by_table: Callable[[ir.Graph, Mapping[str, float], Scheme], None]
    ir_version: int


_ONE_SCALE = Road(
    linears.smooth_all,
    divide_where_outputs_gain,
    linears.round_all,
    linears.quantise,
    linears.explain,
    linears.quantise_by_table,
    0,
)
_FLOAT4 = Road(
    float4_search.smooth_all,
    None,
    float4_search.round_all,
    float4_search.quantise,
    float4_search.explain,
    float4_search.quantise_by_table,
    IR_VERSION,
)


def road_of(scheme: Scheme) -> Road[Any]:
    """Scales that are constants, or those of NVFP4, which follow the activations."""
    return _FLOAT4 if isinstance(scheme, Float4Scheme) else _ONE_SCALE
