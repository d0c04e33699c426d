"""A service over HTTP: POST an image file, get the model's answer as JSON.

    pip install -c requirements/constraints.txt '.[openvino,images,service]'
    VIT_EDGE_BUNDLE=build/vit_digits uvicorn --app-dir deploy service:app

    curl --data-binary @build/example_digit.png http://localhost:8000/predict

Expected: `{"precision": "fp32", "top": [{"label": "6", "index": 6, "probability": 0.9184}, ...]}`,
or `{"precision": ..., "outputs": {...}}` of a model without classes, or both.

`/health/ready` says that the engine still gives the answer to a golden sample that it gave when it
was proven, at its load; `/health/live` that the process answers, and that this was so when it was
last asked.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import numpy as np
from fastapi import FastAPI, HTTPException, Request
from numpy.typing import NDArray
from starlette.requests import ClientDisconnect

from vit_edge import BundleError, Engine, EngineError, InputError
from vit_edge.runtime.bundle import Bundle

MOST_BYTES = 32 << 20
"""Of an image file."""
MOST_REQUESTS = 16
"""At a time, those that still arrive included; more are sent away."""
ARRIVAL_S = 30.0
"""Most seconds until an image file is here."""
VOUCHED_S = 60.0
"""How long a busy engine counts as right after it was."""
WRONG = "the engine's outputs are no longer those of its golden sample"


class Service:
    """An engine that one request at a time computes on: on a CPU more would only share its cores.

    Raises VitEdgeError as `Engine.load` does, so that a service that cannot answer never starts.

    Attributes:
        right: False once a golden sample came out otherwise than at first.
        checked: When one last came out, by `time.monotonic`.
    """

    def __init__(self, bundle: str) -> None:
        self.engine = Engine.load(bundle)
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="vit-edge")
        self.sample = Bundle.open(bundle).golden().images[:1]
        self.expected = self.named(self.engine(self.sample))
        self.right, self.checked, self._requests = True, time.monotonic(), 0

    def named(self, outputs: Any) -> dict[str, NDArray[np.float32]]:
        """Outputs of a batch by their names, whether the model has one or several."""
        if isinstance(outputs, Mapping):
            return dict(outputs)
        return {self.engine.outputs[0].name: outputs}

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Counts a request. Raises HTTPException (503) if there are too many already."""
        if self._requests >= MOST_REQUESTS:
            raise HTTPException(503, "too many requests at a time", {"Retry-After": "1"})
        self._requests += 1
        try:
            yield
        finally:
            self._requests -= 1

    @property
    def vouched(self) -> bool:
        """True while the engine computes for others and was checked not long ago."""
        return self._requests > 0 and time.monotonic() - self.checked < VOUCHED_S

    def predict(self, image: bytes) -> dict[str, Any]:
        """Runs an image file through the model.

        Raises:
            InputError: if it is not one.
            EngineError: if an output is not finite.
        """
        frame = self.engine.preprocess.decode(image, "the body")
        outputs = self.named(self.engine(frame[None]))
        for name, value in outputs.items():
            if not np.isfinite(value).all():
                raise EngineError(f"{name} is not finite: run `vit-edge check` on the bundle")
        answer: dict[str, Any] = {"precision": self.engine.info.precision}
        top = self.engine.top.output
        if top.classifies or top.is_of_labels:
            answer["top"] = [vars(one) for one in self.engine.top(outputs.pop(top.name)[0])]
        if outputs:
            answer["outputs"] = {name: value[0].tolist() for name, value in outputs.items()}
        return answer

    def check(self) -> bool:
        """Runs a golden sample; True if the outputs are what they were at first."""
        try:
            now = self.named(self.engine(self.sample))
        except EngineError:
            self.right = False
        else:
            self.right = all(
                np.allclose(now[name], value, rtol=0, atol=1e-3 * float(np.abs(value).max()))
                for name, value in self.expected.items()
            )
        self.checked = time.monotonic()
        return self.right


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


async def _body(request: Request) -> bytes:
    """The request's body. Raises HTTPException if it is too large, too slow or cut off."""
    image = bytearray()
    async for chunk in request.stream():
        image += chunk
        if len(image) > MOST_BYTES:
            raise HTTPException(413, f"the image has more than {MOST_BYTES} bytes")
    return bytes(image)


@app.post("/predict")
async def predict(request: Request) -> dict[str, Any]:
    """The classes that the model sees in an image file, and its other outputs."""
    service: Service = app.state.service
    with service.admitted():
        try:
            image = await asyncio.wait_for(_body(request), ARRIVAL_S)
            answer: dict[str, Any] = await _compute(service.predict, image)
        except asyncio.TimeoutError:
            raise HTTPException(408, f"the image took more than {ARRIVAL_S:.0f} s") from None
        except ClientDisconnect:
            raise HTTPException(400, "the image was cut off") from None
        except InputError as error:
            raise HTTPException(422, str(error)) from None
        except EngineError as error:
            raise HTTPException(500, str(error)) from None
    return answer


@app.get("/health/live")
async def live() -> dict[str, str]:
    """The process answers, and its engine was right when it was last asked."""
    if not app.state.service.right:
        raise HTTPException(503, WRONG)
    return {"status": "ok"}


@app.get("/health/ready")
async def ready() -> dict[str, str]:
    """The engine still computes what it was proven on; while it is busy, as it did a little while
    ago: the answer would come behind those to all who wait.
    """
    service: Service = app.state.service
    if not (service.right if service.vouched else await _compute(service.check)):
        raise HTTPException(503, WRONG)
    return {"status": "ok"}
