"""Reads a foreign ONNX file: into memory whole, or refused by name."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes import common

from vit_edge.export.cache import file_sha256
from vit_edge.runtime.errors import InputError, first_line

_QUANTISED = frozenset(
    {
        "QuantizeLinear",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "QLinearConv",
        "QLinearMatMul",
        "ConvInteger",
        "MatMulInteger",
    }
)
_HALF = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})


def load_onnx(path: Path) -> ir.Model:
    """The model, functions inlined and external data in memory.

    Raises:
        InputError: if the file is missing, damaged or not ONNX, or reaches outside its folder.
    """
    try:
        if not path.is_file():
            raise InputError(f"there is no ONNX file at {path}")
        model = _load(path)
        _check_whole(path, model)
        common.InlinePass()(model)
        _check_external(path, model)
        ir.external_data.load_to_model(model)
    except InputError:
        raise
    except Exception as error:  # the parsers raise whatever they stumble over
        raise InputError(f"{path} is not a readable ONNX file: {first_line(error)}") from None
    if not len(model.graph):
        raise InputError(f"{path} is not an ONNX model: it has no nodes")
    return model


def _load(path: Path) -> ir.Model:
    """onnx_ir warns of what `_check_whole` refuses."""
    logger = logging.getLogger("onnx_ir")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        return ir.load(path)
    finally:
        logger.setLevel(level)


def _check_whole(path: Path, model: ir.Model) -> None:
    """Raises InputError if a node uses what nothing makes."""
    for node in model.graph.all_nodes():
        for value in node.inputs:
            if value is None or value.producer() is not None:
                continue
            if not value.is_graph_input() and not value.is_initializer():
                raise InputError(f"{path} is damaged: nothing makes {value.name!r}")


def _external_tensors(model: ir.Model) -> list[ir.ExternalTensor]:
    graphs = [model.graph, *model.graph.subgraphs()]
    values = [value for graph in graphs for value in graph.initializers.values()]
    return [v.const_value for v in values if isinstance(v.const_value, ir.ExternalTensor)]


def external_files(path: Path, model: ir.Model) -> list[Path]:
    """The files beside `path` that hold its weights, sorted."""
    return sorted({path.parent / str(tensor.location) for tensor in _external_tensors(model)})


def _check_external(path: Path, model: ir.Model) -> None:
    """onnx_ir keeps to the folder too; links and sizes are checked here, before anything is mapped.

    Raises:
        InputError: for a file outside the folder, a link, or data beyond the end of a file.
    """
    folder = path.parent.resolve()
    for tensor in _external_tensors(model):
        location = Path(str(tensor.location))
        file = path.parent / location
        if (
            location.is_absolute()
            or ".." in location.parts
            or folder not in _resolved_parents(file)
        ):
            raise InputError(f"{path} keeps weights outside its own folder, at {location}: refused")
        if not file.is_file() or file.is_symlink():
            raise InputError(f"{path} keeps weights in {location}, which is no file beside it")
        size = tensor.length if tensor.length is not None else tensor.nbytes
        if size < tensor.nbytes or (tensor.offset or 0) + size > file.stat().st_size:
            raise InputError(f"{location}, the weights of {path}, is cut short")


def _resolved_parents(file: Path) -> tuple[Path, ...]:
    return tuple(file.resolve().parents)


def digest(path: Path) -> str:
    """SHA-256 over the file and its external data, in hex; of a file alone, that of the file.

    Raises:
        InputError: as `load_onnx`.
    """
    model = _load(path)
    files = external_files(path, model)
    if not files:
        return file_sha256(path)
    parts = [file_sha256(path), *(f"{file.name} {file_sha256(file)}" for file in files)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def require_supported(path: Path, model: ir.Model) -> None:
    """Refuses what no pass could make right.

    Raises:
        InputError: naming the operators and what to do about them.
    """
    nodes = list(model.graph.all_nodes())
    unknown = sorted({f"{n.domain}.{n.op_type}" for n in nodes if n.domain not in ("", "ai.onnx")})
    if unknown:
        raise InputError(
            f"{path} has operators outside ONNX ({', '.join(unknown[:5])}): export it without "
            "ONNX Runtime's own optimiser or custom operators"
        )
    operators = sorted({node.op_type for node in nodes} & _QUANTISED)
    if operators:
        raise InputError(
            f"{path} is quantised already ({', '.join(operators)}): give the float model, vit-edge "
            "quantises it itself"
        )
    values = [*model.graph.inputs, *model.graph.initializers.values()]
    half = [str(value.name) for value in values if value.dtype in _HALF]
    if half:
        raise InputError(
            f"{path} is in 16 bits ({half[0]} and {len(half) - 1} more tensors): export it in "
            "fp32, as with model.float(); vit-edge makes the fp16 graph itself"
        )


def require_no_branches(model: ir.Model) -> None:
    """Raises InputError for control flow that depends on the image."""
    kinds = sorted({n.op_type for n in model.graph if n.op_type in ("If", "Loop", "Scan")})
    if kinds:
        raise InputError(
            f"the file has control flow that depends on the image ({', '.join(kinds)}): export the "
            "model without it"
        )
