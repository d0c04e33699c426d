"""A real Triton server, without a GPU, serves what was written for it, and is proven from outside.

One server is started for all tests of a process, which takes most of the time: the default run has
one test of it, with what matters most.
"""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vit_edge.runtime import Engine
from vit_edge.runtime.tools.cli import main

from .bundles import DIGITS, with_labels
from .server import Server, needs_server, run_server

pytest.importorskip("tritonclient.grpc", reason="the extra `triton` is not installed")
pytestmark = needs_server
PROTOCOLS = ("grpc", "http")
HALVED = """

class TritonPythonModel(TritonPythonModel):
    def _respond(self, outputs):
        return super()._respond({name: 0.5 * array for name, array in outputs.items()})
"""


@dataclass(frozen=True)
class Served:
    """A server of a bundle as `digits`, of one whose outputs are halved as `halved`, and of one
    whose weights were altered as `altered`.

    Attributes:
        server: The server.
        bundle: What it serves: the digits' bundle with names of classes.
        another: The same bundle without them.
    """

    server: Server
    bundle: Path
    another: Path


@pytest.fixture(scope="module")
def served(bundle_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("triton")
    cache = {"XDG_CACHE_HOME": str(folder / "cache"), "XDG_STATE_HOME": str(folder / "state")}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in cache.items():
            patch.setenv(name, value)
        bundle = with_labels(bundle_source, folder / "labelled").path
        # One precision: with several, each model would measure at its first load.
        _write(bundle, folder / "digits", "--decode")
        _write(bundle, folder / "halved")
        _write(bundle, folder / "altered")
        model = folder / "halved" / "halved" / "1" / "model.py"
        model.write_text(model.read_text() + HALVED)
        _alter(folder / "altered" / "altered" / "1" / "bundle" / "onnx" / "int8.onnx")
        repositories = [folder / name for name in ("digits", "halved", "altered")]
        scratch = folder / "server"
        scratch.mkdir()
        with run_server(repositories, scratch) as server:
            yield Served(server, bundle, bundle_source)


def _write(bundle: Path, out: Path, *options: str) -> None:
    name = ("--name", out.name, "--precision", "fp32", "--threads", "1")
    assert main(["triton", str(bundle), str(out), "-q", *name, *options]) == 0


def _alter(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[1000] ^= 1
    file.write_bytes(data)


def replay(served: Served, protocol: str, model: str, *options: str) -> int:
    url = served.server.url(protocol, model)
    return main(["replay", str(served.bundle), "--url", url, "-q", *options])


def jpegs() -> list[bytes]:
    """Photographs, as noise has no shape that a wrong turn would show: of three sizes, one grey,
    one turned by its EXIF orientation.
    """
    files = []
    for number, (mode, orientation) in enumerate([("RGB", 1), ("L", 1), ("RGB", 6)]):
        shape = (20 + number, 31) if mode == "L" else (20 + number, 31, 3)
        pixels = np.random.default_rng(number).integers(0, 256, shape, np.uint8)
        exif = Image.Exif()
        exif[0x0112] = orientation
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "JPEG", exif=exif)
        files.append(stream.getvalue())
    return files


def send_files(served: Served, protocol: str, files: list[bytes], **options: Any) -> Any:
    model = served.server.served(protocol, "digits_images")
    library = model._library
    value = library.InferInput("encoded", [len(files), 1], "BYTES")
    value.set_data_from_numpy(np.array(files, object)[:, None])
    with model:
        return model._client.infer("digits_images", [value], **options).as_numpy("logits")


def engine_on_files(served: Served, files: list[bytes], folder: Path) -> Any:
    with Engine.load(served.bundle, precision="fp32", threads=1) as engine:
        frames = []
        for number, data in enumerate(files):
            (folder / f"{number}.jpg").write_bytes(data)
            frames.append(engine.preprocess.read(folder / f"{number}.jpg"))
        return engine(np.stack(frames))


def test_a_server_is_proven_from_outside(
    served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for protocol in PROTOCOLS:
        assert replay(served, protocol, "digits", "--json") == 0
        verdict = json.loads(capsys.readouterr().out)
        assert verdict["good"]
        assert verdict["row"]["precision"] == "fp32"
        assert verdict["row"]["agreement"] == 1.0
        assert verdict["served_bundle"] == verdict["bundle"]
        assert replay(served, protocol, "halved") == 1
        assert "logits are" in capsys.readouterr().out
        assert replay(served, protocol, "altered") == 2
        assert "no such model that is ready" in capsys.readouterr().err
        files = jpegs()
        answers = send_files(served, protocol, files)
        assert np.abs(answers - engine_on_files(served, files, tmp_path)).max() < 1e-4
    log = served.server.log.read_text()
    assert "onnx/int8.onnx was altered" in log


@pytest.mark.slow
@pytest.mark.parametrize("protocol", PROTOCOLS)
class TestServer:
    def test_another_bundle_is_found_by_its_hash(
        self, served: Served, protocol: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        url = served.server.url(protocol, "digits")
        assert main(["replay", str(served.another), "--url", url]) == 1
        assert "another bundle" in capsys.readouterr().out

    def test_a_version_can_be_named(
        self, served: Served, protocol: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert replay(served, protocol, "digits/versions/1") == 0
        capsys.readouterr()
        assert replay(served, protocol, "digits/versions/7") == 2
        assert "versions/7" in capsys.readouterr().err

    def test_a_model_that_takes_files_is_another(
        self, served: Served, protocol: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert replay(served, protocol, "digits_images") == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "'encoded' BYTES" in line
        assert "another model" in line

    def test_a_precision_that_the_server_does_not_run(
        self, served: Served, protocol: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert replay(served, protocol, "digits", "--precision", "int8") == 2
        assert "says that it runs fp32" in capsys.readouterr().err

    def test_an_unreadable_file_fails_its_request_alone(
        self, served: Served, protocol: str, tmp_path: Path
    ) -> None:
        from tritonclient.utils import InferenceServerException

        with pytest.raises(InferenceServerException, match="not a readable image"):
            send_files(served, protocol, [jpegs()[0], b"\x89PNG damaged"])
        expected = engine_on_files(served, jpegs()[:1], tmp_path)
        assert np.abs(send_files(served, protocol, jpegs()[:1]) - expected).max() < 1e-4

    def test_the_other_protocols_port_is_one_clear_error(
        self, served: Served, protocol: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        other = PROTOCOLS[1 - PROTOCOLS.index(protocol)]
        url = served.server.url(other, "digits").replace(other, protocol, 1)
        assert main(["replay", str(served.bundle), "--url", url, "--timeout", "2"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("vit-edge: no server answers")

    def test_classes_have_names(self, served: Served, protocol: str) -> None:
        """Triton's own classification gives value, class and name."""
        model = served.server.served(protocol, "digits")
        library, frames = model._library, np.zeros((1, 8, 8, 1), np.uint8)
        value = library.InferInput("images", [1, 8, 8, 1], "UINT8")
        value.set_data_from_numpy(frames)
        wanted = library.InferRequestedOutput("logits", class_count=2)
        with model:
            (best, _), *_ = model._client.infer("digits", [value], outputs=[wanted]).as_numpy(
                "logits"
            )
        _, index, name = best.decode().split(":")
        assert name == DIGITS[int(index)]


@pytest.mark.slow
def test_a_repository_survives_a_restart_and_a_copy(served: Served, tmp_path: Path) -> None:
    """As a container has it: copied elsewhere, with the cache of a new machine."""
    _write(served.bundle, tmp_path / "digits")
    shutil.copytree(tmp_path / "digits", tmp_path / "copy")
    shutil.rmtree(tmp_path / "digits")
    (tmp_path / "server").mkdir()
    assert os.environ["XDG_CACHE_HOME"] != str(tmp_path)
    with run_server([tmp_path / "copy"], tmp_path / "server") as server:
        assert replay(Served(server, served.bundle, served.another), "grpc", "digits") == 0
