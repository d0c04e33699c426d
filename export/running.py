"""Runs a graph over images, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from vit_edge.calibration.onnx_file import to_bytes
from vit_edge.runtime.backends.onnxruntime import open_inference
from vit_edge.runtime.errors import BackendError, EngineError, first_line
from vit_edge.runtime.tools.images import ImageSet

BATCH = 4


def outputs(model: ir.Model, images: ImageSet, batch: int = BATCH) -> Iterator[list[Any]]:
    """Yields the graph's outputs for each batch.

    Raises:
        EngineError: if the graph is no valid one.
    """
    name = model.graph.inputs[0].name
    try:
        content = to_bytes(model)
        session = open_inference(content.graph, content.external)
        del content
        for frames in images.batches(batch):
            yield session.run(None, {name: frames})
    except BackendError:  # what is missing is no fault of the graph
        raise
    except Exception as error:  # its exception types are private, and differ between releases
        raise EngineError(first_line(error)) from None


def answers(model: ir.Model, images: ImageSet) -> NDArray[np.float32]:
    """The first output for all images. Raises EngineError as `outputs` does."""
    return np.concatenate([first for first, *_ in outputs(model, images)])
