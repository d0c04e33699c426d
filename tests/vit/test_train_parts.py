"""The parts of a training on a folder."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from tests.pairs import all_pairs
from tests.vit.images import write_classes
from vit_edge.runtime.errors import InputError
from vit_edge.vit.checkpoints import encode_checkpoint
from vit_edge.vit.training.augment import AUGMENTATIONS, Mixture, mix
from vit_edge.vit.training.files import replace_file
from vit_edge.vit.training.folder import check_classes, find_files, hold_back, match_classes
from vit_edge.vit.training.loop import evaluate, load_batches, mixed_loss
from vit_edge.vit.training.recipe import RECIPES, ema_decay_at, learning_rate_at, parameter_groups
from vit_edge.vit.training.start import find_start, starting_model
from vit_edge.vit.variants import find_variant
from vit_edge.vit.vision_transformer import VisionTransformer

VARIANT = find_variant("vit_test_patch8_32")
RECIPE = RECIPES["from scratch"]


def test_a_share_of_every_class_is_held_back_and_no_image_is_in_both(tmp_path: Path) -> None:
    data = find_files(write_classes(tmp_path / "d", {"red": 20, "blue": 10, "green": 2}))
    training, validation = hold_back(data, 0)
    assert np.bincount(validation.labels).tolist() == [2, 1, 4]
    assert sorted(training.files + validation.files) == sorted(data.files)
    assert hold_back(data, 0)[1].files == validation.files
    assert hold_back(data, 1)[1].files != validation.files
    for part in (training, validation):
        for file, label in zip(part.files, part.labels, strict=True):
            assert file.parent.name == part.class_names[label]


def check_and_split(folder: Path) -> None:
    data = find_files(folder)
    check_classes(data)
    hold_back(data, 0)


@pytest.mark.parametrize(
    ("counts", "named"),
    [
        ({"red": 3}, "one class folder"),
        ({"red": 3, "blue": 0}, "no images of class blue"),
        ({"red": 3, "blue": 1}, "one image of class blue"),
    ],
)
def test_folders_that_cannot_be_learned_from_are_named(
    tmp_path: Path, counts: dict[str, int], named: str
) -> None:
    with pytest.raises(InputError, match=named):
        check_and_split(write_classes(tmp_path / "d", counts))


def test_plain_images_have_no_classes(tmp_path: Path) -> None:
    write_classes(tmp_path / "d", {"red": 3})
    with pytest.raises(InputError, match="no class folders"):
        find_files(tmp_path / "d" / "red")


def test_evaluation_classes_go_by_their_names(tmp_path: Path) -> None:
    held = find_files(write_classes(tmp_path / "h", {"red": 1, "green": 1}))
    assert match_classes(held, ("blue", "green", "red")).labels.tolist() == [1, 2]
    with pytest.raises(InputError, match="not trained on: green"):
        match_classes(held, ("blue", "red"))


def test_unchanged_images_of_the_models_shape_are_what_validation_sees() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 48, 3)).astype(np.uint8)
    picture = Image.fromarray(pixels)
    changed = AUGMENTATIONS["none"](picture, VARIANT.preprocess, np.random.default_rng(1))
    assert np.array_equal(changed, VARIANT.preprocess(picture))


@pytest.mark.parametrize(
    ("name", "mode", "size"),
    all_pairs(
        AUGMENTATIONS,
        ["RGB", "L", "P", "RGBA", "1", "I;16"],
        [(1, 1), (200, 3), (3, 200), (64, 48)],
    ),
)
def test_pictures_of_every_kind_become_the_models_input(
    name: str, mode: str, size: tuple[int, int]
) -> None:
    for seed in range(3):
        changed = AUGMENTATIONS[name](
            Image.new(mode, size), VARIANT.preprocess, np.random.default_rng(seed)
        )
        assert (changed.shape, changed.dtype) == (VARIANT.preprocess.shape, np.uint8)


def test_augmentation_follows_from_its_generator_alone() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8)
    picture, change = Image.fromarray(pixels), AUGMENTATIONS["photographs"]
    first, again, other = (
        change(picture, VARIANT.preprocess, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_symbols_are_never_mirrored() -> None:
    half = Image.fromarray(np.repeat(np.uint8([[0, 255]]), 20, axis=1).repeat(40, axis=0))
    for seed in range(20):
        changed = AUGMENTATIONS["symbols"](half, VARIANT.preprocess, np.random.default_rng(seed))
        assert changed[:, 0].mean() < changed[:, -1].mean()


def test_loss_of_mixed_images_is_that_of_mixed_targets() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(6, 3, generator=generator), torch.tensor([0, 1, 2, 0, 1, 2])
    images = torch.randn(6, 1, 2, 2, generator=generator)
    mixture = mix(images, 0.2, np.random.default_rng(3))
    assert 0 < mixture.share < 1
    targets = F.one_hot(labels, 3).float()
    targets = mixture.share * targets + (1 - mixture.share) * targets[mixture.partners]
    expected = F.cross_entropy(logits, targets, label_smoothing=0.1)
    torch.testing.assert_close(mixed_loss(logits, labels, mixture, 0.1), expected)
    blend = mixture.share * images + (1 - mixture.share) * images[mixture.partners]
    torch.testing.assert_close(mixture.images, blend)


def test_no_mixing_leaves_images_and_loss_alone() -> None:
    images = torch.randn(4, 1, 2, 2)
    mixture: Mixture = mix(images, 0.0, np.random.default_rng(0))
    assert mixture.images is images
    assert mixture.share == 1.0


def test_learning_rate_rises_to_its_peak_and_falls_to_nearly_nothing() -> None:
    rates = [learning_rate_at(step, 200, RECIPE) for step in range(200)]
    peak = rates.index(max(rates))
    assert max(rates) == pytest.approx(RECIPE.learning_rate)
    assert peak in (19, 20)
    assert all(a < b for a, b in pairwise(rates[:20]))
    assert all(a > b for a, b in pairwise(rates[20:]))
    assert 0 < rates[-1] < 1e-3 * RECIPE.learning_rate
    assert learning_rate_at(0, 1, RECIPE) > 0


def test_average_forgets_its_random_start_soon() -> None:
    assert ema_decay_at(0, RECIPE) == 0.1
    assert ema_decay_at(10**6, RECIPE) == RECIPE.ema_decay


def test_only_matrices_and_kernels_decay() -> None:
    model = VisionTransformer.from_config(VARIANT.config)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, exempt = (
        {names[id(p)] for p in group["params"]}  # type: ignore[attr-defined]
        for group in parameter_groups(model, 0.05)
    )
    assert {"patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "head.weight"} <= decayed
    assert {"cls_token", "pos_embed", "norm.weight", "blocks.0.norm1.weight"} <= exempt
    assert all(name.endswith("weight") for name in decayed)
    assert decayed | exempt == set(names.values())


def test_batches_come_in_order_and_few_are_decoded_ahead() -> None:
    asked: list[int] = []

    def read(position: int) -> np.ndarray:
        asked.append(position)
        return np.full((1, 1, 1), position, dtype=np.uint8)

    batches = load_batches(np.array_split(np.arange(100), 10), read)
    positions, images = next(batches)
    assert images[:, 0, 0, 0].tolist() == positions.tolist() == list(range(10))
    assert len(asked) <= 30
    assert [int(chosen[0]) for chosen, _ in batches] == list(range(10, 100, 10))


def test_evaluation_counts_every_image_once(tmp_path: Path) -> None:
    data = find_files(write_classes(tmp_path / "d", {"red": 5, "blue": 8}))
    torch.manual_seed(0)
    model = VisionTransformer.from_config(VARIANT.config).eval()
    one, many = (evaluate(model, data, VARIANT.preprocess, batch) for batch in (1, 6))
    assert one == pytest.approx(many)


def write_and_fail(path: Path) -> None:
    with replace_file(path) as stream:
        stream.write(b"ne")
        raise RuntimeError("on the way")


def test_file_is_replaced_whole_or_stays(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with replace_file(path) as stream:
        stream.write(b"old")
    with pytest.raises(RuntimeError, match="on the way"):
        write_and_fail(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_head_of_the_same_names_is_kept_in_the_order_of_the_folders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    model = VisionTransformer.from_config(replace(VARIANT.config, num_classes=3))
    weights = tmp_path / "named.safetensors"
    weights.write_bytes(encode_checkpoint(model, VARIANT.preprocess, ("cat", "dog", "emu")))
    start = find_start(None, str(weights), None)
    kept = starting_model(start, ("dog", "emu", "cat"), 0)
    torch.testing.assert_close(kept.head.weight, model.head.weight[[1, 2, 0]])
    assert "new one" not in capsys.readouterr().err
    for others in (("ant", "dog", "emu"), ("cat", "dog")):
        assert not starting_model(start, others, 0).head.weight.any()
        assert "of other classes: a new one takes its place" in capsys.readouterr().err
