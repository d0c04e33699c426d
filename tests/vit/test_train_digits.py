from __future__ import annotations

import torch

from vit_edge.vit.datasets import digits
from vit_edge.vit.preprocessing import normalise
from vit_edge.vit.training.digits import DigitsRecipe, shift, top1, train
from vit_edge.vit.variants import find_variant
from vit_edge.vit.vision_transformer import VisionTransformer

VARIANT = find_variant("vit_digits")


def test_default_model_reads_97_of_100_held_back_digits(digits_model: VisionTransformer) -> None:
    data = digits("evaluation", VARIANT.preprocess)
    assert top1(digits_model, data, VARIANT.preprocess) >= 0.97


def test_training_is_reproducible() -> None:
    data = digits("train", VARIANT.preprocess).subset(range(128))
    images = normalise(next(data.batches(128)), VARIANT.preprocess)
    labels = torch.tensor(data.label_list())
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        model = VisionTransformer.from_config(VARIANT.config)
        train(model, images, labels, 3, DigitsRecipe(epochs=2), lambda done, total: None)
        states.append(model.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_shift_moves_images_and_fills_with_black() -> None:
    images = torch.ones(64, 1, 8, 8)
    shifted = shift(images, 1, torch.Generator().manual_seed(0))
    assert shifted.shape == images.shape
    assert set(shifted.unique().tolist()) == {-1.0, 1.0}
    unmoved = (shifted == 1).flatten(1).all(dim=1).float().mean()
    assert 0.4 < unmoved < 0.8
