"""Model of Triton's Python backend: `vit_edge.Engine` on the bundle beside this file.

The bundle is verified, and an engine chosen and checked, on the server; what is wrong leaves the
model unavailable, with the message. The server's log says which engine it is.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from vit_edge.runtime import Engine
from vit_edge.runtime.errors import VitEdgeError
from vit_edge.runtime.tools.triton.config import PRECISION, THREADS
from vit_edge.runtime.tools.triton.served import open_served


class TritonPythonModel:
    """Engine that answers Triton's requests."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the engine. Raises TritonModelException with the reason if there is none."""
        config = json.loads(args["model_config"])
        self._input = config["input"][0]["name"]
        try:
            bundle, parameters = open_served(Path(__file__).parent, config)
            bundle.verify()
            threads = parameters.get(THREADS)
            self._engine = Engine.load(
                bundle.path,
                precision=parameters.get(PRECISION),
                threads=None if threads is None else int(threads),
            )
        except VitEdgeError as error:
            raise pb_utils.TritonModelException(str(error)) from None
        info = self._engine.info
        pb_utils.Logger.log_info(f"{config['name']}: {info} ({info.why})")

    def execute(self, requests: list[Any]) -> list[Any]:
        """Runs the frames of all requests in one call; returns a response for each."""
        frames = [pb_utils.get_input_tensor_by_name(r, self._input).as_numpy() for r in requests]
        try:
            outputs = self._engine(frames[0] if len(frames) == 1 else np.concatenate(frames))
        except VitEdgeError as error:
            problem = pb_utils.TritonError(str(error))
            return [pb_utils.InferenceResponse([], error=problem) for _ in requests]
        if not isinstance(outputs, dict):
            outputs = {self._engine.output: outputs}
        ends = np.cumsum([len(array) for array in frames])[:-1]
        parts = {name: np.split(array, ends) for name, array in outputs.items()}
        return [
            self._respond({name: p[i] for name, p in parts.items()}) for i in range(len(frames))
        ]

    def _respond(self, outputs: dict[str, Any]) -> Any:
        tensors = [
            pb_utils.Tensor(name, np.ascontiguousarray(array)) for name, array in outputs.items()
        ]
        return pb_utils.InferenceResponse(tensors)

    def finalize(self) -> None:
        """Frees the engine."""
        self._engine.close()
