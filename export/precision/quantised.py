"""What the quantised precisions share: search on an exact graph, then casts around the Q/DQ."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from vit_edge.calibration.collect import Calibration
from vit_edge.calibration.observers import SEARCH
from vit_edge.calibration.table import CalibrationTable
from vit_edge.export.collapse.limits import Limits
from vit_edge.export.progress import Update, ignore
from vit_edge.export.quantise.attention import (
    AttentionScheme,
    attention_tensors,
    balance_all,
    quantise_attention,
    scaling_of_values,
)
from vit_edge.export.quantise.explanation import SiteExplanation
from vit_edge.export.quantise.grid import Floats
from vit_edge.export.quantise.linears import quantise, quantise_by_table, smooth_all
from vit_edge.export.quantise.scheme import Scheme
from vit_edge.export.quantise.sites import find_sites

from .base import Budget, Graphs
from .fp16 import FP16, to_fp16


@dataclass(frozen=True)
class Quantised:
    """A graph before and after, fp32 around the Q/DQ; tensors keep their names.

    Attributes:
        exact: What was quantised: outliers smoothed, the function unchanged.
        lowered: The same with Q/DQ.
        explanation: What happened to each site; empty for plain calibration methods.
    """

    exact: ir.Model
    lowered: ir.Model
    explanation: tuple[SiteExplanation, ...]


@dataclass(frozen=True)
class QuantisedPrecision:
    """See `export.precision.base.Precision`.

    Only the blocks' Linears carry Q/DQ: never the residual stream, whose outliers would destroy the
    model. Patch embedding and head, a hundredth of the work, stay as they are. Around the Linears
    is fp32 for CPUs and fp16 for GPUs; the numbers are the same in both.

    Attributes:
        scheme: The grids of the Linears.
        budget: How far it may be from PyTorch.
        limits: What its number format explains.
        kinds: The kinds of backend that have kernels for it.
        attention: The grid of attention's products; None: they stay as they are.
        around: What is around the Q/DQ on GPUs.
    """

    scheme: Scheme
    budget: Budget
    limits: Limits
    kinds: tuple[str, ...] = ("cpu", "gpu")
    attention: AttentionScheme | None = None
    around: FP16 = FP16()

    def observes(self, graph: ir.Graph) -> tuple[str, ...]:
        """See `export.precision.base.Precision`."""
        sites = tuple(site.name for site in find_sites(graph))
        return sites if self.attention is None else (*sites, *attention_tensors(graph))

    @property
    def title(self) -> str:
        """What is quantised how; precisions that differ in their budgets alone have the same."""
        kind = self.scheme.weights.name
        return kind if self.attention is None else f"{kind} with attention"

    def quantise(
        self, model: ir.Model, calibration: Calibration, update: Update = ignore
    ) -> Quantised:
        """Decides about smoothing, ranges and rounding: all that takes time.

        Raises:
            InputError: if attention is to be quantised and cannot be.
        """
        if calibration.table.provenance.method != SEARCH:
            return self._quantise_by_table(model.clone(), calibration)
        exact = model.clone()
        samples, scheme = calibration.samples, self.scheme

        def first(done: int, total: int) -> None:
            update(done, 2 * total)

        def second(done: int, total: int) -> None:
            update(total + done, 2 * total)

        smoothed = smooth_all(exact.graph, samples, scheme, first)
        scaling: dict[str, Floats] = {}
        if self.attention is not None:
            scaling |= balance_all(exact.graph, calibration, self.attention)
            scaling |= scaling_of_values(exact.graph, smoothed)
        lowered = exact.clone()
        explanation = quantise(lowered.graph, samples, smoothed, scheme, second)
        if self.attention is not None:
            quantise_attention(lowered.graph, calibration, scaling, self.attention)
        return Quantised(exact, lowered, explanation)

    def _quantise_by_table(self, exact: ir.Model, calibration: Calibration) -> Quantised:
        lowered = exact.clone()
        quantise_by_table(lowered.graph, calibration.table.amax, self.scheme)
        if self.attention is not None:
            quantise_attention(lowered.graph, calibration, {}, self.attention)
        return Quantised(exact, lowered, ())

    def finish(self, lowered: ir.Model, table: CalibrationTable) -> Graphs:
        """The graph for each kind of backend, of one with fp32 around the Q/DQ."""
        graphs = {}
        if "cpu" in self.kinds:
            graphs["cpu"] = lowered
        if "gpu" in self.kinds:
            graphs["gpu"] = to_fp16(lowered.clone(), table, self.around.headroom)
        return graphs

    def lower(self, model: ir.Model, calibration: Calibration) -> Graphs:
        """See `export.precision.base.Precision`."""
        return self.finish(self.quantise(model, calibration).lowered, calibration.table)
