"""Whatever a stage can read is in its key."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.specs import engine_spec
from vit_edge.export.cache import Hashed, Stage, StageCache
from vit_edge.export.collapse import Limits
from vit_edge.export.doors import module, own
from vit_edge.export.pipeline import export_bundle
from vit_edge.export.precision import PRECISIONS, Budget, Precision, QuantisedPrecision
from vit_edge.export.progress import Display
from vit_edge.export.quantise.grid import FP8_GRID, INT8_GRID, Grid, Scheme
from vit_edge.runtime.manifest import EngineSpec
from vit_edge.runtime.outputs import OutputSpec
from vit_edge.runtime.preprocess import Preprocess
from vit_edge.vit.variants import find_variant

_ = export_bundle, module, own  # importing the pipeline and the doors imports every stage
SPECS = [engine_spec("images", "logits", (32, 32, 3), outputs, (1, 2, 4)) for outputs in (7, 8)]
SIZES = [dataclasses.replace(find_variant("vit_digits").preprocess, width=n) for n in (32, 48)]


def stage_classes(base: type = Stage) -> Iterator[type]:
    """The stages of the export, without the bases that they share."""
    for cls in base.__subclasses__():
        yield from stage_classes(cls)
        if cls.__module__.startswith("vit_edge.export") and not cls.__abstractmethods__:
            yield cls


def samples(kind: Any, cache: Path) -> list[Any]:
    """Two values of a field's type that differ in every field of their own."""
    known: dict[Any, list[Any]] = {
        Path: [cache / "one", cache / "other"],
        str: ["one", "other"],
        int: [1, 2],
        bool: [False, True],
        float: [0.5, 0.25],
        EngineSpec: SPECS,
        Preprocess: SIZES,
        OutputSpec: [spec.outputs[0] for spec in SPECS],
        Grid: [INT8_GRID, FP8_GRID],
        Scheme: [Scheme(INT8_GRID, INT8_GRID), Scheme(FP8_GRID, FP8_GRID)],  # has one inside
        Budget: [PRECISIONS[name].budget for name in ("fp16", "int8")],
        Limits: [PRECISIONS[name].limits for name in ("fp16", "int8")],
        Precision: [PRECISIONS[name] for name in ("fp16", "bf16")],
        QuantisedPrecision: [PRECISIONS[name] for name in ("int8", "int4")],
    }
    if kind in known:
        return known[kind]
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return samples(arguments[0], cache)
    if origin is tuple:
        return [(value,) for value in samples(arguments[0], cache)]
    if origin is Mapping:
        return [{"form": value} for value in samples(arguments[1], cache)]
    if origin is Hashed:
        return [Hashed(object(), digest) for digest in ("one", "other")]
    assert dataclasses.is_dataclass(kind), f"give two samples of {kind}"
    return [kind(**{name: values[i] for name, values in fields(kind, cache)}) for i in (0, 1)]


def fields(cls: Any, cache: Path) -> list[tuple[str, list[Any]]]:
    hints = typing.get_type_hints(cls)
    return [(field.name, samples(hints[field.name], cache)) for field in dataclasses.fields(cls)]


CLASSES = sorted(set(stage_classes()), key=lambda cls: cls.__name__)


@pytest.mark.parametrize("cls", CLASSES)
def test_every_field_of_a_stage_is_in_its_key(cls: Any, tmp_path: Path) -> None:
    cache = StageCache(tmp_path, Display())
    values = fields(cls, tmp_path)
    stage = cls(**{name: first for name, (first, _) in values})
    assert cache.key(stage) == cache.key(dataclasses.replace(stage))
    for name, (_, other) in values:
        assert cache.key(dataclasses.replace(stage, **{name: other})) != cache.key(stage), name


@pytest.mark.parametrize("cls", CLASSES)
def test_a_stage_has_nothing_but_its_fields(cls: Any, tmp_path: Path) -> None:
    assert cls.__dataclass_params__.frozen
    hints = {k: v for base in cls.__mro__ for k, v in vars(base).get("__annotations__", {}).items()}
    annotated = {name for name, hint in hints.items() if "ClassVar" not in hint}
    assert annotated == {field.name for field in dataclasses.fields(cls)}
    stage = cls(**{name: first for name, (first, _) in fields(cls, tmp_path)})
    assert vars(stage).keys() == annotated


def test_all_stages_are_tried() -> None:
    assert {"Calibrate", "LowerQuantised", "BuildEngine"} <= {cls.__name__ for cls in CLASSES}
    assert len(CLASSES) >= 16


def test_a_part_of_a_field_is_in_the_key_too(tmp_path: Path) -> None:
    from vit_edge.export.stages import Lower

    (calibrated, _) = dict(fields(Lower, tmp_path))["calibrated"]
    strict = dataclasses.replace(PRECISIONS["fp16"].limits, outputs=1e-9)
    pair = [PRECISIONS["fp16"], dataclasses.replace(PRECISIONS["fp16"], limits=strict)]
    cache = StageCache(tmp_path, Display())
    assert len({cache.key(Lower("fp16", precision, calibrated)) for precision in pair}) == 2
