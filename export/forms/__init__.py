"""Equivalent ways to write a graph for a GPU: all compute the same, and builders make different
kernels of them.

The first choice of each form is what a bundle's graphs are written in. For each target the builder
is asked which choices cost the least (`search.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from .patches import patches_as_product, quantise_before_layout
from .qkv import cut_apart, join, saturate

Rewrite = Callable[[ir.Model], bool]
"""Rewrites a graph in place and returns True if there was anything to rewrite."""


@dataclass(frozen=True)
class FormChoice:
    """One of the ways of a form.

    Attributes:
        rewrite: From the first choice's graph to this one's; None where the graph stays.
        max_aux_streams: See `runtime.backends.base.BuildOptions`.
    """

    rewrite: Rewrite | None = None
    max_aux_streams: int | None = 0


FORMS: dict[str, dict[str, FormChoice]] = {
    # Linears whose outputs are cut into parts: Q, K and V, or the gate of an MLP and what it gates.
    "qkv": {
        "saturated": FormChoice(),
        "together": FormChoice(join),
        "apart": FormChoice(cut_apart),
    },
    "attention output": {
        "quantised after layout": FormChoice(),
        "quantised before layout": FormChoice(quantise_before_layout),
    },
    "patches": {
        "convolution": FormChoice(),
        "product": FormChoice(patches_as_product),
    },
    "streams": {
        "one": FormChoice(),
        "library's choice": FormChoice(max_aux_streams=None),
    },
}
"""Each form with its choices; the first one is the default."""

GraphForm = Mapping[str, str]
"""The choice of each form, by name; what is not named is the default."""

DEFAULT: GraphForm = {form: next(iter(choices)) for form, choices in FORMS.items()}


def write_in_default(model: ir.Model) -> None:
    """Brings a lowered graph for GPUs to the default form, in place."""
    saturate(model)


def write_in(model: ir.Model, form: GraphForm) -> ir.Model:
    """A copy of `model`, which is in its default form, in another one; itself where nothing of it
    changes.
    """
    choices = [FORMS[name][choice] for name, choice in form.items()]
    rewrites = [choice.rewrite for choice in choices if choice.rewrite is not None]
    copy = model.clone() if rewrites else model
    changed = [rewrite(copy) for rewrite in rewrites]
    return copy if any(changed) else model


def aux_streams(form: GraphForm) -> int | None:
    """Returns how many streams an engine of that form may use beside the main one."""
    return FORMS["streams"][{**DEFAULT, **form}["streams"]].max_aux_streams
