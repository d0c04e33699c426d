"""Golden samples through a server, judged as `vit-edge check` judges engines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ...backends import Frames
from ...bundle import Bundle
from ...errors import InputError
from ...frames import cut
from ...golden import run_golden, tolerance_violation
from ...manifest import EngineSpec
from ...outputs import Metrics, OutputSpec
from ..check import OK, Row, judged_row
from ..display import say
from ..triton.config import BUNDLE_SHA256, GRAPH, PRECISION
from .server import Description, Server, ServerTensor


@dataclass(frozen=True)
class Expectation:
    """Facts about the server that the user gives; None leaves it to the server.

    Attributes:
        precision: Whose tolerances judge.
        graph: "cpu" or "gpu": of which of its graphs they are.
    """

    precision: str | None = None
    graph: str | None = None


@dataclass(frozen=True)
class Replay:
    """Verdict on a server, as `--json` prints it.

    Attributes:
        url: The model's address.
        platform, versions: As the server gives them.
        samples: Number of golden samples that were sent.
        graph: "cpu" or "gpu": whose tolerances judged.
        bundle: SHA-256 of the bundle's manifest in hex.
        served_bundle: That of the bundle that the server says it runs; None where it does not say.
        row: The comparison, with the verdict in its `status`.
    """

    url: str
    platform: str
    versions: tuple[str, ...]
    samples: int
    graph: str
    bundle: str
    served_bundle: str | None
    row: Row

    @property
    def good(self) -> bool:
        return self.row.status == OK


def replay(bundle: Bundle, served: Server, expected: Expectation) -> Replay:
    """Sends all golden samples through a server and judges its outputs.

    Raises:
        BackendError: if the server does not answer.
        InputError: if it has no such model, or one of other inputs or outputs; or if nobody says
            which precision it runs.
        EngineError: if it fails.
    """
    spec = bundle.manifest.spec
    described = served.describe()
    problem = interface_problem(described, spec)
    if problem:
        raise InputError(f"{served.address}: {problem}")
    golden = bundle.golden()
    say(f"sending {len(golden)} golden samples to {served.address} ...")
    sent = _request_spec(described, spec)

    def infer(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        parts = cut(frames, sent)
        return np.concatenate(
            [served.infer(_on_host(part.images), spec)[: part.count] for part in parts]
        )

    metrics = run_golden(infer, golden, spec.outputs)
    precision, kind = _judged_by(bundle, expected, described.parameters, metrics)
    problem = tolerance_violation(metrics, bundle.manifest.precisions[precision].graphs[kind])
    served_bundle = described.parameters.get(BUNDLE_SHA256)
    if problem is None and served_bundle is not None and served_bundle != bundle.digest:
        problem = f"the server runs another bundle, {served_bundle[:12]}, not {bundle.digest[:12]}"
    row = judged_row(
        precision, described.platform or served.address.protocol, metrics, problem, spec
    )
    return Replay(
        str(served.address),
        described.platform,
        described.versions,
        len(golden),
        kind,
        bundle.digest,
        served_bundle,
        row,
    )


def interface_problem(described: Description, spec: EngineSpec) -> str | None:
    """Says in which input or output a served model differs from the bundle's; None if in none."""
    frames = ServerTensor(spec.input_name, "UINT8", (-1, *spec.image_shape))
    problem = _difference("input", described.inputs, {frames.name: (frames,)})
    if problem:
        return problem
    return _difference("output", described.outputs, {o.name: _forms(o) for o in spec.outputs})


def _forms(output: OutputSpec) -> tuple[ServerTensor, ...]:
    """Lists the ways to describe an output: Triton calls a single number [1]."""
    shapes = [output.shape] if output.shape else [(1,), ()]
    return tuple(ServerTensor(output.name, "FP32", (-1, *shape)) for shape in shapes)


def _difference(
    what: str, served: dict[str, ServerTensor], expected: dict[str, tuple[ServerTensor, ...]]
) -> str | None:
    ours = ", ".join(str(forms[0]) for forms in expected.values())
    if served.keys() != expected.keys():
        theirs = ", ".join(map(str, served.values())) or "none"
        return f"its {what}s are {theirs}, the bundle's {ours}: it is another model"
    for name, forms in expected.items():
        tensor = served[name]
        # The first size is the batch's: any, or a fixed one.
        if not any(
            (tensor.datatype, tensor.shape[1:]) == (form.datatype, form.shape[1:])
            and len(tensor.shape) == len(form.shape)
            for form in forms
        ):
            return f"its {what} is {tensor}, the bundle's {forms[0]}: it is another model"
    return None


def _request_spec(described: Description, spec: EngineSpec) -> EngineSpec:
    """Returns the batch sizes that the server takes."""
    fixed = described.inputs[spec.input_name].shape[0]
    if fixed > 0:
        return replace(spec, batch=(fixed, fixed, fixed))
    smallest, _, largest = spec.batch
    largest = min(largest, described.max_batch or largest)
    smallest = min(smallest, largest)
    return replace(spec, batch=(smallest, largest, largest))


def _on_host(frames: Frames) -> NDArray[np.uint8]:
    assert isinstance(frames, np.ndarray)  # golden samples lie nowhere else
    return frames


def _judged_by(
    bundle: Bundle,
    expected: Expectation,
    configured: Mapping[str, str],
    metrics: Mapping[str, Metrics],
) -> tuple[str, str]:
    """Chooses the precision and the kind of its graph whose tolerances judge: what the user or the
    server says. Where neither does, outputs within all tolerances are right whichever it is.

    Raises:
        InputError: if the server contradicts the user, or what neither says matters.
    """
    precision = _agreed("precision", expected.precision, configured.get(PRECISION))
    kind = _agreed("graph", expected.graph, configured.get(GRAPH))
    entries = bundle.manifest.precisions
    choices = {
        (name, of): graph
        for name, entry in entries.items()
        for of, graph in entry.graphs.items()
        if precision in (None, name) and kind in (None, of)
    }
    if not choices:
        raise InputError(
            f"the bundle has no {kind or 'graph'} of {precision}: its precisions are "
            f"{', '.join(entries)}"
        )
    right = [choice for choice, graph in choices.items() if not tolerance_violation(metrics, graph)]
    if len(choices) == 1 or len(right) in (0, len(choices)):
        # All say the same. The strictest is named.
        return min(choices, key=lambda choice: min(choices[choice].rms_tolerance.values()))
    names = ", ".join(sorted({f"--precision {p} --graph {k}" for p, k in right}))
    raise InputError(
        f"the outputs are right for {names}, and for no other, and the server does not say which "
        "it runs (its log may): give that"
    )


def _agreed(what: str, asked: str | None, served: str | None) -> str | None:
    if asked is not None and served is not None and asked != served:
        raise InputError(f"--{what} {asked}, but the server says that it runs {served}")
    return asked or served
