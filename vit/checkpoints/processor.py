"""Hints about the preprocessing from the image processors of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vit_edge.runtime.errors import InputError
from vit_edge.vit.hints import ModelHints

_RESAMPLING = {1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box"}
"""Pillow's numbers."""
_RESCALE = 1 / 255


def read_processor(config: dict[str, Any], path: Path) -> ModelHints:
    """Reads the hints of a `preprocessor_config.json`.

    Source: transformers `BaseImageProcessor`: resize to a size (which squashes) or a shortest
    edge, centre crop, rescale, normalise.

    Raises:
        InputError: for steps that this project's preprocessing does not have.
    """
    try:
        return _read(config)
    except (ValueError, TypeError, OverflowError, ZeroDivisionError) as error:
        raise InputError(
            f"{path}: {error}. Give --mean, --std, --interpolation, --crop and --crop-mode, and "
            "remove the file"
        ) from None


def _read(config: dict[str, Any]) -> ModelHints:
    factor = config.get("rescale_factor", _RESCALE)
    if not config.get("do_rescale", True) or abs(float(factor) - _RESCALE) > 1e-6:
        raise ValueError(f"rescale_factor {factor} is not 1/255")
    normalise = config.get("do_normalize", True)
    mean, std = (config.get(key) if normalise else None for key in ("image_mean", "image_std"))
    if normalise and not (mean and std):
        return ModelHints(**_geometry(config))
    count = len(mean) if mean else 3
    return ModelHints(
        **_geometry(config),
        mean=tuple(map(float, mean or [0.0] * count)),
        std=tuple(map(float, std or [1.0] * count)),
    )


def _geometry(config: dict[str, Any]) -> dict[str, Any]:
    _require_known_steps(config)
    resample = config.get("resample", 3)
    if resample not in _RESAMPLING:
        raise ValueError(f"resample {str(resample)[:20]!r} is none of {_RESAMPLING}")
    edge, size = _edge(config.get("size"))
    crop = _edge(config.get("crop_size"))[1] if config.get("do_center_crop") else None
    hints: dict[str, Any] = {"interpolation": _RESAMPLING[resample]}
    if crop is None:
        mode = "squash" if edge is None else "center_floor"
        return {**hints, "img_size": size, "crop": 1.0, "crop_mode": mode}
    if edge is not None:
        return {**hints, "img_size": crop, "crop": min(crop) / edge, "crop_mode": "center_floor"}
    if size is None:
        raise ValueError("a crop, but no size to resize to")
    shares = crop[0] / size[0], crop[1] / size[1]
    if abs(shares[0] - shares[1]) > 1e-6:
        raise ValueError(f"the crop {crop} is of another shape than the size {size}")
    return {**hints, "img_size": crop, "crop": shares[0], "crop_mode": "squash"}


def _require_known_steps(config: dict[str, Any]) -> None:
    if config.get("do_resize") is False:
        raise ValueError("do_resize is false: images would have to come in the right size")
    if config.get("do_center_crop") and "crop_size" not in config:
        raise ValueError("do_center_crop without a crop_size")
    for step in ("do_pad", "offset", "do_reduce_labels"):
        if config.get(step):
            raise ValueError(f"{step} is no step of this project's preprocessing")


def _edge(size: Any) -> tuple[int | None, tuple[int, int] | None]:
    """Returns the shortest edge, or height and width."""
    if size is None:
        return None, None
    if isinstance(size, dict):
        if "shortest_edge" in size:
            if size.get("longest_edge"):
                raise ValueError("size has a longest_edge")
            edge = int(size["shortest_edge"])
            return edge, (edge, edge)
        if "height" not in size or "width" not in size:
            raise ValueError(f"size {str(size)[:60]} has neither shortest_edge nor 'height'")
        return None, (int(size["height"]), int(size["width"]))
    return None, (int(size), int(size))
