"""A real Triton server, without a GPU: the one that NVIDIA's package `nvidia-pytriton` brings.

It has the Python backend alone. `make setup` puts it into an environment of its own, which sees
ours: its Python backend wants a NumPy below 2.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from vit_edge.runtime.tools.replay.server import ServedModel, parse_address

ROOT = Path(__file__).parents[3]
HOME = Path(os.environ.get("TRITON_SERVER", Path(sys.prefix) / "triton-server"))
_PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
_PACKAGES = HOME / "lib" / _PYTHON / "site-packages"
_PROGRAM = _PACKAGES / "pytriton" / "tritonserver" / "bin" / "tritonserver"
_STUB = f"{sys.version_info.major}.{sys.version_info.minor}/triton_python_backend_stub"
_STARTED, _STOPPED = 60.0, 20.0

needs_server = pytest.mark.skipif(
    not _PROGRAM.is_file(), reason=f"no Triton server in {HOME}: `make setup` installs it"
)


@dataclass(frozen=True)
class Server:
    """Running server.

    Attributes:
        http, grpc: Its ports.
        log: The file that it writes its log to.
    """

    http: int
    grpc: int
    log: Path

    def url(self, protocol: str, model: str) -> str:
        return f"{protocol}://localhost:{getattr(self, protocol)}/{model}"

    def served(self, protocol: str, model: str) -> ServedModel:
        return ServedModel(parse_address(self.url(protocol, model)))


@contextmanager
def run_server(repositories: Sequence[Path], scratch: Path) -> Iterator[Server]:
    """Starts a server of model repositories, and stops it; models that do not load are left out.

    Args:
        repositories: The models.
        scratch: An empty folder for its backends and its log.
    """
    ports = _free_ports(3)
    server = Server(ports[0], ports[1], scratch / "log.txt")
    command = [
        str(_PROGRAM),
        *(f"--model-repository={repository}" for repository in repositories),
        f"--backend-directory={_backends(scratch)}",
        f"--http-port={ports[0]}",
        f"--grpc-port={ports[1]}",
        f"--metrics-port={ports[2]}",
        "--exit-on-error=false",
        "--exit-timeout-secs=5",
    ]
    with server.log.open("wb") as log:
        process = subprocess.Popen(command, env=_environment(), cwd=ROOT, stdout=log, stderr=log)
        try:
            _wait_until_started(process, server)
            yield server
        finally:
            process.terminate()
            try:
                process.wait(_STOPPED)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _backends(scratch: Path) -> Path:
    """Lays out the Python backend as the server looks for it, with the stub of this Python."""
    source = _PACKAGES / "pytriton" / "tritonserver"
    backend = scratch / "backends" / "python"
    backend.mkdir(parents=True)
    for file in (source / "backends" / "python").iterdir():
        (backend / file.name).symlink_to(file)
    shutil.copy(source / "python_backend_stubs" / _STUB, backend)
    return backend.parent


def _environment() -> dict[str, str]:
    libraries = [
        _PROGRAM.parent,
        _PACKAGES / "nvidia_pytriton.libs",
        sysconfig.get_config_var("LIBDIR"),
    ]
    # The stub finds its packages by the `python` on the path, whatever PYTHONPATH says.
    return {
        **os.environ,
        "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
        "PATH": f"{HOME / 'bin'}:{os.environ['PATH']}",
    }


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _answers(server: Server) -> bool:
    """HTTP is the last that is started, after gRPC."""
    try:
        with urllib.request.urlopen(f"http://localhost:{server.http}/v2/health/live", timeout=5):
            return True
    except OSError:
        return False


def _wait_until_started(process: subprocess.Popen[bytes], server: Server) -> None:
    """Waits until it listens, which is once all models are loaded or refused."""
    deadline = time.monotonic() + _STARTED
    while time.monotonic() < deadline and process.poll() is None:
        if _answers(server):
            return
        time.sleep(0.05)
    raise AssertionError(f"the server did not start:\n{server.log.read_text()[-4000:]}")
