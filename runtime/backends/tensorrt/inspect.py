"""Asks TensorRT's engine inspector what an engine's layers are.

Source: TensorRT Python API (EngineInspector); TensorRT developer guide, "Engine Inspector".
"""

from __future__ import annotations

from typing import Any

from ...errors import EngineError
from ...manifest import EngineSpec
from .open import Logger, open_engine


def inspect_engine(library: Any, logger: Logger, blob: bytes, spec: EngineSpec) -> str:
    """The inspector's JSON of an engine, at the batch size that it was built for best.

    Raises:
        EngineError: if the engine is refused.
    """
    runtime, engine = open_engine(library, logger, blob)
    context = engine.create_execution_context()
    if context is None:
        raise EngineError("no execution context: most likely the GPU is out of memory")
    # Formats are told for known shapes only.
    context.set_input_shape(spec.input_name, (spec.batch[1], *spec.image_shape))
    inspector = engine.create_engine_inspector()
    inspector.execution_context = context
    text = inspector.get_engine_information(library.LayerInformationFormat.JSON)
    del inspector, context, engine, runtime  # in this order
    return str(text)
