"""The plan of an engine as it is kept in a bundle and in a device's cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from vit_edge.runtime.backends.base import AskedProduct, Built
from vit_edge.runtime.errors import BundleError, EngineError
from vit_edge.runtime.manifest import PlanSummary
from vit_edge.runtime.schema import decode, encode, parse_json

from . import layers as kinds
from .layers import EngineLayer, kernels, total
from .listing import read_layers
from .types import UNKNOWN, bits, find_type, widest

_EIGHT_BITS = 8
_MAX_BATCH = 1 << 16
_MERGES = ".merge/"
"""In the names of the nodes that merge tokens."""


@dataclass(frozen=True)
class PlanAtBatch:
    """The layers of an engine that was built for one batch size alone: every shape is known."""

    batch: int
    layers: tuple[EngineLayer, ...]

    def __post_init__(self) -> None:
        if not 0 < self.batch <= _MAX_BATCH:
            raise ValueError(f"a batch of {self.batch} is not possible")


@dataclass(frozen=True)
class EnginePlan:
    """Plan of an engine: what its builder compiled.

    Attributes:
        library: The builder and its version.
        products: The matrix products of the graph that it was built from, and what each asks for.
        layers: The engine's layers, in the order in which they run.
        batches: The same graph built for certain batch sizes alone; empty where that was not done.
        peak_bytes: The most memory that the build held; 0 where it was not measured.
    """

    library: str
    products: tuple[AskedProduct, ...]
    layers: tuple[EngineLayer, ...]
    batches: tuple[PlanAtBatch, ...] = ()
    peak_bytes: int = 0

    @property
    def blocks(self) -> int:
        """Number of attentions."""
        attentions = len(_of_attention(self.products)) // 2
        return max(attentions, sum(layer.kind == kinds.ATTENTION for layer in self.layers))

    def summary(self) -> PlanSummary:
        """See `runtime.manifest.PlanSummary`; bytes are of the largest batch size in `batches`."""
        largest = max(self.batches, key=lambda at: at.batch, default=None)
        measured = self.layers if largest is None else largest.layers
        counts = [layer.kind for layer in self.layers]
        return PlanSummary(
            kernels=sum(1 for _ in kernels(self.layers)),
            kernels_per_block=_kernels_per_block(self.products, self.layers),
            linear_work=_linear_work(self.products, self.layers, _work(self.products, measured)),
            attentions=self.blocks,
            fused_attentions=counts.count(kinds.ATTENTION),
            unmet=tuple(_unmet(self.products, self.layers)),
            dequantised=tuple(_dequantised(self.products, self.layers)),
            copies=counts.count(kinds.COPY),
            waits=counts.count(kinds.WAIT),
            batch=0 if largest is None else largest.batch,
            bytes=total(layer.bytes for layer in measured),
        )

    def encode(self) -> bytes:
        """Encodes the plan in the form that `decode_plan` reads."""
        return encode(self).encode()


def plan_of(library: str, built: Built, batches: Sequence[PlanAtBatch] = ()) -> EnginePlan:
    """The plan of what a builder built; `batches` is the same graph built for certain sizes alone.

    Raises:
        EngineError: if the listing is not understood.
    """
    layers = read_layers(built.listing)
    plan = EnginePlan(library, built.products, layers, tuple(batches), built.peak_bytes)
    try:
        plan.summary()  # refuses sums that are not possible
    except ValueError as error:
        raise EngineError(f"the builder's listing is not understood: {error}") from None
    return plan


def decode_plan(raw: bytes) -> EnginePlan:
    """Reads what `EnginePlan.encode` wrote. Raises BundleError if it is not that."""
    try:
        plan = decode(EnginePlan, parse_json(raw))
        plan.summary()  # refuses sums that are not possible
        return plan
    except (ValueError, RecursionError) as error:
        raise BundleError(f"an engine's plan is not valid: {str(error)[:300]}") from None


def layer_of(product: AskedProduct, layers: Sequence[EngineLayer]) -> EngineLayer | None:
    """The layer that multiplies a product of the graph; None if none is known to."""
    owners = [layer for layer in layers if product.node in layer.nodes]
    multiply = [layer for layer in owners if layer.multiplies or layer.kind == kinds.ATTENTION]
    return next(iter(multiply or owners), None)


def asked_type(product: AskedProduct) -> str:
    """Returns the type that a product asks to be computed in: the wider one of its operands."""
    return widest(map(find_type, product.operands)) or UNKNOWN


def _unmet(products: Sequence[AskedProduct], layers: Sequence[EngineLayer]) -> list[str]:
    """Names the layers that are asked for in quantised numbers and multiply others."""
    problems = []
    for product in products:
        asked, weight = asked_type(product), bits(find_type(product.operands[1]))
        if weight is None or weight > _EIGHT_BITS:
            continue
        layer = layer_of(product, layers)
        runs = layer.precision if layer is not None else UNKNOWN
        if runs != asked:
            problems.append(f"{_name(product.node)} in {runs}")
        elif product.weights and layer is not None and (layer.weight_bits or weight) > weight:
            problems.append(f"the weights of {_name(product.node)} in {layer.weight_bits} bits")
    return list(dict.fromkeys(problems))


def _dequantised(products: Sequence[AskedProduct], layers: Sequence[EngineLayer]) -> list[str]:
    multiplied = {product.node for product in products}
    widened = [layer for layer in layers if layer.kind == kinds.DEQUANTISE]
    return [
        _name(next((node for node in layer.nodes if node in multiplied), layer.nodes[0]))
        for layer in widened
    ]


def _of_attention(products: Sequence[AskedProduct]) -> list[AskedProduct]:
    """The products of two activations, those aside that merge tokens (`export.merging`)."""
    return [p for p in products if not p.weights and _MERGES not in p.node]


def _name(node: str) -> str:
    """The module of a node: "blocks.0.attn.qkv/MatMul" -> "blocks.0.attn.qkv"."""
    module, _, operator = node.rpartition("/")
    return module if module and operator[:1].isupper() else node


def _work(products: Sequence[AskedProduct], layers: Sequence[EngineLayer]) -> dict[str, float]:
    """Multiplications of each product with weights, by node; all alike where one is not known."""
    with_weights = [product for product in products if product.weights]
    owners = {product.node: layer_of(product, layers) for product in with_weights}
    work = {}
    for node, layer in owners.items():
        sharing = sum(other is layer for other in owners.values())
        macs = layer.macs if layer is not None else None
        if not macs:
            return dict.fromkeys(owners, 1.0)
        work[node] = macs / sharing
    return work


def _linear_work(
    products: Sequence[AskedProduct], layers: Sequence[EngineLayer], work: Mapping[str, float]
) -> dict[str, float]:
    shares: dict[str, float] = {}
    for product in products:
        if product.weights:
            layer = layer_of(product, layers)
            runs = layer.precision if layer is not None else UNKNOWN
            shares[runs] = shares.get(runs, 0.0) + work.get(product.node, 0.0)
    all_work = sum(shares.values()) or 1.0
    return {kind: share / all_work for kind, share in sorted(shares.items(), key=lambda s: -s[1])}


def _kernels_per_block(
    products: Sequence[AskedProduct], layers: Sequence[EngineLayer]
) -> float | None:
    """Median distance, in kernels, from one attention's second product to the next one's."""
    running = list(kernels(layers))
    seconds = _of_attention(products)[1::2]
    owners = [layer_of(product, running) for product in seconds]
    places = [running.index(layer) for layer in owners if layer is not None]
    distances = [after - before for before, after in pairwise(places)]
    return float(median(distances)) if distances else None
