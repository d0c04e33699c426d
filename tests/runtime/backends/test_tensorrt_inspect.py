"""The engine inspector is asked at the size that an engine was built for best."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from tests.runtime.tools.plan.inspected import TEN
from tests.specs import engine_spec
from vit_edge.runtime.backends.tensorrt.inspect import inspect_engine

from .api import differences, recordings

SPEC = engine_spec("images", "logits", (8, 8, 1), 10, (1, 2, 4))


class Context:
    """Stands for IExecutionContext; the inspector knows its formats once shapes are set."""

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = (name, shape)
        return True


class Inspector:
    """Stands for EngineInspector."""

    execution_context: Context

    def get_engine_information(self, format: str) -> str:  # noqa: A002
        assert (format, self.execution_context.shape) == ("JSON", ("images", (2, 8, 8, 1)))
        return json.dumps(TEN)


class Engine:
    """Stands for ICudaEngine."""

    def create_execution_context(self) -> Context:
        return Context()

    def create_engine_inspector(self) -> Inspector:
        return Inspector()


class Runtime:
    """Stands for Runtime."""

    def __init__(self, logger: Any) -> None:
        self.logger = logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Engine:
        return Engine()


INSPECTING = SimpleNamespace(
    Runtime=Runtime,
    EngineInspector=Inspector,
    LayerInformationFormat=SimpleNamespace(JSON="JSON"),
    __version__="11.4.0",
)


@pytest.mark.parametrize("api", recordings("tensorrt"), ids=lambda api: api.version)
def test_the_stand_ins_are_as_the_genuine_classes(api: Any) -> None:
    for owner, stand_in in (("EngineInspector", Inspector), ("Runtime", Runtime)):
        assert differences(stand_in, api, owner) == []
    assert differences(Context, api, "IExecutionContext") == []


def test_layers_are_asked_for_at_the_best_size() -> None:
    text = inspect_engine(INSPECTING, SimpleNamespace(errors=[]), b"engine", SPEC)
    assert json.loads(text) == TEN
