"""Finds the form of a graph of which a builder makes the cheapest engine for a target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import fmean
from typing import TypeVar

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from vit_edge.export.collapse.probes import BRANCH, find_probes
from vit_edge.runtime.errors import EngineError
from vit_edge.runtime.tools.plan.devices import Device
from vit_edge.runtime.tools.plan.engine_plan import EnginePlan
from vit_edge.runtime.tools.plan.estimate import estimate

from . import DEFAULT, FORMS, GraphForm, aux_streams, write_in

Build = Callable[[ir.Model, GraphForm], EnginePlan]
"""Builds a graph for one batch size alone, and reads the plan. Raises EngineError."""

T = TypeVar("T")
R = TypeVar("R")

MIN_GAIN = 1.005
"""Factor by which another choice than the default has to be cheaper."""
_AT_ONCE = 2
_FIRST, _LAST = 4, 2
"""Branches that stay at either end: two blocks, and the last one, which may be another."""


@dataclass(frozen=True)
class Cost:
    """Cost of a form; less is better, faults first.

    Attributes:
        faults: Layers that do not run in the type that the graph asks for, or whose weights are
            widened at every call.
        milliseconds: Mean estimate over the target's devices; None where there is none for any.
        kernels: That one call launches.
    """

    faults: int
    milliseconds: float | None
    kernels: int

    def beats(self, other: Cost) -> bool:
        """Returns whether it is worth leaving `other` for."""
        if self.faults != other.faults:
            return self.faults < other.faults
        if self.milliseconds is None or other.milliseconds is None:
            return self.kernels < other.kernels
        return self.milliseconds * MIN_GAIN < other.milliseconds


@dataclass(frozen=True)
class FormTrial:
    """A form that was tried; `cost` is None where the builder refused it."""

    form: dict[str, str]
    cost: Cost | None


@dataclass(frozen=True)
class FoundForm:
    """The form that costs least, and all that was tried."""

    form: dict[str, str]
    trials: tuple[FormTrial, ...]


def search_form(
    model: ir.Model,
    build: Build,
    batch: int,
    devices: Sequence[Device],
    stop: Callable[[], None] = lambda: None,
    workers: int = _AT_ONCE,
) -> FoundForm:
    """Tries each choice of `FORMS` in turn, the ones before it settled.

    Args:
        model: In its default form.
        build: Builds it in another one, for `batch` alone.
        batch: The batch size to estimate for.
        devices: The target's.
        stop: Ends the builds that run, when the search is given up.
        workers: How many builds run at a time; one where the builder times kernels on the device.

    Raises:
        EngineError: if the builder refuses the graph in every form.
    """
    problems: list[EngineError] = []

    def attempt(form: GraphForm) -> FormTrial:
        try:
            return FormTrial(
                dict(form), cost_of(build(write_in(model, form), form), batch, devices)
            )
        except EngineError as error:
            problems.append(error)
            return FormTrial(dict(form), None)

    best = attempt(DEFAULT)
    trials = [best]
    for name, choices in FORMS.items():
        others = [{**best.form, name: choice} for choice in choices if choice != best.form[name]]
        others = [form for form in others if _makes_a_difference(model, name, form)]
        for trial in at_once(attempt, others, stop, workers):
            trials.append(trial)
            if trial.cost and (best.cost is None or trial.cost.beats(best.cost)):
                best = trial
    if best.cost is None:
        raise problems[0]
    return FoundForm(best.form, tuple(trials))


def at_once(
    function: Callable[[T], R],
    items: Sequence[T],
    stop: Callable[[], None],
    workers: int = _AT_ONCE,
) -> list[R]:
    """Returns the results of `function` for all items, computed some at a time.

    `stop` is called where that is given up, as by Ctrl-C, which threads do not see.
    """
    with ThreadPoolExecutor(workers) as pool:
        try:
            return list(pool.map(function, items))
        except BaseException:
            stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def cost_of(plan: EnginePlan, batch: int, devices: Sequence[Device]) -> Cost:
    """The cost of an engine that was built for `batch` alone."""
    summary = plan.summary()
    estimates = [estimate(plan.layers, batch, device) for device in devices]
    known = [one.milliseconds for one in estimates if one is not None]
    faults = len(summary.unmet) + len(summary.dequantised)
    return Cost(faults, fmean(known) if known else None, summary.kernels)


def _makes_a_difference(model: ir.Model, name: str, form: GraphForm) -> bool:
    """Returns whether the choice of the form `name` changes the graph or its build."""
    rewritten = write_in(model, {name: form[name]}) is not model
    return rewritten or aux_streams(form) != aux_streams(DEFAULT)


def shorten(model: ir.Model, fp32: ir.Model) -> ir.Model:
    """Drops blocks that are like others, which builders compile alike, to save builds.

    Returns `model` itself where the stream before and after them differs in shape or type, or else
    a copy without the blocks between the second and the last.

    Args:
        model: A lowering of `fp32`, whose tensors have its names.
        fp32: The optimised fp32 graph.
    """
    branches = [probe.name for probe in find_probes(fp32.graph) if probe.kind == BRANCH]
    if len(branches) <= _FIRST + _LAST:
        return model
    copy = model.clone()
    values = {value.name: value for node in copy.graph for value in node.outputs}
    before, after = (values.get(name) for name in (branches[_FIRST - 1], branches[-_LAST - 1]))
    if before is None or after is None:
        return model
    if (before.shape, before.dtype) != (after.shape, after.dtype):
        return model
    after.replace_all_uses_with(before)
    RemoveUnusedNodesPass()(copy)
    return copy
