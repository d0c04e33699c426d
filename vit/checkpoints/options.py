"""Facts that trainings save beside their weights: the architecture's name, pictures, classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vit_edge.runtime.preprocess import INTERPOLATIONS
from vit_edge.vit.hints import ModelHints
from vit_edge.vit.labels import names_of
from vit_edge.vit.variants import VARIANTS

_ARCH = ("arch", "model", "model_name", "architecture")
_NAMES = (
    "class_to_idx",
    "idx_to_class",
    "id2label",
    "label2id",
    "class_names",
    "classes",
    "labels",
)
_DEPTH = 4
"""Mappings within mappings that are looked into: options lie near the top."""


def read_options(value: Any) -> tuple[ModelHints, str | None]:
    """Returns hints, and the name of the architecture, from what lies beside the weights.

    Source: timm's train.py (`arch`, and `args` with gp, mean, std, crop_pct), DeiT's and MAE's
    main.py (`args` with model, global_pool), the customs of PyTorch's tutorials (class_to_idx).
    """
    options = list(_options(value))

    def known(names: tuple[str, ...], accept: Any) -> Any:
        """The first value of one of these names that is of the right kind."""
        values = (accept(v) for name in names for key, v in options if key == name)
        return next((v for v in values if v is not None), None)

    return ModelHints(
        pool=known(("global_pool", "gp"), _pool),
        mean=known(("mean",), _numbers),
        std=known(("std",), _numbers),
        crop=known(("crop_pct",), lambda v: v if type(v) is float and 0 < v <= 1 else None),
        interpolation=known(
            ("interpolation",), lambda v: v if isinstance(v, str) and v in INTERPOLATIONS else None
        ),
        labels=known(_NAMES, names_of),
    ), known(_ARCH, _variant)


def find_option(value: Any, name: str, *kinds: type) -> Any:
    """Returns what a training saved under this name anywhere near the top, if it is of such a type;
    else None.
    """
    return next((v for key, v in _options(value) if key == name and type(v) in kinds), None)


def _options(value: Any, depth: int = _DEPTH) -> Iterator[tuple[str, Any]]:
    fields = value if isinstance(value, Mapping) else getattr(value, "__dict__", None)
    if not isinstance(fields, Mapping) or not depth:
        return
    for name, inner in fields.items():
        if isinstance(name, str):
            yield name, inner
    for inner in fields.values():
        yield from _options(inner, depth - 1)


def _pool(value: Any) -> str | None:
    """Translates timm's "avg" and "token"; MAE's true; false may be a default."""
    names = {"avg": "mean", "token": "class_token", True: "mean"}
    return names.get(value) if isinstance(value, str | bool) else None


def _numbers(value: Any) -> tuple[float, ...] | None:
    if not isinstance(value, list | tuple) or len(value) not in (1, 3):
        return None
    return tuple(map(float, value)) if all(type(v) in (int, float) for v in value) else None


def _variant(value: Any) -> str | None:
    name = value.partition(".")[0] if isinstance(value, str) else None
    return name if name in VARIANTS else None
