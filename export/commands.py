"""The command `vit-edge export`. Importing this module needs no extra; running the command does."""

from __future__ import annotations

import argparse
import errno
from collections.abc import Sequence
from pathlib import Path

from vit_edge.runtime.deployment import Candidate, Deployment
from vit_edge.runtime.errors import BackendError, InputError, VitEdgeError, install_command
from vit_edge.runtime.preprocess import CROP_MODES, INTERPOLATIONS
from vit_edge.runtime.tools.tune.variants import Proposal
from vit_edge.vit.command import attach as attach_train
from vit_edge.vit.config import ACTIVATIONS, POOLS
from vit_edge.vit.hints import ModelHints
from vit_edge.vit.labels import Labels, read_labels


def attach(parsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `export` and `train` to the command line, and forms of graphs to `tune`; an entry point
    of the group `vit_edge.commands`.
    """
    parsers.choices["tune"].set_defaults(find_forms=find_forms)
    attach_train(parsers)
    parser = parsers.add_parser(
        "export",
        help="turn a vision transformer into a bundle of proven engines",
        description="Turn a vision transformer into a bundle of proven engines. Exit status: 0 "
        "every precision met its budget; 1 one did not, and the bundle that was there stays; 2 bad "
        "input.",
    )
    parser.set_defaults(run=run_export)
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="timm:NAME, torchvision:NAME, hf:ID, a folder of save_pretrained, a bundle, "
        "FILE.py:FUNCTION that returns a module, or a named variant (default: vit_digits, trained "
        "here)",
    )
    parser.add_argument(
        "--onnx", type=Path, metavar="FILE", help="an fp32 ViT that another exporter wrote"
    )
    parser.add_argument(
        "--weights",
        metavar="W",
        help="MODEL's weights: a .safetensors or .pth file, or random; without MODEL a plain ViT's "
        "checkpoint of timm, torchvision, Hugging Face, the original JAX code or this project: a "
        "file, a folder, hf:REPOSITORY or timm:NAME",
    )
    parser.add_argument(
        "--calib", metavar="DATA", help="calibration images: a folder, an .npz, digits or samples"
    )
    parser.add_argument(
        "--eval", metavar="DATA", help="evaluation images (default: part of --calib)"
    )
    parser.add_argument(
        "--precision", action="extend", nargs="+", metavar="P", help="default: fp32 fp16 int8"
    )
    parser.add_argument(
        "--merge",
        metavar="M",
        help="merge similar tokens, in a merged form of each precision that has one (int8, fp16): "
        "auto (as many as the budget allows), or how many in every block (8), or in each (8,8,0,4)",
    )
    parser.add_argument(
        "--target",
        action="extend",
        nargs="+",
        metavar="T",
        help="as tensorrt-rtx or tensorrt-rtx:8.9,12.0 (default: all)",
    )
    parser.add_argument(
        "--effort",
        metavar="E",
        help="fast (builds each engine once, asks less of the quantiser), default (tries several "
        "equivalent forms of the graph, and estimates latencies) or thorough (divides the inputs "
        "of more quantised layers: nearer to PyTorch, a multiplication for each)",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: build/MODEL")
    parser.add_argument(
        "--output",
        action="extend",
        nargs="+",
        metavar="NAME[=KIND]",
        help="outputs to export (default: all of a file, logits of our own models; features is "
        "what their head reads), and their kinds: logits, probabilities, multilabel, value, "
        "embedding, tokens, map or boxes",
    )
    parser.add_argument(
        "--metric",
        metavar="FILE.py:FUNCTION",
        help="a measure of your own over all evaluation images, (outputs, labels) -> number, "
        "higher is better; --max-drop is then how much lower it may be",
    )
    parser.add_argument(
        "--max-drop", type=float, metavar="PP", help="top-1 drop allowed, in percentage points"
    )
    parser.add_argument(
        "--max-batch", type=int, metavar="N", help="largest batch of the engines (default: 32)"
    )
    parser.add_argument(
        "--calibration-size", type=int, metavar="N", help="calibration images (default: 128)"
    )
    parser.add_argument(
        "--calibration-method",
        metavar="M",
        help="search (default), or minmax, percentile, entropy, mse",
    )
    parser.add_argument("--seed", type=int, metavar="N", help="default: 0")
    _add_facts(parser)


def find_forms(
    deployment: Deployment, candidate: Candidate, batch: int, most: int
) -> Sequence[Proposal]:
    """Proposes other forms of a graph: see `export.forms.on_device`.

    Raises:
        BackendError: if a package of the extra `export` is missing.
    """
    try:
        from .forms import on_device
    except ModuleNotFoundError as error:
        raise BackendError(
            f"other forms of a graph need {error.name}: {install_command('export')}"
        ) from None
    return on_device.find_forms(deployment, candidate, batch, most)


def _add_facts(parser: argparse.ArgumentParser) -> None:
    """Adds the options for facts about a model that its weights may not tell."""
    group = parser.add_argument_group(
        "the model", "facts that its weights do not tell; read or assumed where they are not given"
    )
    group.add_argument(
        "--config", type=Path, metavar="FILE", help="JSON with fields that differ from MODEL's"
    )
    group.add_argument(
        "--image-size", type=parse_size, metavar="S", help="side, or HEIGHTxWIDTH, in pixels"
    )
    group.add_argument("--heads", type=int, metavar="N", help="attention heads")
    group.add_argument("--norm-eps", type=float, metavar="E", help="epsilon of the LayerNorms")
    group.add_argument("--activation", metavar="A", help=", ".join(ACTIVATIONS))
    group.add_argument("--pool", metavar="P", help=", ".join(POOLS))
    group.add_argument(
        "--checkpoint-key",
        metavar="K",
        help="of several weights or heads in the file, the one to take, as state_dict_ema",
    )
    group.add_argument("--mean", type=parse_numbers, metavar="M,M,M", help="on the 0-1 scale")
    group.add_argument("--std", type=parse_numbers, metavar="S,S,S", help="on the 0-1 scale")
    group.add_argument("--interpolation", metavar="I", help=", ".join(INTERPOLATIONS))
    group.add_argument("--crop", type=float, metavar="C", help="central share of the image, 0-1")
    group.add_argument("--crop-mode", metavar="M", help=", ".join(CROP_MODES))
    group.add_argument(
        "--labels",
        type=Path,
        metavar="FILE",
        help="class names: a line for each, or JSON: a list, {index: name}, {folder: index}",
    )


def parse_numbers(text: str) -> tuple[float, ...]:
    """Parses numbers such as `0.5,0.5,0.5`."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not numbers with commas between") from None


def parse_size(text: str) -> tuple[int, int]:
    """Parses `224` or `320x256` to height and width."""
    parts = text.split("x")
    if len(parts) not in (1, 2) or not all(p.isdecimal() and int(p) for p in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a side nor HEIGHTxWIDTH")
    return int(parts[0]), int(parts[-1])


def _facts(arguments: argparse.Namespace) -> ModelHints:
    if arguments.activation not in (None, *ACTIVATIONS):
        raise InputError(
            f"unknown activation {arguments.activation!r}: choose from {', '.join(ACTIVATIONS)}"
        )
    if arguments.pool not in (None, *POOLS):
        raise InputError(f"unknown pool {arguments.pool!r}: choose from {', '.join(POOLS)}")
    labels = read_labels(arguments.labels) if arguments.labels else Labels(None)
    return ModelHints(
        img_size=arguments.image_size,
        n_heads=arguments.heads,
        norm_eps=arguments.norm_eps,
        mlp=arguments.activation,
        pool=arguments.pool,
        mean=arguments.mean,
        std=arguments.std,
        interpolation=arguments.interpolation,
        crop=arguments.crop,
        crop_mode=arguments.crop_mode,
        labels=labels.names,
        folders=labels.folders or None,
        checkpoint_key=arguments.checkpoint_key,
    )


def run_export(arguments: argparse.Namespace) -> int:
    """Exports; returns exit status 0 if the bundle was written, 1 if a precision failed."""
    try:
        from .outputs import parse_outputs
        from .pipeline import export_bundle
        from .plan import ExportRequest
        from .progress import Display
        from .report import show_report
    except ModuleNotFoundError as error:
        raise VitEdgeError(
            f"`export` needs {error.name}: {install_command('export,onnxruntime')}"
        ) from None
    options = {
        "model": arguments.model,
        "onnx": arguments.onnx,
        "weights": arguments.weights,
        "config": arguments.config,
        "calibration": arguments.calib,
        "evaluation": arguments.eval,
        "facts": _facts(arguments),
        "outputs": parse_outputs(arguments.output or ()),
        "metric": arguments.metric,
        "precisions": arguments.precision and tuple(arguments.precision),
        "targets": arguments.target and tuple(arguments.target),
        "out": arguments.out,
        "merge": arguments.merge,
        "max_drop": arguments.max_drop,
        "max_batch": arguments.max_batch,
        "calibration_size": arguments.calibration_size,
        "method": arguments.calibration_method,
        "seed": arguments.seed,
        "effort": arguments.effort,
    }
    request = ExportRequest(**{name: value for name, value in options.items() if value is not None})
    try:
        report = export_bundle(request, Display())
    except OSError as error:
        raise InputError(_explain(error)) from None
    except (MemoryError, RuntimeError) as error:  # PyTorch reports it as a RuntimeError
        if isinstance(error, RuntimeError) and "allocate memory" not in str(error):
            raise
        raise InputError("the model needs more memory than this machine has") from None
    show_report(report)
    return 0 if report.good else 1


def _explain(error: OSError) -> str:
    where = f" ({error.filename})" if error.filename else ""
    remedy = (
        "free some space or choose another --out"
        if error.errno == errno.ENOSPC
        else "check --out and its rights"
    )
    return (
        f"cannot read or write: {error.strerror or error}{where}; {remedy}. The bundle that was "
        "there is untouched"
    )
