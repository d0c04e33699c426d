"""Base of the quantised precisions: a search on the exact graph, then casts around the Q/DQ."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from vit_edge.calibration.collect import Calibration
from vit_edge.calibration.observers import SEARCH, CalibrationTable
from vit_edge.export.progress import Update, ignore, stretch
from vit_edge.export.quantise.algorithms import algorithm_of
from vit_edge.export.quantise.attention import (
    attention_tensors,
    balance_all,
    quantise_attention,
    scaling_of_values,
)
from vit_edge.export.quantise.convolutions import (
    find_convolution_layers,
    quantise_convolutions,
    quantise_convolutions_by_table,
)
from vit_edge.export.quantise.grid import Floats, Scheme
from vit_edge.export.quantise.linear_layers import LayerExplanation, find_linear_layers

from .base import Graphs, Precision
from .fp16 import FP16, to_fp16


@dataclass(frozen=True)
class SearchEffort:
    """The settings of a value of `--effort`.

    Attributes:
        tries_forms: True if several equivalent forms of a graph are tried for each target, and
            latencies estimated from plans of single batch sizes.
        gain_of_division: Factor by which the squared error of the model's outputs must fall for a
            quantised layer to divide its input, at the cost of a multiplication in the engine;
            None if no layer may.
    """

    tries_forms: bool
    gain_of_division: float | None


FAST, DEFAULT_EFFORT, THOROUGH = "fast", "default", "thorough"
EFFORTS = {
    FAST: SearchEffort(tries_forms=False, gain_of_division=None),
    DEFAULT_EFFORT: SearchEffort(tries_forms=True, gain_of_division=3.0),
    THOROUGH: SearchEffort(tries_forms=True, gain_of_division=1.5),
}
"""`fast` builds each engine once, in the form that is best for most models; the others try several
equivalent forms of the graph, and build again for estimates of latency.
"""


@dataclass(frozen=True)
class QuantisedPrecision(Precision):
    """See `export.precision.base.Precision`.

    Only the blocks' Linears and the convolutions of hybrid models carry Q/DQ: never the residual
    stream, whose outliers would destroy the model. Patch embedding and head, a hundredth of the
    work, are not quantised. The type around the Q/DQ is fp32 for CPUs and fp16 for GPUs; the
    quantised numbers are the same in both.

    Attributes:
        scheme: The grids of the Linears and of attention.
        around: The type around the Q/DQ on GPUs.
    """

    scheme: Scheme
    around: FP16 = FP16()

    def observes(self, graph: ir.Graph) -> tuple[str, ...]:
        """See `export.precision.base.Precision`."""
        convolutions = find_convolution_layers(graph, self.scheme)
        layers = tuple(layer.name for layer in find_linear_layers(graph))
        layers += tuple(layer.name for layer in convolutions)
        return layers if self.scheme.attention is None else (*layers, *attention_tensors(graph))

    def finish(self, lowered: ir.Model, table: CalibrationTable) -> Graphs:
        """Returns the graph for each kind of backend, given `lowered` with fp32 around the Q/DQ."""
        graphs = {}
        if "cpu" in self.ranks.kinds:
            graphs["cpu"] = lowered
        if "gpu" in self.ranks.kinds:
            graphs["gpu"] = to_fp16(lowered.clone(), table, self.around.headroom)
        return graphs

    def lower(self, model: ir.Model, calibration: Calibration) -> Graphs:
        """See `export.precision.base.Precision`."""
        quantised = quantise_model(model, calibration, self.scheme)
        return self.finish(quantised.lowered, calibration.table)


@dataclass(frozen=True)
class Quantised:
    """A graph before and after quantisation, fp32 around the Q/DQ; tensors keep their names.

    Attributes:
        exact: The graph that was quantised: outliers smoothed, the function unchanged.
        lowered: The same with Q/DQ.
        fallback: The graph that fallback layers are taken from: `exact`, or the same quantised to
            the scheme's `fallback`.
        explanation: The decisions about each layer; empty for plain calibration methods.
    """

    exact: ir.Model
    lowered: ir.Model
    fallback: ir.Model
    explanation: tuple[LayerExplanation, ...]


def quantise_model(
    model: ir.Model,
    calibration: Calibration,
    scheme: Scheme,
    update: Update = ignore,
    gain_of_division: float | None = EFFORTS[DEFAULT_EFFORT].gain_of_division,
) -> Quantised:
    """Searches smoothing, ranges and rounding, and quantises a copy of `model`.

    Args:
        model: The fp32 graph.
        calibration: Its calibration.
        scheme: The grids.
        update: Called with work done and work in all.
        gain_of_division: See `SearchEffort`.

    Raises:
        InputError: if attention is to be quantised and cannot be.
    """
    exact = model.clone()
    if calibration.table.provenance.method != SEARCH:
        return _quantise_by_table(exact, calibration, scheme)

    algorithm, samples = algorithm_of(scheme), calibration.samples
    smoothed = algorithm.smooth_all(exact.graph, samples, scheme, stretch(update, 0, 3))
    if gain_of_division is not None and algorithm.divide is not None:
        middle = stretch(update, 1, 3)
        smoothed |= algorithm.divide(exact, calibration, smoothed, scheme, gain_of_division, middle)
    scaling: dict[str, Floats] = {}
    if scheme.attention is not None:
        scaling |= balance_all(exact.graph, calibration, scheme.attention)
        scaling |= scaling_of_values(exact.graph, smoothed)
    lowered = exact.clone()
    lowered.ir_version = max(lowered.ir_version, algorithm.ir_version)
    rounded = algorithm.round_all(exact.graph, smoothed, scheme, stretch(update, 2, 3))
    algorithm.quantise(lowered.graph, rounded, scheme)
    explanation = algorithm.explain(exact.graph, samples, smoothed, rounded)
    explanation += quantise_convolutions(lowered.graph, samples, scheme, ignore)
    if scheme.attention is not None:
        quantise_attention(lowered.graph, calibration, scaling, scheme.attention)
    fallback = exact
    if scheme.fallback is not None:
        fallback = exact.clone()
        other = algorithm_of(scheme.fallback)
        others = other.round_all(exact.graph, smoothed, scheme.fallback, ignore)
        other.quantise(fallback.graph, others, scheme.fallback)
    return Quantised(exact, lowered, fallback, explanation)


def _quantise_by_table(exact: ir.Model, calibration: Calibration, scheme: Scheme) -> Quantised:
    lowered, algorithm = exact.clone(), algorithm_of(scheme)
    lowered.ir_version = max(lowered.ir_version, algorithm.ir_version)
    algorithm.quantise_by_table(lowered.graph, calibration.table.amax, scheme)
    quantise_convolutions_by_table(lowered.graph, calibration.table.amax, scheme)
    if scheme.attention is not None:
        quantise_attention(lowered.graph, calibration, {}, scheme.attention)
    fallback = exact
    if scheme.fallback is not None:
        fallback = _quantise_by_table(exact, calibration, scheme.fallback).lowered
    return Quantised(exact, lowered, fallback, ())
