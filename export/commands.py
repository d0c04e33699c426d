"""The command `vit-edge export`. Importing this module needs no extra; running the command does."""

from __future__ import annotations

import argparse
import errno
from pathlib import Path

from runtime.errors import InputError, VitEdgeError


def attach(parsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `export` to the command line; an entry point of the group `vit_edge.commands`."""
    parser = parsers.add_parser(
        "export",
        help="turn a PyTorch ViT into a bundle of proven engines",
        description="Turn a PyTorch ViT into a bundle of proven engines. Exit status: 0 every "
        "precision met its budget; "
        "1 one did not, and the bundle that was there stays; 2 bad input.",
    )
    parser.set_defaults(run=run_export)
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="a named variant (default: vit_digits, trained here)",
    )
    parser.add_argument(
        "--onnx", type=Path, metavar="FILE", help="an fp32 ViT that another exporter wrote"
    )
    parser.add_argument(
        "--weights", type=Path, metavar="FILE", help="checkpoint of this project or timm"
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="JSON with fields that differ from MODEL's"
    )
    parser.add_argument(
        "--calib", metavar="DATA", help="calibration images: a folder, an .npz, digits or samples"
    )
    parser.add_argument(
        "--eval", metavar="DATA", help="evaluation images (default: part of --calib)"
    )
    parser.add_argument("--mean", type=_floats, metavar="M,M,M", help="on the 0-1 scale")
    parser.add_argument("--std", type=_floats, metavar="S,S,S", help="on the 0-1 scale")
    parser.add_argument(
        "--precision", action="extend", nargs="+", metavar="P", help="default: fp32 fp16 int8"
    )
    parser.add_argument(
        "--target",
        action="extend",
        nargs="+",
        metavar="T",
        help="as tensorrt-rtx or tensorrt-rtx:8.9,12.0 (default: all)",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: build/MODEL")
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
        "--calibration-method", metavar="M", help="minmax, percentile or mse (default)"
    )
    parser.add_argument("--seed", type=int, metavar="N")


def _floats(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


def run_export(arguments: argparse.Namespace) -> int:
    """Exit status 0 if the bundle was written, 1 if a precision missed its budget."""
    try:
        from .pipeline import export_bundle
        from .plan import ExportRequest
        from .progress import Display
        from .report import show_report
    except ModuleNotFoundError as error:
        raise VitEdgeError(
            f"`export` needs {error.name}: pip install 'vit-edge[export,onnxruntime]'"
        ) from None
    given = {
        "model": arguments.model,
        "onnx": arguments.onnx,
        "weights": arguments.weights,
        "config": arguments.config,
        "calibration": arguments.calib,
        "evaluation": arguments.eval,
        "mean": arguments.mean,
        "std": arguments.std,
        "precisions": arguments.precision and tuple(arguments.precision),
        "targets": arguments.target and tuple(arguments.target),
        "out": arguments.out,
        "max_drop": arguments.max_drop,
        "max_batch": arguments.max_batch,
        "calibration_size": arguments.calibration_size,
        "method": arguments.calibration_method,
        "seed": arguments.seed,
    }
    request = ExportRequest(**{name: value for name, value in given.items() if value is not None})
    try:
        report = export_bundle(request, Display())
    except OSError as error:
        raise InputError(_explain(error)) from None
    except (MemoryError, RuntimeError) as error:  # PyTorch says it with a RuntimeError
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
