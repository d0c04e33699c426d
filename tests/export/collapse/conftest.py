from __future__ import annotations

import pytest

from vit_edge.vit.vision_transformer import VisionTransformer

from .workshop import Workshop


@pytest.fixture(scope="session")
def workshop(digits_model: VisionTransformer) -> Workshop:
    return Workshop(lambda: digits_model)
