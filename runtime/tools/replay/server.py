"""A model on a server that speaks the KServe v2 protocol, by HTTP or gRPC.

Source: Open Inference Protocol, v2; what is Triton's own (a model's configuration) is left out
where a server has none.
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from ...errors import BackendError, EngineError, InputError, first_line, install_command
from ...manifest import EngineSpec
from ...outputs import pack

FORM = "grpc://HOST:8001/MODEL or http://HOST:8000/MODEL, with /versions/N behind it if you like"
_PROTOCOLS = {"grpc": ("grpc", False), "grpcs": ("grpc", True),
              "http": ("http", False), "https": ("http", True)}  # fmt: skip
_PATH = re.compile(r"(?:/v2/models)?/([^/]+)(?:/versions/([0-9]+))?/?")


@dataclass(frozen=True)
class Address:
    """Model on a server.

    Attributes:
        protocol: "grpc" or "http".
        secure: True for TLS.
        host: With its port.
        model: The model's name.
        version: Its version; "" for the one that the server chooses.
    """

    protocol: str
    secure: bool
    host: str
    model: str
    version: str = ""

    def __str__(self) -> str:
        version = f"/versions/{self.version}" if self.version else ""
        secure = "s" if self.secure else ""
        return f"{self.protocol}{secure}://{self.host}/{self.model}{version}"


def parse_address(url: str) -> Address:
    """Reads an address.

    Raises:
        InputError: if it is none.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InputError(f"--url {url[:200]!r}: {error}; give {FORM}") from None
    path = _PATH.fullmatch(parts.path)
    if parts.scheme not in _PROTOCOLS or not parts.hostname or not path:
        raise InputError(f"--url {url[:200]!r} is no address of a model: give {FORM}")
    if parts.query or parts.fragment or parts.username is not None:
        raise InputError(f"--url {url[:200]!r} has more than a host and a model: give {FORM}")
    if port is None:
        raise InputError(f"--url {url[:200]!r} has no port: give {FORM}")
    protocol, secure = _PROTOCOLS[parts.scheme]
    return Address(protocol, secure, parts.netloc, path[1], path[2] or "")


TIMEOUT_S = 60.0
_BINARY = "binary_tensor_data"
"""Extension of HTTP: bytes behind the JSON, in place of numbers in it."""
_UNREACHABLE = ("UNAVAILABLE", "DEADLINE_EXCEEDED")
_HAS_NONE = ("404", "405", "501", "NOT_FOUND", "UNIMPLEMENTED")
"""Statuses, of HTTP and gRPC, of servers that know no configurations."""


@dataclass(frozen=True)
class ServerTensor:
    """Input or output as the server describes it; sizes that may be any are -1."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name!r} {self.datatype} [{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Description:
    """Description of a model by its server.

    Attributes:
        platform: What runs there, in the server's words.
        versions: That are there.
        inputs, outputs: By their names.
        max_batch: Most images in a request; None where the server does not say.
        parameters: That the model was configured with; empty where the server does not say.
    """

    platform: str
    versions: tuple[str, ...]
    inputs: dict[str, ServerTensor]
    outputs: dict[str, ServerTensor]
    max_batch: int | None = None
    parameters: dict[str, str] = field(default_factory=dict)


class Server(Protocol):
    """Model on a server."""

    @property
    def address(self) -> Address: ...

    def describe(self) -> Description:
        """Asks the server for the model's inputs, outputs and configuration."""

    def infer(self, frames: NDArray[np.uint8], spec: EngineSpec) -> NDArray[np.float32]:
        """Sends uint8 `[n, height, width, channels]`; returns float32 `[n, width]`."""


class ServedModel:
    """Model on a server that speaks the protocol; a context manager.

    Raises:
        BackendError: if `tritonclient` is not installed.
    """

    def __init__(self, address: Address, timeout_s: float = TIMEOUT_S) -> None:
        self.address = address
        self._encoding: dict[str, bool] = {}
        try:
            self._library = importlib.import_module(f"tritonclient.{address.protocol}")
            self._error = importlib.import_module("tritonclient.utils").InferenceServerException
        except ImportError as error:
            raise BackendError(
                f"talking to a server needs tritonclient ({error}): {install_command('triton')}"
            ) from None
        client: Any = self._library.InferenceServerClient
        if address.protocol == "http":
            self._client = client(
                address.host,
                ssl=address.secure,
                connection_timeout=timeout_s,
                network_timeout=timeout_s,
            )
            self._options: dict[str, Any] = {}
        else:
            self._client = client(address.host, ssl=address.secure)
            self._options = {"client_timeout": timeout_s}

    def __enter__(self) -> ServedModel:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def describe(self) -> Description:
        """Asks the server for the model's inputs, outputs and configuration.

        Raises:
            BackendError: if the server does not answer.
            InputError: if it has no such model.
        """
        model = self.address.model, self.address.version
        metadata = self._ask(lambda o: self._client.get_model_metadata(*model, **o))
        config, server = self._config(), None
        if self.address.protocol == "http":
            server = self._ask(lambda o: self._client.get_server_metadata(**o))
        try:
            if server is not None:
                self._encoding = {"binary_data": _BINARY in server.get("extensions", ())}
            return _describe(metadata, config)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise BackendError(
                f"{self.address}: the server describes the model otherwise than the KServe v2 "
                f"protocol does ({type(error).__name__}: {first_line(error)}): correct --url"
            ) from None

    def _config(self) -> dict[str, Any]:
        """Returns Triton's configuration of the model; empty from a server that has none.

        Raises:
            BackendError: if the server fails: which bundle it runs must not go unasked.
        """
        try:
            config = self._client.get_model_config(
                self.address.model, self.address.version, **self._dictionaries()
            )
        except Exception as error:  # each client raises errors of libraries below it
            status = str(error.status() or "") if isinstance(error, self._error) else ""
            if status.endswith(_HAS_NONE):
                return {}
            raise BackendError(
                f"{self.address}: the server does not give the model's configuration "
                f"({_reason(error)}): look in its log, or try again"
            ) from None
        # By gRPC it lies in a message of its own.
        config = config.get("config", config) if isinstance(config, dict) else config
        if not isinstance(config, dict):
            raise BackendError(
                f"{self.address}: the server's configuration of the model is no object "
                f"({str(config)[:80]}): correct --url"
            )
        return config

    def infer(self, frames: NDArray[np.uint8], spec: EngineSpec) -> NDArray[np.float32]:
        """Sends uint8 `[n, height, width, channels]`; returns float32 `[n, width]`.

        Raises:
            EngineError: if the server refuses or fails, or its outputs have another shape.
        """
        value = self._library.InferInput(spec.input_name, list(frames.shape), "UINT8")
        value.set_data_from_numpy(frames, **self._encoding)
        requested = [
            self._library.InferRequestedOutput(name, **self._encoding) for name in spec.output_names
        ]
        try:
            result = self._client.infer(
                self.address.model,
                [value],
                model_version=self.address.version,
                outputs=requested,
                **self._options,
            )
        except Exception as error:  # each client raises errors of libraries below it
            raise EngineError(f"{self.address}: the server failed: {_reason(error)}") from None
        arrays = []
        for output in spec.outputs:
            sizes = (len(frames), *output.shape)
            try:
                array = result.as_numpy(output.name)
            except Exception as error:  # fewer bytes than its shape says, or no data at all
                raise EngineError(
                    f"{self.address}: the server returned a broken {output.name!r} "
                    f"({_reason(error)})"
                ) from None
            if array is None or array.dtype != np.float32 or array.size != np.prod(sizes):
                shape = "nothing" if array is None else f"{array.dtype} {list(array.shape)}"
                raise EngineError(
                    f"{self.address}: the server returned {shape} as {output.name!r}, not float32 "
                    f"{list(sizes)}"
                )
            arrays.append(array.reshape(sizes))
        return pack(arrays)

    def _dictionaries(self) -> dict[str, Any]:
        """Options that make gRPC answer as HTTP does."""
        return {"as_json": True, **self._options} if self.address.protocol == "grpc" else {}

    def _ask(self, question: Any) -> dict[str, Any]:
        try:
            answer = question(self._dictionaries())
        except self._error as error:
            status = str(error.status() or "")
            if status.endswith(_UNREACHABLE):
                raise self._unreachable(error) from None
            raise InputError(
                f"{self.address}: the server has no such model that is ready "
                f"({_reason(error)}): correct --url, or look in the server's log"
            ) from None
        except Exception as error:  # no address, refused, timed out, another protocol
            raise self._unreachable(error) from None
        if not isinstance(answer, dict):
            raise BackendError(
                f"{self.address}: the server answers {str(answer)[:80]!r}, which is not of the "
                "KServe v2 protocol: correct --url"
            )
        return answer

    def _unreachable(self, error: Exception) -> BackendError:
        return BackendError(
            f"no server answers by {self.address.protocol} at {self.address.host} "
            f"({_reason(error)}): start it, or correct --url"
        )


def _describe(metadata: dict[str, Any], config: dict[str, Any]) -> Description:
    """Raises AttributeError, KeyError, TypeError or ValueError if it is not of the protocol."""
    return Description(
        str(metadata.get("platform", "")),
        tuple(map(str, metadata.get("versions", ()))),
        {t["name"]: _tensor(t) for t in metadata.get("inputs", ())},
        {t["name"]: _tensor(t) for t in metadata.get("outputs", ())},
        int(config["max_batch_size"]) if config.get("max_batch_size") else None,
        {k: str(v.get("string_value", "")) for k, v in config.get("parameters", {}).items()},
    )


def _tensor(described: dict[str, Any]) -> ServerTensor:
    """Reads a tensor of the metadata, whose sizes gRPC gives as text."""
    shape = tuple(int(size) for size in described.get("shape", ()))
    return ServerTensor(str(described["name"]), str(described.get("datatype", "")), shape)


def _reason(error: Exception) -> str:
    message = getattr(error, "message", None)
    text = str(message()) if callable(message) else first_line(error)
    return (text.strip().splitlines() or [type(error).__name__])[0][:300]
