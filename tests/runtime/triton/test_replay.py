"""`vit-edge replay` without a server: addresses, interfaces, and what judges."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from vit_edge.runtime import Engine
from vit_edge.runtime.bundle import Bundle
from vit_edge.runtime.errors import InputError
from vit_edge.runtime.manifest import EngineSpec
from vit_edge.runtime.outputs import OutputSpec
from vit_edge.runtime.tools.cli import main
from vit_edge.runtime.tools.replay.judge import Expectation, interface_problem, replay
from vit_edge.runtime.tools.replay.server import Address, Description, ServerTensor, parse_address

FRAMES = ServerTensor("images", "UINT8", (-1, 8, 8, 1))
LOGITS = ServerTensor("logits", "FP32", (-1, 10))


class EngineAsServer:
    """Serves an engine in this process; remembers the sizes of the requests."""

    def __init__(self, engine: Engine, described: Description, factor: float = 1.0) -> None:
        self.address = parse_address("grpc://here:1/digits")
        self.sizes = list[int]()
        self._engine, self._described, self._factor = engine, described, np.float32(factor)

    def describe(self) -> Description:
        return self._described

    def infer(self, frames: NDArray[np.uint8], spec: EngineSpec) -> NDArray[np.float32]:
        self.sizes.append(len(frames))
        outputs: NDArray[np.float32] = self._engine(frames) * self._factor
        return outputs


@pytest.fixture
def engine(bundle_source: Path) -> Iterator[Engine]:
    with Engine.load(bundle_source, precision="fp32") as loaded:
        yield loaded


def described(max_batch: int | None = None, first: int = -1, **parameters: str) -> Description:
    frames = replace(FRAMES, shape=(first, 8, 8, 1))
    own = {f"vit_edge.{name}": value for name, value in parameters.items()}
    return Description("some", ("1",), {"images": frames}, {"logits": LOGITS}, max_batch, own)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("grpc://host:8001/m", Address("grpc", False, "host:8001", "m")),
        ("https://h:443/m/versions/3", Address("http", True, "h:443", "m", "3")),
        ("http://[::1]:8000/v2/models/m/", Address("http", False, "[::1]:8000", "m")),
    ],
)
def test_addresses(url: str, address: Address) -> None:
    assert parse_address(url) == address


@pytest.mark.parametrize(
    "url",
    [
        "host:8001/m", "ftp://h:1/m", "grpc://h:1", "grpc://h:1/", "grpc://h/m", "grpc://h:x/m",
        "grpc://h:99999/m", "http://h:1/m/versions/x", "http://h:1/m?x=1", "http://a:b@h:1/m", "",
    ],
)  # fmt: skip
def test_no_addresses(url: str) -> None:
    with pytest.raises(InputError, match="grpc://HOST:8001/MODEL"):
        parse_address(url)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_server_that_is_not_there_is_one_clear_error(
    bundle_source: Path, protocol: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tritonclient.grpc", reason="the extra `triton` is not installed")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    url = f"{protocol}://127.0.0.1:{port}/m"
    assert main(["replay", str(bundle_source), "--url", url, "--timeout", "5"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"vit-edge: no server answers by {protocol} at 127.0.0.1:{port}")


class Answers(BaseHTTPRequestHandler):
    """A server of the protocol, of which one answer is replaced."""

    replaced: ClassVar[dict[str, tuple[int, str]]] = {}
    model: ClassVar[dict[str, Any]] = {
        "name": "m",
        "versions": ["1"],
        "inputs": [{"name": "images", "datatype": "UINT8", "shape": [-1, 8, 8, 1]}],
        "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}],
    }

    def do_GET(self) -> None:
        kind = self.path.rpartition("/")[2]
        usual = {"config": (404, "{}"), "m": (200, json.dumps(self.model)), "v2": (200, "{}")}
        self._answer(*self.replaced.get(kind, usual[kind]))

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(*self.replaced["infer"])

    def _answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None: ...


@pytest.mark.parametrize(
    ("kind", "status", "text", "message"),
    [
        ("m", 200, '"ok"', "not of the KServe v2 protocol"),
        ("m", 200, "null", "not of the KServe v2 protocol"),
        ("m", 200, '{"inputs": null}', "otherwise than the KServe v2 protocol"),
        ("m", 200, '{"inputs": [{"shape": [1]}]}', "otherwise than the KServe v2 protocol"),
        ("m", 200, '{"inputs": [{"name": "x", "shape": ["a"]}]}', "otherwise than"),
        ("config", 200, "<html>", "does not give the model's configuration"),
        ("config", 200, "[]", "is no object"),
        ("config", 200, '{"max_batch_size": "x"}', "otherwise than"),
        ("config", 503, '{"error": "busy"}', "does not give the model's configuration (busy)"),
        ("infer", 200, "[]", "a broken 'logits'"),
        ("infer", 200, '{"outputs": [{"name": "logits", "shape": [1, 10]}]}', "a broken 'logits'"),
    ],
)
def test_a_server_that_does_not_keep_to_the_protocol_is_one_clear_error(
    bundle_source: Path,
    kind: str,
    status: int,
    text: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("tritonclient.http", reason="the extra `triton` is not installed")
    monkeypatch.setattr(Answers, "replaced", {kind: (status, text)})
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/m"
        assert main(["replay", str(bundle_source), "--url", url, "-q"]) == 2
        server.shutdown()
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert "bug" not in line


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        ([replace(FRAMES, name="x")], [LOGITS], "its inputs are 'x' UINT8"),
        ([FRAMES, replace(FRAMES, name="x")], [LOGITS], "its inputs are"),
        ([replace(FRAMES, shape=(-1, 16, 16, 3))], [LOGITS], r"\[-1, 16, 16, 3\], the bundle's"),
        ([replace(FRAMES, datatype="FP32")], [LOGITS], "its input is 'images' FP32"),
        ([FRAMES], [replace(LOGITS, shape=(-1, 9))], "its output is"),
        ([FRAMES], [replace(LOGITS, shape=(-1, 10, 1))], "its output is"),
        ([FRAMES], [], "its outputs are none"),
    ],
)
def test_another_interface_is_named(
    bundle_source: Path, inputs: list[ServerTensor], outputs: list[ServerTensor], message: str
) -> None:
    spec = Bundle.open(bundle_source).manifest.spec
    other = Description("", (), {t.name: t for t in inputs}, {t.name: t for t in outputs})
    problem = interface_problem(other, spec)
    assert problem is not None
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(problem)


def test_a_single_number_may_be_described_in_either_way(bundle_source: Path) -> None:
    spec = Bundle.open(bundle_source).manifest.spec
    one = replace(spec, outputs=(OutputSpec("logits", "value", ()),))
    for shape in [(-1, 1), (-1,)]:
        served = Description("", (), {"images": FRAMES}, {"logits": replace(LOGITS, shape=shape)})
        assert interface_problem(served, one) is None


@pytest.mark.parametrize(
    ("max_batch", "first", "sizes"), [(None, -1, {4}), (3, -1, {3, 1}), (None, 2, {2})]
)
def test_requests_are_as_large_as_the_server_takes(
    bundle_source: Path, engine: Engine, max_batch: int | None, first: int, sizes: set[int]
) -> None:
    server = EngineAsServer(engine, described(max_batch, first, precision="fp32"))
    assert replay(Bundle.open(bundle_source), server, Expectation()).good
    assert set(server.sizes) <= sizes | {len(Bundle.open(bundle_source).golden()) % max(sizes)}


def test_a_factor_is_a_miss_whoever_says_the_precision(bundle_source: Path, engine: Engine) -> None:
    bundle = Bundle.open(bundle_source)
    for expected in (Expectation(), Expectation("fp32"), Expectation("int8", "cpu")):
        verdict = replay(bundle, EngineAsServer(engine, described(), factor=0.5), expected)
        assert not verdict.good
        assert "the bundle allows" in verdict.row.status
        assert verdict.served_bundle is None


def test_a_server_that_says_nothing_is_right_if_it_is_right_for_every_precision(
    bundle_source: Path, engine: Engine
) -> None:
    verdict = replay(Bundle.open(bundle_source), EngineAsServer(engine, described()), Expectation())
    assert verdict.good
    assert verdict.row.precision == "fp32"


def test_outputs_that_are_right_for_some_precisions_need_a_name(bundle_source: Path) -> None:
    bundle = Bundle.open(bundle_source)
    with Engine.load(bundle_source, precision="int8") as int8:
        server = EngineAsServer(int8, described())
        with pytest.raises(InputError, match="--precision int8"):
            replay(bundle, server, Expectation())
        assert replay(bundle, server, Expectation("int8")).good


def test_a_precision_that_the_bundle_has_not_is_named(bundle_source: Path, engine: Engine) -> None:
    server = EngineAsServer(engine, described())
    with pytest.raises(InputError, match="int3"):
        replay(Bundle.open(bundle_source), server, Expectation("int3"))
    with pytest.raises(InputError, match="says that it runs int8"):
        replay(
            Bundle.open(bundle_source),
            EngineAsServer(engine, described(precision="int8")),
            Expectation("fp32"),
        )


def test_a_hash_of_another_bundle_is_a_miss(bundle_source: Path, engine: Engine) -> None:
    server = EngineAsServer(engine, described(bundle_sha256="ab" * 32))
    verdict = replay(Bundle.open(bundle_source), server, Expectation("fp32"))
    assert not verdict.good
    assert "another bundle" in verdict.row.status
