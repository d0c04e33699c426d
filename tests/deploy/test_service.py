"""The example service, in a server of its own."""

from __future__ import annotations

import asyncio
import importlib
import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from vit_edge import Engine
from vit_edge.runtime.bundle import Bundle

ROOT = Path(__file__).parents[2]
SECONDS = 60


def start(bundle: Path | None, port: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(ROOT / "deploy"), "service:app"]
    environment = {key: value for key, value in os.environ.items() if key != "VIT_EDGE_BUNDLE"}
    if bundle is not None:
        environment["VIT_EDGE_BUNDLE"] = str(bundle)
    return subprocess.Popen(
        [*command, "--port", str(port)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
    return port


def ask(url: str, body: bytes | None = None) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body), timeout=SECONDS) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.fixture(scope="module")
def url(bundle_source: Path) -> Iterator[str]:
    port = free_port()
    server = start(bundle_source, port)
    base, until = f"http://127.0.0.1:{port}", time.monotonic() + SECONDS
    try:
        while True:
            try:
                assert ask(f"{base}/health/live") == (200, {"status": "ok"})
                break
            except OSError:
                assert server.poll() is None, server.communicate()[0]
                assert time.monotonic() < until
                time.sleep(0.2)
        yield base
    finally:
        server.terminate()
        server.communicate()


def picture(bundle: Path) -> bytes:
    """A golden sample as a PNG of another size."""
    frame = Bundle.open(bundle).golden().images[0]
    image = Image.fromarray(frame[..., 0] if frame.shape[2] == 1 else frame).resize((40, 30))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def test_an_image_gets_the_engines_answer(url: str, bundle_source: Path) -> None:
    image = picture(bundle_source)
    status, answer = ask(f"{url}/predict", image)
    assert status == 200, answer
    with Engine.load(bundle_source, precision=answer["precision"]) as engine:
        scores = engine(engine.preprocess(Image.open(io.BytesIO(image)))[None])[0]
        expected = engine.top(scores)
    assert [one["label"] for one in answer["top"]] == [one.label for one in expected]
    probabilities = [one["probability"] for one in answer["top"]]
    assert np.allclose(probabilities, [one.probability for one in expected], atol=1e-2)


def test_what_is_no_image_is_refused(url: str) -> None:
    status, answer = ask(f"{url}/predict", b"nonsense")
    assert status == 422
    assert "not a readable image" in answer["detail"]
    assert ask(f"{url}/predict", bytes(33 << 20))[0] == 413


def test_it_is_ready_while_a_golden_sample_is_right(url: str) -> None:
    assert ask(f"{url}/health/ready") == (200, {"status": "ok"})


class Altered:
    """An engine whose outputs are altered on their way."""

    def __init__(self, engine: Engine, alter: Callable[[Any], Any]) -> None:
        self._engine, self._alter = engine, alter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def __call__(self, frames: Any) -> Any:
        return self._alter(self._engine(frames))


@pytest.fixture
def inside(
    bundle_source: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[TestClient, ModuleType]]:
    """The service in this process, and its module."""
    monkeypatch.setenv("VIT_EDGE_BUNDLE", str(bundle_source))
    monkeypatch.syspath_prepend(ROOT / "deploy")
    module = importlib.import_module("service")
    with TestClient(module.app) as client:
        yield client, module


def alter(module: ModuleType, change: Callable[[Any], Any]) -> None:
    service = module.app.state.service
    service.engine = Altered(service.engine, change)


def test_outputs_that_are_not_finite_are_a_failure(
    inside: tuple[TestClient, ModuleType], bundle_source: Path
) -> None:
    client, module = inside
    alter(module, lambda scores: scores * np.nan)
    answer = client.post("/predict", content=picture(bundle_source))
    assert answer.status_code == 500
    assert "logits is not finite" in answer.json()["detail"]


def test_all_outputs_are_in_the_answer(
    inside: tuple[TestClient, ModuleType], bundle_source: Path
) -> None:
    client, module = inside
    features = np.ones((1, 4), np.float32)
    alter(module, lambda scores: {"logits": scores, "features": features})
    answer = client.post("/predict", content=picture(bundle_source)).json()
    assert len(answer["top"]) == 5
    assert answer["outputs"] == {"features": [1.0] * 4}


def test_more_requests_than_it_takes_are_sent_away(
    inside: tuple[TestClient, ModuleType], bundle_source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, module = inside
    monkeypatch.setattr(module, "MOST_REQUESTS", 1)
    begun, end, image = threading.Event(), threading.Event(), picture(bundle_source)

    def wait(scores: Any) -> Any:
        begun.set()
        end.wait(SECONDS)
        return scores

    alter(module, wait)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.post, "/predict", content=image)
        assert begun.wait(SECONDS)
        second = client.post("/predict", content=image)
        assert (second.status_code, second.headers["retry-after"]) == (503, "1")
        assert client.get("/health/ready").status_code == 200  # not behind the first
        end.set()
        assert first.result().status_code == 200


def test_an_image_that_never_arrives_holds_no_place(
    inside: tuple[TestClient, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, module = inside
    monkeypatch.setattr(module, "ARRIVAL_S", 0.05)

    async def never(_: Any) -> bytes:
        await asyncio.sleep(SECONDS)
        return b""

    monkeypatch.setattr(module, "_body", never)
    assert client.post("/predict", content=b"x").status_code == 408
    assert module.app.state.service._requests == 0


def test_an_engine_that_is_wrong_is_neither_ready_nor_alive(
    inside: tuple[TestClient, ModuleType],
) -> None:
    client, module = inside
    assert client.get("/health/live").status_code == 200
    alter(module, lambda scores: scores * np.float32(0.5))
    assert client.get("/health/ready").status_code == 503
    assert client.get("/health/live").status_code == 503


@pytest.mark.parametrize("altered", [False, True], ids=["no bundle", "altered"])
def test_it_never_starts_without_a_proven_engine(altered: bool, bundle: Path) -> None:
    golden = bundle / "golden.npz"
    golden.write_bytes(golden.read_bytes()[:-1] + b"!")
    server = start(bundle if altered else None, free_port())
    output = server.communicate(timeout=SECONDS)[0]
    assert server.returncode != 0
    assert ("golden.npz" if altered else "VIT_EDGE_BUNDLE is not set") in output
