"""The source implementations that checkpoints come from: torchvision, timm and transformers.

torchvision's compiled operators do not load beside every build of PyTorch. None of the models needs
them, but importing the package does; so their schemas are declared first, where they are missing.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import torch

_declared: list[torch.library.Library] = []


def timm() -> ModuleType:
    _prepare()
    import timm

    return timm


def torchvision() -> ModuleType:
    _prepare()
    import torchvision

    return torchvision


def transformers() -> ModuleType:
    _prepare()
    import transformers

    transformers.logging.set_verbosity_error()
    return transformers


def _prepare() -> None:
    """Declares torchvision's operators, unless its own library does."""
    if _declared or _loads():
        return
    spec = importlib.util.find_spec("torchvision")
    assert spec is not None
    assert spec.origin is not None
    source = (Path(spec.origin).parent / "_meta_registrations.py").read_text()
    names = {*re.findall(r'register_meta\("(\w+)"', source), "nms", "qnms"}
    library = torch.library.Library("torchvision", "DEF")
    for name in sorted(names):
        library.define(f"{name}(Tensor x) -> Tensor")
    _declared.append(library)


def _loads() -> bool:
    """Whether torchvision's compiled operators load here, found without importing the package."""
    spec = importlib.util.find_spec("torchvision")
    assert spec is not None
    assert spec.origin is not None
    for path in Path(spec.origin).parent.glob("_C*.so"):
        try:
            torch.ops.load_library(path)
        except OSError:
            return False
    return True
