"""Runs a graph as it is in ONNX Runtime: the oracle for all that is done to a foreign file."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from vit_edge.calibration.onnx_file import to_bytes
from vit_edge.runtime.backends.onnxruntime import add_external_weights, load_library
from vit_edge.runtime.errors import InputError, first_line

Array = NDArray[np.generic]


class Runner:
    """An ONNX Runtime session on the CPU."""

    def __init__(self, model: ir.Model, all_values: Sequence[ir.Value] = ()) -> None:
        """Opens `model`; `all_values` are outputs beside its own.

        Raises:
            InputError: if ONNX Runtime refuses the model.
        """
        onnxruntime = load_library()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        if all_values:  # a value that an optimiser fuses away cannot be read
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            content = to_bytes(model)
            add_external_weights(options, content.external)
            blob = _with_outputs(content.graph, all_values) if all_values else content.graph
            self._session = onnxruntime.InferenceSession(
                blob, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime has an exception class for each status
            raise InputError(f"ONNX Runtime refuses the model: {first_line(error)}") from None
        self._input = self._session.get_inputs()[0].name

    def __call__(self, pixels: Array) -> dict[str, Array]:
        """Every output by its name.

        Raises:
            InputError: if the model fails.
        """
        names = [output.name for output in self._session.get_outputs()]
        try:
            values = self._session.run(names, {self._input: pixels})
        except Exception as error:  # as above
            raise InputError(f"ONNX Runtime cannot run the model: {first_line(error)}") from None
        return dict(zip(names, values, strict=True))


def _with_outputs(graph: bytes, all_values: Sequence[ir.Value]) -> bytes:
    proto = onnx.ModelProto.FromString(graph)
    known = {output.name for output in proto.graph.output}
    proto.graph.output.extend(
        onnx.ValueInfoProto(name=v.name) for v in all_values if v.name not in known
    )
    return bytes(proto.SerializeToString())
