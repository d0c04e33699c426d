"""Code that the models of the Python backend share on the server: the bundle beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...bundle import Bundle
from ...errors import BundleError
from .config import BUNDLE_FOLDER, BUNDLE_SHA256


def open_served(folder: Path, config: dict[str, Any]) -> tuple[Bundle, dict[str, str]]:
    """Opens the bundle that a model's configuration names.

    Args:
        folder: The folder of the model's version.
        config: Triton's `ModelConfig` as it gives it to Python.

    Returns:
        The bundle, and the configuration's parameters.

    Raises:
        BundleError: if it is missing or altered, or is another one.
    """
    values = {name: value["string_value"] for name, value in config["parameters"].items()}
    bundle = Bundle.open(folder / BUNDLE_FOLDER)
    if bundle.digest != values.get(BUNDLE_SHA256):
        raise BundleError(
            f"{bundle.path} is not the bundle that the model was written for: write the model "
            "repository again with `vit-edge triton`"
        )
    return bundle, values
