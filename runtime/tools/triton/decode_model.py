"""Model of Triton's Python backend: decodes image files by the preprocessing of a bundle.

The same function prepares images for `vit_edge.Engine`, so that no preprocessing differs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from vit_edge.runtime.errors import VitEdgeError
from vit_edge.runtime.tools.triton.served import open_served


class TritonPythonModel:
    """Decoder of image files."""

    def initialize(self, args: dict[str, str]) -> None:
        """Reads the preprocessing. Raises TritonModelException if the manifest was altered."""
        config = json.loads(args["model_config"])
        self._input, self._output = config["input"][0]["name"], config["output"][0]["name"]
        try:
            bundle, _ = open_served(Path(__file__).parent, config)
        except VitEdgeError as error:
            raise pb_utils.TritonModelException(str(error)) from None
        self._preprocess = bundle.manifest.preprocess

    def execute(self, requests: list[Any]) -> list[Any]:
        """Decodes the images of each request; one that is not readable fails its request alone."""
        return [self._respond(request) for request in requests]

    def _respond(self, request: Any) -> Any:
        files = pb_utils.get_input_tensor_by_name(request, self._input).as_numpy().reshape(-1)
        try:
            frames = [
                self._preprocess.decode(file, f"image {place} of the request")
                for place, file in enumerate(files)
            ]
        except VitEdgeError as error:
            return pb_utils.InferenceResponse([], error=pb_utils.TritonError(str(error)))
        return pb_utils.InferenceResponse([pb_utils.Tensor(self._output, np.stack(frames))])
