"""A service over HTTP: POST an image file, get the model's answer as JSON.

    pip install 'vit-edge[openvino,images,service]'
    VIT_EDGE_BUNDLE=build/vit_digits uvicorn --app-dir deploy service:app

    curl --data-binary @build/example_digit.png http://localhost:8000/predict

Expected: `{"precision": "fp32", "top": [{"label": "6", "index": 6, "probability": 0.9184}, ...]}`,
or `{"precision": ..., "outputs": {...}}` of a model without classes.

`/health/live` says that the process answers, `/health/ready` that the engine still gives the answer
to a golden sample that it gave when it was proven, at its load.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from fastapi import FastAPI, HTTPException, Request
from numpy.typing import NDArray

from vit_edge import BundleError, Engine, InputError
from vit_edge.runtime.bundle import Bundle

MOST_BYTES = 32 << 20
"""Of an image file; more are refused before they are read."""


class Service:
    """An engine that one request at a time computes on: on a CPU more would only share its cores.

    Raises VitEdgeError as `Engine.load` does, so that a service that cannot answer never starts.
    """

    def __init__(self, bundle: str) -> None:
        self.engine = Engine.load(bundle)
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="vit-edge")
        self.sample = Bundle.open(bundle).golden().images[:1]
        self.expected = self.named(self.engine(self.sample))

    def named(self, outputs: Any) -> dict[str, NDArray[np.float32]]:
        """Outputs of a batch by their names, whether the model has one or several."""
        if isinstance(outputs, Mapping):
            return dict(outputs)
        return {self.engine.outputs[0].name: outputs}

    def predict(self, image: bytes) -> dict[str, Any]:
        """Runs an image file through the model. Raises InputError if it is not one."""
        frame = self.engine.preprocess.decode(image, "the body")
        outputs = self.engine(frame[None])
        answer: dict[str, Any] = {"precision": self.engine.info.precision}
        try:
            top = self.engine.top.each(outputs)[0]
        except InputError:  # the model gives no classes
            named = self.named(outputs)
            return answer | {"outputs": {name: value[0].tolist() for name, value in named.items()}}
        return answer | {"top": [vars(one) for one in top]}

    def is_right(self) -> bool:
        """Runs a golden sample; True if the outputs are what they were at first."""
        now = self.named(self.engine(self.sample))
        return all(
            np.allclose(now[name], value, rtol=0, atol=1e-3 * float(np.abs(value).max()))
            for name, value in self.expected.items()
        )


@asynccontextmanager
async def _serve(application: FastAPI) -> AsyncIterator[None]:
    bundle = os.environ.get("VIT_EDGE_BUNDLE")
    if not bundle:
        raise BundleError("VIT_EDGE_BUNDLE is not set: give it the path of a bundle")
    application.state.service = service = Service(bundle)
    try:
        yield
    finally:
        service.pool.shutdown()
        service.engine.close()


app = FastAPI(title="vit-edge", lifespan=_serve)


async def _compute(work: Any, *arguments: Any) -> Any:
    pool = app.state.service.pool
    return await asyncio.get_running_loop().run_in_executor(pool, work, *arguments)


@app.post("/predict")
async def predict(request: Request) -> dict[str, Any]:
    """The classes that the model sees in an image file, or its outputs."""
    image = bytearray()
    async for chunk in request.stream():
        image += chunk
        if len(image) > MOST_BYTES:
            raise HTTPException(413, f"the image has more than {MOST_BYTES} bytes")
    try:
        answer: dict[str, Any] = await _compute(app.state.service.predict, bytes(image))
    except InputError as error:
        raise HTTPException(422, str(error)) from None
    return answer


@app.get("/health/live")
async def live() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@app.get("/health/ready")
async def ready() -> dict[str, str]:
    """The engine still computes what it was proven on."""
    if not await _compute(app.state.service.is_right):
        raise HTTPException(503, "the engine's outputs are no longer those of its golden sample")
    return {"status": "ok"}
