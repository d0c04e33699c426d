"""Base class of the precisions, and the properties that each of them declares."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace

import onnx_ir as ir

from vit_edge.calibration.collect import Calibration
from vit_edge.export.collapse.limits import Limits
from vit_edge.runtime.outputs import BOXES, EMBEDDING, MAP, TOKENS, VALUE

Graphs = dict[str, ir.Model]
"""The graph for each kind of backend, "cpu" and "gpu"; the same object if one graph serves both, no
entry for a kind that cannot run the precision.
"""


@dataclass(frozen=True)
class Budget:
    """Largest difference of a precision from PyTorch. None: not checked.

    Attributes:
        max_logit_error: Largest difference of a value, relative to the range of the reference's.
        max_drop: Top-1 drop in percentage points, where there are labels.
        min_agreement: Share of images with the same top-1 class, where there are no labels.
        min_cosine: Mean cosine of image-centred logits, where weights are random and classes mean
            nothing.
        max_rms: Relative RMS error by kind of output, for kinds that give no class.
        min_neighbours: Share of images with the same nearest neighbour, for embeddings.
        users_drop: True if the user's `--max-drop` replaces `max_drop`.
    """

    max_logit_error: float | None
    max_drop: float | None
    min_agreement: float | None
    min_cosine: float | None
    max_rms: Mapping[str, float] = field(default_factory=dict)
    min_neighbours: float | None = None
    users_drop: bool = False

    def with_max_drop(self, max_drop: float | None) -> Budget:
        """The budget with the user's `--max-drop`, if one is given and `users_drop` is true."""
        if max_drop is None or not self.users_drop:
            return self
        return replace(self, max_drop=max_drop)


SIXTEEN_BIT = Budget(
    max_logit_error=None,
    max_drop=0.2,
    min_agreement=0.995,
    min_cosine=0.999,
    max_rms={EMBEDDING: 0.02, VALUE: 0.02, TOKENS: 0.03, MAP: 0.03, BOXES: 0.002},
    min_neighbours=0.98,
)
EIGHT_BIT = Budget(
    max_logit_error=None,
    max_drop=0.5,
    min_agreement=0.985,
    min_cosine=0.99,
    max_rms={EMBEDDING: 0.06, VALUE: 0.05, TOKENS: 0.1, MAP: 0.1, BOXES: 0.01},
    min_neighbours=0.9,
    users_drop=True,
)
"""For 8 bits, and for 4-bit weights."""

FOUR_BIT = Budget(
    max_logit_error=None,
    max_drop=0.5,
    min_agreement=0.97,
    min_cosine=0.97,
    max_rms={EMBEDDING: 0.12, VALUE: 0.1, TOKENS: 0.2, MAP: 0.2, BOXES: 0.02},
    min_neighbours=0.85,
    users_drop=True,
)
"""For 4-bit activations."""


@dataclass(frozen=True)
class Ranks:
    """Order in which a kind of backend tries precisions before it has measured any, lowest first.

    None: backends of this kind have no kernels for the precision.
    """

    cpu: int | None = None
    gpu: int | None = None

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of backend that run the precision."""
        return tuple(f.name for f in fields(self) if getattr(self, f.name) is not None)


@dataclass(frozen=True)
class Precision(ABC):
    """Lowering of the optimised fp32 graph; its fields are its options.

    Attributes:
        budget: How far it may be from PyTorch.
        limits: The errors that its number format explains, for the check for collapse.
        ranks: The kinds of backend that run it, and the order in which they try it.
        least_capability: The lowest compute capability of GPUs that support its types, as "8.9";
            "" for all.
    """

    budget: Budget
    limits: Limits
    ranks: Ranks
    least_capability: str = field(default="", kw_only=True)

    def observes(self, graph: ir.Graph) -> tuple[str, ...]:
        """The tensors of the optimised graph that calibration must sample, besides the peaks."""
        return ()

    @abstractmethod
    def lower(self, model: ir.Model, calibration: Calibration) -> Graphs:
        """Returns the graphs of this precision; `model` is not changed."""
