"""`vit-edge build`: engines for this device, into its cache."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ..backends import BACKENDS, BuildOptions, Built, find_backend
from ..bundle import Bundle
from ..deployment import Candidate, Deployment, device_problems
from ..errors import BackendError, EngineError, InputError
from .display import mebibytes, say
from .plan.engine_plan import plan_of
from .plan.show import shares, shortfall


def add_build_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `build`."""
    engines = [name for name, backend in BACKENDS.items() if backend.needs_engine]
    parser.add_argument("--target", required=True, metavar="BACKEND", help=" or ".join(engines))
    parser.add_argument("--precision", nargs="+", action="extend", metavar="P", help="default: all")
    parser.add_argument(
        "--time-limit",
        type=_positive,
        default=BuildOptions().time_limit_s,
        metavar="SECONDS",
        help="for each engine (default: %(default)g)",
    )


def _positive(text: str) -> float:
    """A number of seconds from the command line."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number")
    return number


def run_build(arguments: argparse.Namespace) -> int:
    """Exit status 0 if every engine was built, 1 if one was not."""
    bundle = Bundle.open(arguments.bundle, arguments.public_key)
    precisions = arguments.precision or []
    return 0 if build_here(bundle, arguments.target, precisions, arguments.time_limit) else 1


def build_here(bundle: Bundle, target: str, precisions: Sequence[str], time_limit_s: float) -> bool:
    """Builds engines of the precisions, of all if none is named, each within the time limit. A
    failure is reported, and the others are built all the same. Returns True if all were built.

    Raises:
        InputError: if there is no such backend or precision, or the backend needs no engines.
        BackendError: if this device cannot build or run them.
    """
    backend = find_backend(target)
    if not backend.needs_engine:
        raise InputError(f"{backend.name} runs the bundle's ONNX as it is: nothing to build")
    deployment = Deployment(bundle)
    names: list[str | None] = [*dict.fromkeys(precisions)] or [None]
    listed = [c for name in names for c in deployment.candidates(name, backend.name)]
    candidates = [c.default for c in listed]
    if not candidates:
        raise InputError(f"the bundle has no {backend.graph} graph of {', '.join(precisions)}")
    problem = backend.build_problem() or backend.run_problem()
    if problem:
        raise BackendError(f"cannot build for {backend.name} on this device: {problem}")
    unwritable = deployment.cache.problem()
    if unwritable:
        raise BackendError(
            f"no engine could be kept: {deployment.cache.folder} cannot be written ({unwritable}); "
            "XDG_CACHE_HOME names another place"
        )
    options = BuildOptions(progress=_say_progress, time_limit_s=time_limit_s)
    unfit = device_problems(deployment, candidates)
    for candidate, why in unfit.items():
        print(f"{candidate}: left out: {why}")
    if len(unfit) == len(candidates):
        raise BackendError(f"nothing to build here: {'; '.join(dict.fromkeys(unfit.values()))}")
    candidates = [c for c in candidates if str(c) not in unfit]
    built = [_build(candidate, deployment, options) for candidate in candidates]
    return all(built)


def _build(candidate: Candidate, deployment: Deployment, options: BuildOptions) -> bool:
    say(f"building {candidate} ...")
    try:
        built = deployment.build(candidate, options)
    except EngineError as error:
        print(f"{candidate.precision}: not built: {error}")
        return False
    if deployment.cache.engine(candidate.key) is None:
        print(f"{candidate.precision}: built, but not kept: {deployment.cache.problem()}")
        return False
    size = mebibytes(len(built.engine))
    print(f"{candidate.precision}: {size}, {_describe(built)}kept in {deployment.cache.folder}")
    return True


def _describe(built: Built) -> str:
    """Says what the engine really runs in; "" where its builder does not tell."""
    try:
        summary = plan_of("", built).summary() if built.listing else None
    except EngineError as error:
        return f"what it runs in is not known ({error}), "
    if summary is None:
        return ""
    problem = shortfall(summary)
    return f"Linear work in {shares(summary.linear_work)}, " + (f"{problem}, " if problem else "")


def _say_progress(what: str, done: int, total: int) -> None:
    say(f"  {what}: {done}/{total}")
