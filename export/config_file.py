"""The JSON file of `--config`: fields of the model that differ from what is found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vit_edge.runtime.errors import InputError
from vit_edge.vit.config import ViTConfig, config_from_fields
from vit_edge.vit.hints import ModelHints


def read_fields(path: Path) -> dict[str, Any]:
    """The JSON object of `--config`. Raises InputError if the file holds none."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(fields, dict):
            raise ValueError("it is no object")
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is not a configuration ({str(error)[:200]}): give a JSON object with fields "
            "of the model"
        ) from None
    return fields


def facts_in(fields: dict[str, Any]) -> ModelHints:
    """What a configuration says of what shapes do not tell; checked when it is applied."""

    def known(value: Any, kind: type) -> Any:
        return value if type(value) is kind else None

    groups = (fields.get(name) for name in ("block", "readout"))
    block, readout = (group if isinstance(group, dict) else {} for group in groups)
    size = fields.get("img_size")
    pair = (size, size) if type(size) is int else tuple(size) if isinstance(size, list) else ()
    whole = len(pair) == 2 and all(type(edge) is int and edge > 0 for edge in pair)
    return ModelHints(
        img_size=(pair[0], pair[1]) if whole else None,
        n_heads=known(fields.get("n_heads"), int),
        norm_eps=known(block.get("norm_eps"), float),
        mlp=known(block.get("mlp"), str),
        pool=known(readout.get("pool"), str),
    )


def apply_fields(default: ViTConfig, fields: dict[str, Any], path: Path | None) -> ViTConfig:
    """`default` with these fields. Raises InputError if they do not fit."""
    try:
        return config_from_fields(default, fields)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not a configuration ({error})") from None
