"""The commands that need a bundle and a backend only: check, compare, inspect, build, run."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .backends import BACKENDS
from .build import build_here
from .bundle import Bundle
from .display import mebibytes, percent, print_table, say
from .engine import Engine
from .errors import InputError
from .layers import print_json, print_tables, read_all
from .manifest import FEATURES
from .rows import COLUMNS, Measurement, Row, measure_bundle, row_cells

Parsers = argparse._SubParsersAction  # argparse has no public name for it
GRAPH_COLUMNS = ("precision", "for", "file", "agreement", "cosine", "measured on")
CHECK_COLUMNS = ("precision", "backend", "top1", "reference_top1", "agreement", "cosine", "status")


def add_commands(parsers: Parsers[argparse.ArgumentParser]) -> None:
    """Adds this module's commands to the command line."""
    check = _add(parsers, "check", run_check, "test every engine that runs here on golden samples")
    compare = _add(
        parsers, "compare", run_compare, "compare latency and accuracy across precisions"
    )
    compare.add_argument(
        "--batch", type=int, nargs="+", default=[1], metavar="N", help="default: 1"
    )
    inspect = _add(parsers, "inspect", run_inspect, "print what a bundle holds and how it was made")
    inspect.add_argument(
        "--layers", action="store_true", help="what each layer of its engines here runs in"
    )
    inspect.add_argument("--precision", metavar="P", help="with --layers: of this one only")
    inspect.add_argument("--backend", metavar="B", help="with --layers: of this one only")
    build = _add(parsers, "build", run_build, "build engines for this device, into its cache")
    engines = [name for name, backend in BACKENDS.items() if backend.needs_engine]
    build.add_argument("--target", required=True, metavar="BACKEND", help=" or ".join(engines))
    build.add_argument("--precision", action="append", metavar="P", help="again for more")
    run = _add(
        parsers, "run", run_run, "classify images: the five likeliest classes of each, or features"
    )
    run.add_argument("images", type=Path, nargs="+", metavar="IMAGE")
    run.add_argument("--precision", metavar="P")
    run.add_argument("--backend", metavar="B")
    for parser in (check, compare, inspect, run):
        parser.add_argument("--json", action="store_true", help="print one JSON object")


def _add(
    parsers: Parsers[argparse.ArgumentParser],
    name: str,
    run: Callable[[argparse.Namespace], int],
    text: str,
) -> argparse.ArgumentParser:
    parser = parsers.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.set_defaults(run=run)
    return parser


def run_check(arguments: argparse.Namespace) -> int:
    """Exit status 0 if all that runs here is right, 1 if something is not."""
    bundle = Bundle.open(arguments.bundle)
    bundle.verify()
    measured = measure_bundle(bundle, batches=None)
    return _show(arguments, f"golden samples of {bundle.manifest.name}", CHECK_COLUMNS, measured)


def run_compare(arguments: argparse.Namespace) -> int:
    """Exit status 0 if all that runs here is right, 1 if something is not."""
    if any(batch < 1 for batch in arguments.batch):
        raise InputError(f"--batch {min(arguments.batch)}: a batch has at least one image")
    bundle = Bundle.open(arguments.bundle)
    measured = measure_bundle(bundle, arguments.batch)
    return _show(arguments, f"{bundle.manifest.name} on this device", COLUMNS, measured)


def _show(
    arguments: argparse.Namespace, title: str, columns: Sequence[str], measured: Measurement
) -> int:
    if arguments.json:
        print(json.dumps(dataclasses.asdict(measured), indent=2))
    else:
        names = [column.replace("_", " ") for column in columns]
        print_table(title, names, [row_cells(row, columns) for row in measured.rows])
        for backend, reason in measured.not_run.items():
            print(f"not run: {backend}: {reason}")
    return 0 if measured.good else 1


def run_inspect(arguments: argparse.Namespace) -> int:
    """Prints the manifest; every file's hash is verified first."""
    bundle = Bundle.open(arguments.bundle)
    bundle.verify()
    manifest, spec = bundle.manifest, bundle.manifest.spec
    if arguments.layers:
        show = print_json if arguments.json else print_tables
        show(read_all(bundle, arguments.precision, arguments.backend))
        return 0
    if arguments.precision or arguments.backend:
        raise InputError("--precision and --backend go with --layers")
    if arguments.json:
        rows = [dataclasses.asdict(row) for row in _stored_rows(bundle)]
        print(json.dumps({"rows": rows, "manifest": dataclasses.asdict(manifest)}, indent=2))
        return 0
    shape = ", ".join(map(str, spec.image_shape))
    print(
        f"{manifest.name}, bundle {bundle.digest[:16]}: {len(manifest.files)} files, all verified"
    )
    print(f"{spec.input_name}: uint8 [N, {shape}], N from {spec.batch[0]} to {spec.batch[2]}")
    print(f"{spec.output_name}: float32 [N, {spec.outputs}]")
    for title, pairs in (
        ("model", manifest.model),
        ("made from", manifest.provenance),
        ("tools", manifest.tools),
    ):
        print_table(title, ("", ""), sorted(pairs.items()))
    _show_precisions(bundle)
    return 0


def _show_precisions(bundle: Bundle) -> None:
    precisions = bundle.manifest.precisions
    graphs = [
        (
            name,
            kind,
            g.file,
            percent(g.accuracy.agreement),
            f"{g.accuracy.cosine:.6f}",
            g.accuracy.measured_on,
        )
        for name, entry in precisions.items()
        for kind, g in entry.graphs.items()
    ]
    print_table("graphs", GRAPH_COLUMNS, graphs)
    engines = []
    for name, entry in precisions.items():
        for e in entry.engines:
            size = mebibytes(bundle.manifest.files[e.file].size)
            capabilities = ", ".join(e.compute_capabilities) or "the library's default"
            engines.append((name, e.file, size, f"{e.backend} {e.version}", capabilities))
    print_table("engines", ("precision", "file", "size", "built by", "for"), engines)
    for name, entry in precisions.items():
        if entry.raised:
            print(f"{name} leaves {', '.join(entry.raised)} in higher precision: {entry.reason}")


def _stored_rows(bundle: Bundle) -> list[Row]:
    """What was measured at export, in the form of `compare`'s rows; `backend` is the kind."""
    return [
        Row(
            precision=name,
            backend=kind,
            status=graph.accuracy.measured_on,
            top1=graph.accuracy.top1,
            reference_top1=graph.accuracy.reference_top1,
            agreement=graph.accuracy.agreement,
            cosine=graph.accuracy.cosine,
            bytes=sum(bundle.manifest.files[f].size for f in (graph.file, *graph.external)),
        )
        for name, entry in bundle.manifest.precisions.items()
        for kind, graph in entry.graphs.items()
    ]


def run_build(arguments: argparse.Namespace) -> int:
    """Exit status 0 if every engine was built, 1 if one was not."""
    bundle = Bundle.open(arguments.bundle)
    return 0 if build_here(bundle, arguments.target, arguments.precision or []) else 1


def run_run(arguments: argparse.Namespace) -> int:
    """Prints the five likeliest classes of each image, or its features."""
    with Engine.load(arguments.bundle, arguments.precision, arguments.backend) as engine:
        frames = np.stack([engine.preprocess.read(path) for path in arguments.images])
        outputs, info, labels = engine(frames), engine.info, engine.labels
        features = engine.output == FEATURES
    images = [str(image) for image in arguments.images]
    if arguments.json:
        kind = "features" if features else "top5"
        answers = outputs.tolist() if features else [_top5(scores, labels) for scores in outputs]
        rows = [{"image": i, kind: answer} for i, answer in zip(images, answers, strict=True)]
        print(json.dumps({"rows": rows, "engine": dataclasses.asdict(info)}, indent=2))
        return 0
    say(f"{info.precision} on {info.backend} {info.version}: {info.why}")
    for image, output in zip(images, outputs, strict=True):
        if features:
            _show_features(image, output)
        else:
            top5 = [(name, f"{p:.4f}") for name, p in _top5(output, labels)]
            print_table(image, ("class", "probability"), top5)
    return 0


def _show_features(image: str, features: NDArray[np.float32]) -> None:
    first = ", ".join(f"{value:.4f}" for value in features[:5])
    rows = [("size", str(len(features))), ("norm", f"{np.linalg.norm(features):.4f}")]
    print_table(image, ("features", ""), [*rows, ("first", f"{first}, ...")])


def _top5(scores: NDArray[np.float32], labels: tuple[str, ...] | None) -> list[tuple[str, float]]:
    shifted = np.exp(scores - scores.max())
    best = np.argsort(-scores, kind="stable")[:5]
    return [(labels[i] if labels else str(i), float(shifted[i] / shifted.sum())) for i in best]
