"""`vit-edge triton`: a model repository of a bundle for Triton Inference Server."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

from ...bundle import Bundle
from ...errors import InputError
from ..display import say
from .config import DECODE, IMAGES, Serving
from .repository import RECORD, write_repository
from .target import TARGETS, BundlePart, choose_part

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


def add_triton_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `triton`."""
    parser.add_argument("folder", type=Path, metavar="DIR", help="the model repository")
    parser.add_argument(
        "--backend", choices=list(TARGETS), default=next(iter(TARGETS)),
        help="what runs in Triton; default: %(default)s, which verifies, checks and chooses the "
        "engine on the server",
    )  # fmt: skip
    parser.add_argument(
        "--precision", metavar="P",
        help="default: the first in the export's order; `python` chooses on the server",
    )  # fmt: skip
    parser.add_argument(
        "--compute-capability", metavar="C",
        help="of several TensorRT engines, the one for this GPU, as 8.9",
    )  # fmt: skip
    parser.add_argument("--name", help="the model's name; default: the bundle's")
    parser.add_argument(
        "--batch", type=int, nargs="+", metavar="N",
        help="sizes that the dynamic batcher prefers; default: those that the engines are built "
        "for",
    )  # fmt: skip
    parser.add_argument(
        "--instances", type=int, default=1, metavar="N", help="on each device; default: 1"
    )
    parser.add_argument(
        "--threads", type=int, metavar="N",
        help="CPU threads of each instance of `python`; default: what suits the server",
    )  # fmt: skip
    parser.add_argument(
        "--decode", action="store_true",
        help=f"add NAME{IMAGES}, which takes the bytes of image files (and NAME{DECODE}, its step)",
    )  # fmt: skip


def run_triton(arguments: argparse.Namespace) -> int:
    """Writes the repository and says what is in it."""
    bundle = Bundle.open(arguments.bundle, arguments.public_key)
    bundle.verify()
    name = bundle.manifest.name if arguments.name is None else arguments.name
    if not _NAME.fullmatch(name):
        raise InputError(
            f"the model's name {name[:60]!r} is not made of letters, digits, '_', '-' and '.': "
            "choose another --name"
        )
    if name == RECORD:
        raise InputError(f"a file of the repository is called {name}: choose another --name")
    target = TARGETS[arguments.backend]
    if arguments.threads is not None and target.like:
        raise InputError(
            f"--threads {arguments.threads} is of --backend python: {target.name} has settings of "
            "its own"
        )
    part = choose_part(bundle, target, arguments.precision, arguments.compute_capability)
    batches = tuple(sorted(set(arguments.batch or bundle.manifest.spec.batch[1:])))
    serving = Serving(name, bundle, part, batches, arguments.instances, arguments.threads)
    written = write_repository(serving, arguments.folder, arguments.decode)
    print(f"{written.folder}: {', '.join(written.models)}; {_describe(part)}")
    say(f"start it:  tritonserver --model-repository={shlex.quote(str(written.folder))}")
    say(
        f"prove it:  vit-edge replay {shlex.quote(str(bundle.path))} --url grpc://localhost:8001/{name}"
    )
    return 0


def _describe(part: BundlePart) -> str:
    """Says in a line what runs."""
    if not part.target.like:
        which = f"in {part.precision}" if part.precision else "the best precision on the server"
        return f"vit_edge.Engine, {which}"
    if part.engine is not None:
        gpus = ", ".join(part.engine.compute_capabilities) or "the GPU that it was built on"
        return (
            f"{part.precision} as a TensorRT engine for {gpus}: the server needs TensorRT "
            f"{part.engine.version}"
        )
    return f"{part.precision} on {part.target.name}"
