"""Bad input is found before any work, and named."""

from __future__ import annotations

import argparse
import dataclasses
import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from vit_edge.export.data import find_data
from vit_edge.export.doors.own_weights import find_model_source
from vit_edge.export.plan import ExportRequest, make_plan, parse_target
from vit_edge.runtime.errors import BackendError, InputError
from vit_edge.vit.checkpoints import encode_checkpoint
from vit_edge.vit.hints import ModelHints
from vit_edge.vit.variants import find_variant
from vit_edge.vit.vision_transformer import VisionTransformer

MODEL = "vit_test_patch8_32"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model": "resnet50"}, "unknown model 'resnet50'"),
        ({"precisions": ("fp12",)}, "unknown precision 'fp12'"),
        ({"targets": ("tpu",)}, "unknown backend 'tpu'"),
        ({"weights": "none.safetensors"}, "no checkpoint file at none.safetensors"),
        ({"calibration": "nowhere"}, "no image folder and no .npz file at nowhere"),
        ({"max_batch": 0}, "--max-batch 0"),
        ({"calibration_size": 0}, "--calibration-size 0"),
        ({"max_drop": -1.0}, "--max-drop -1.0"),
        ({"method": "median"}, "unknown calibration method 'median'"),
        ({"facts": ModelHints(mean=(0.5,))}, "--mean, --std"),
        ({"facts": ModelHints(crop=0.0)}, "crop 0.0 is not between"),
        ({"facts": ModelHints(mean=(1e308, 0.5, 0.5))}, "is not on the 0-1 scale"),
        ({"facts": ModelHints(std=(1e-320, 1.0, 1.0))}, "is not positive and on the 0-1 scale"),
        ({"facts": ModelHints(crop_mode="border")}, "crop mode 'border' is none of"),
        ({"facts": ModelHints(interpolation="nearest")}, "interpolation 'nearest' is none of"),
        ({"facts": ModelHints(n_heads=7)}, "embed_dim 64 is not a multiple of n_heads 7"),
        ({"facts": ModelHints(img_size=(30, 32))}, "img_size 30 is not a multiple of patch_size 8"),
        (
            {"facts": ModelHints(labels=("cat", "dog"))},
            "--labels has 2 names, the model 10 classes",
        ),
        ({"outputs": {"tokens": None}}, "unknown output 'tokens'"),
        ({"facts": ModelHints(std=(0.0, 0.0, 0.0))}, "--mean, --std"),
        ({"calibration": "digits"}, "digits are 8x8"),
    ],
)
def test_bad_options_are_named(changes: dict[str, object], named: str, tmp_path: Path) -> None:
    options = {"model": MODEL, "out": tmp_path / "out", **changes}
    with pytest.raises(InputError) as caught:
        make_plan(ExportRequest(**options))  # type: ignore[arg-type]
    assert named in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_an_engine_that_cannot_be_built_here_is_refused(tmp_path: Path) -> None:
    from vit_edge.runtime.backends import BACKENDS

    if BACKENDS["tensorrt"].build_problem() is None:
        pytest.skip("full TensorRT works here")
    with pytest.raises(BackendError, match="cannot build for tensorrt"):
        make_plan(ExportRequest(model=MODEL, targets=("tensorrt",), out=tmp_path / "out"))


def test_target_names_gpus() -> None:
    assert parse_target("tensorrt-rtx:8.9,12.0").compute_capabilities == ("8.9", "12.0")
    assert str(parse_target("tensorrt-rtx:8.9,12.0")) == "tensorrt-rtx-sm89-sm120"


def test_random_weights_are_said_to_be_random(tmp_path: Path) -> None:
    plan = make_plan(ExportRequest(model=MODEL, out=tmp_path / "out"))
    assert plan.source.random
    assert "random weights" in plan.notes[0]


def test_a_timm_file_brings_its_architecture(model: VisionTransformer, tmp_path: Path) -> None:
    path = tmp_path / "timm.safetensors"
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path)
    source = find_model_source(None, str(path), None, ModelHints(), {})
    assert source.name == MODEL
    assert source.config == model.config
    assert any(line.startswith("n_heads 2") for line in source.assumed)
    assert any(line.startswith("mean") for line in source.assumed)


def test_normalisation_that_only_the_size_tells_is_asked_for_with_images(
    model: VisionTransformer, tmp_path: Path
) -> None:
    path, images = tmp_path / "timm.safetensors", tmp_path / "images.npz"
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path)
    np.savez(images, images=np.zeros((4, 32, 32, 3), np.uint8))
    request = ExportRequest(
        weights=str(path), calibration=str(images), targets=("onnxruntime",), out=tmp_path / "out"
    )
    with pytest.raises(InputError, match=r"give --mean and --std .*Or name the MODEL"):
        make_plan(request)
    facts = ModelHints(mean=(0.5,) * 3, std=(0.5,) * 3)
    for known in ({"model": MODEL}, {"facts": facts}):
        plan = make_plan(dataclasses.replace(request, **known))  # type: ignore[arg-type]
        assert plan.source.preprocess.mean == (0.5, 0.5, 0.5)


def test_weights_of_another_variant_are_refused(model: VisionTransformer, tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    state = {k: v.contiguous() for k, v in model.state_dict().items()}
    del state["blocks.1.norm1.weight"]
    save_file(state, path)
    with pytest.raises(InputError, match=r"1 missing \(blocks\.1\.norm1\.weight\)"):
        find_model_source(None, str(path), None, ModelHints(), {})
    state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"][:48].contiguous()
    save_file(state, path)
    with pytest.raises(InputError, match="width 48 and depth 2: give --heads"):
        find_model_source(None, str(path), None, ModelHints(), {})


def test_what_an_unknown_size_does_not_tell_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "odd.pth"
    model = VisionTransformer(img_size=32, patch_size=8, embed_dim=48, depth=1, n_heads=4)
    torch.save(model.state_dict(), path)
    with pytest.raises(InputError, match="width 48 and depth 1: give --heads"):
        find_model_source(None, str(path), None, ModelHints(), {})
    with pytest.raises(InputError, match="give --mean and --std"):
        find_model_source(None, str(path), None, ModelHints(n_heads=4), {})
    given = ModelHints(n_heads=4, mean=(0.5,) * 3, std=(0.5,) * 3)
    source = find_model_source(None, str(path), None, given, {})
    assert source.name == "odd"
    assert source.config == model.config
    assert "crop 1.0 (default)" in source.assumed


def test_a_model_that_the_weights_are_not_is_refused(
    model: VisionTransformer, tmp_path: Path
) -> None:
    path = tmp_path / "timm.pth"
    torch.save(model.state_dict(), path)
    with pytest.raises(InputError, match="of another model than vit_base_patch16_224"):
        find_model_source("vit_base_patch16_224", str(path), None, ModelHints(n_heads=2), {})
    config = tmp_path / "config.json"
    config.write_text('{"depth": 1000}')
    with pytest.raises(InputError, match="depth is 1000, the weights have 2 blocks"):
        find_model_source(None, str(path), config, ModelHints(), {})


@pytest.mark.parametrize("prefix", ["module.", "model.", "module._orig_mod.", "net."])
def test_what_frameworks_put_before_names_is_passed_over(
    prefix: str, model: VisionTransformer, tmp_path: Path
) -> None:
    path = tmp_path / "timm.PTH"
    state = {prefix + name: value for name, value in model.state_dict().items()}
    options = argparse.Namespace(epochs=3)
    torch.save({"state_dict": state, "args": options}, path)
    assert find_model_source(None, str(path), None, ModelHints(), {}).config == model.config


def test_own_file_brings_its_architecture(model: VisionTransformer, tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    path.write_bytes(encode_checkpoint(model))
    assert find_model_source(
        None, str(path), None, ModelHints(mean=(0.1, 0.2, 0.3)), {}
    ).preprocess.mean == (0.1, 0.2, 0.3)


def test_configuration_file_changes_the_variant(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"depth": 3, "img_size": 64}')
    source = find_model_source(MODEL, None, path, ModelHints(), {})
    assert (source.config.depth, source.preprocess.shape) == (3, (64, 64, 3))
    for bad in ('{"layers": 3}', "{", '{"n_heads": 5}', "[]"):
        path.write_text(bad)
        with pytest.raises(InputError, match="not a configuration"):
            find_model_source(MODEL, None, path, ModelHints(), {})


class TestData:
    preprocess = find_variant(MODEL).preprocess

    def find(self, calibration: str | None, evaluation: str | None = None, classes: int = 10):  # type: ignore[no-untyped-def]
        return find_data(calibration, evaluation, "samples", self.preprocess, classes, None, 4, 0)

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(len(str(path))).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)

    def test_nothing_named_means_photographs_kept_apart(self) -> None:
        data = self.find(None)
        assert "photographs (calibration)" in data.calibration.source
        assert "photographs (evaluation)" in data.evaluation.source

    def test_class_folders_are_labels(self, tmp_path: Path) -> None:
        for name in ("cat", "dog"):
            for index in range(6):
                self.save(tmp_path / name / f"{index}.png")
        data = self.find(str(tmp_path), classes=2)
        assert data.class_names == ("cat", "dog")
        assert set(data.calibration.indices).isdisjoint(data.evaluation.indices)
        assert len(data.calibration) == 4
        assert len(data.evaluation) == 8
        assert next(data.evaluation.batches(8)).shape == (8, 32, 32, 3)

    def test_folders_named_by_numbers_are_class_indices(self, tmp_path: Path) -> None:
        for name in ("3", "7"):
            for index in range(6):
                self.save(tmp_path / name / f"{index}.png")
        data = self.find(str(tmp_path))
        assert set(data.evaluation.label_list() or []) == {3, 7}

    def test_known_names_decide_and_an_order_that_nothing_states_is_assumed(
        self, tmp_path: Path
    ) -> None:
        for name in ("a_square", "b_circle"):
            for index in range(2):
                self.save(tmp_path / name / f"{index}.png")
        find = partial(find_data, "samples", str(tmp_path), "samples", self.preprocess, 2)
        with pytest.raises(InputError, match=r"a_square, b_circle.*circle, square.*--labels"):
            find(("circle", "square"), 4, 0)
        data = find(("circle", "square"), 4, 0, (("a_square", 1), ("b_circle", 0)))
        assert data.evaluation.label_list() == [1, 1, 0, 0]
        assert data.class_names == ("circle", "square")
        assert data.notes[0].endswith("as --labels maps them")
        data = find(None, 4, 0)
        assert data.class_names == ("a_square", "b_circle")
        assert "in the order of their names (assumed" in data.notes[0]

    def test_too_few_class_folders_are_refused(self, tmp_path: Path) -> None:
        for index in range(4):
            self.save(tmp_path / "cat" / f"{index}.png")
        with pytest.raises(InputError, match=r"1 class folders \(cat\), the model 10 classes"):
            self.find(str(tmp_path))

    def test_empty_folder_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="holds no images"):
            self.find(str(tmp_path))

    def test_folders_inside_class_folders_are_refused(self, tmp_path: Path) -> None:
        self.save(tmp_path / "cat" / "a.png")
        self.save(tmp_path / "cat" / "more" / "b.png")
        with pytest.raises(InputError, match="one level deep"):
            self.find(str(tmp_path), classes=1)

    def test_files_that_are_no_images_are_passed_over_and_counted(self, tmp_path: Path) -> None:
        for name in ("cat", "dog"):
            self.save(tmp_path / name / "a.png")
            (tmp_path / name / "Thumbs.db").touch()
        (tmp_path / "notes.txt").write_text("hello")
        data = self.find(str(tmp_path), classes=2)
        assert len(data.evaluation) == 1
        remark = "notes.txt and 2 more passed over, which are no images"
        assert data.evaluation.source == f"folder {tmp_path.name} ({remark})"

    @pytest.mark.parametrize("name", ["photo.heic", "photo.AVIF"])
    def test_images_of_another_kind_are_not_missed_in_silence(
        self, name: str, tmp_path: Path
    ) -> None:
        self.save(tmp_path / "a.png")
        (tmp_path / name).touch()
        with pytest.raises(InputError, match=rf"{name} is not an image that is read here"):
            self.find(str(tmp_path))

    def test_a_pipe_or_a_link_to_nothing_is_named(self, tmp_path: Path) -> None:
        self.save(tmp_path / "a.png")
        (tmp_path / "b.png").symlink_to(tmp_path / "nowhere.png")
        with pytest.raises(InputError, match=r"b\.png is not an image that is read"):
            self.find(str(tmp_path))
        (tmp_path / "b.png").unlink()
        os.mkfifo(tmp_path / "b.png")
        with pytest.raises(InputError, match=r"b\.png is not an image that is read"):
            self.find(str(tmp_path))

    def test_an_image_that_cannot_be_read_is_named(self, tmp_path: Path) -> None:
        self.save(tmp_path / "good.png")
        (tmp_path / "bad.png").write_bytes((tmp_path / "good.png").read_bytes()[:200])
        data = self.find(str(tmp_path))
        with pytest.raises(InputError, match=r"bad\.png is not a readable image"):
            [list(part.batches(4)) for part in (data.calibration, data.evaluation)]

    def test_hidden_files_are_passed_over(self, tmp_path: Path) -> None:
        for index in range(4):
            self.save(tmp_path / f"{index}.png")
        (tmp_path / ".DS_Store").touch()
        assert len(self.find(str(tmp_path)).evaluation) == 2

    def test_arrays_of_another_shape_or_type_are_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "data.npz"
        for images in (np.zeros((4, 32, 32, 1), np.uint8), np.zeros((4, 32, 32, 3), np.float32)):
            np.savez(path, images=images)
            with pytest.raises(InputError, match="the model takes uint8"):
                self.find(str(path))
        path.write_bytes(path.read_bytes()[:100])
        with pytest.raises(InputError, match=r"not an \.npz file"):
            self.find(str(path))

    def test_labels_beyond_the_model_are_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "data.npz"
        np.savez(path, images=np.zeros((4, 32, 32, 3), np.uint8), labels=np.array([0, 1, 2, 10]))
        with pytest.raises(InputError, match="labels from 0 to 10"):
            self.find("samples", str(path))


def test_a_gpu_that_the_library_does_not_know_is_refused(tmp_path: Path) -> None:
    from vit_edge.runtime.backends import BACKENDS

    problem = BACKENDS["tensorrt-rtx"].build_problem()
    if problem:
        pytest.skip(problem)
    request = ExportRequest(model=MODEL, targets=("tensorrt-rtx:9.9",), out=tmp_path / "out")
    with pytest.raises(InputError, match=r"no compute capability '9\.9'"):
        make_plan(request)


def test_one_folder_spelled_in_two_ways_is_split(tmp_path: Path) -> None:
    for index in range(6):
        Image.fromarray(np.full((40, 40, 3), index, np.uint8)).save(tmp_path / f"{index}.png")
    preprocess = find_variant(MODEL).preprocess
    twice = (str(tmp_path), f"{tmp_path}/../{tmp_path.name}/")
    data = find_data(*twice, "samples", preprocess, 10, None, 3, 0)
    assert set(data.calibration.indices).isdisjoint(data.evaluation.indices)
