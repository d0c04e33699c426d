from __future__ import annotations

import contextlib
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from vit_edge.runtime.errors import InputError
from vit_edge.runtime.preprocess import Preprocess
from vit_edge.vit.checkpoints import build_model, encode_checkpoint, read_checkpoint
from vit_edge.vit.checkpoints.formats import CONFIG_KEY
from vit_edge.vit.hints import IMAGENET
from vit_edge.vit.vision_transformer import VisionTransformer


def test_own_checkpoint_brings_weights_and_architecture(
    model: VisionTransformer, tmp_path: Path
) -> None:
    path = tmp_path / "own.safetensors"
    path.write_bytes(encode_checkpoint(model))
    checkpoint = read_checkpoint(path)
    assert checkpoint.config == model.config
    again = build_model(model.config, checkpoint.tensors, "own")
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_timm_files_are_plain_state_dicts(
    model: VisionTransformer, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"timm{suffix}"
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    if suffix == ".pth":
        torch.save({"state_dict": state}, path)
    else:
        save_file(state, path, {"format": "pt"})
    checkpoint = read_checkpoint(path)
    assert checkpoint.config is None
    assert checkpoint.naming == "timm"
    build_model(model.config, checkpoint.tensors, "timm")


def test_code_in_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "executed"),)

    path = tmp_path / "trap.pth"
    path.write_bytes(pickle.dumps({"state_dict": Trap()}))
    with pytest.raises(InputError, match="refused"):
        read_checkpoint(path)
    assert not (tmp_path / "executed").exists()


def test_code_in_a_torch_archive_is_refused_and_not_run(tmp_path: Path) -> None:
    path = tmp_path / "trap.pth"
    torch.save({"weights": _Trap(str(tmp_path / "executed"))}, path)
    with pytest.raises(InputError, match="refused"):
        read_checkpoint(path)
    assert not (tmp_path / "executed").exists()


class _Trap:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_truncated_file_is_an_input_error(
    model: VisionTransformer, tmp_path: Path, suffix: str, share: float
) -> None:
    path = tmp_path / f"cut{suffix}"
    if suffix == ".pth":
        torch.save(model.state_dict(), path)
    else:
        path.write_bytes(encode_checkpoint(model))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(InputError, match="cut"):
        read_checkpoint(path)


def test_missing_file_and_unknown_suffix_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no checkpoint file"):
        read_checkpoint(tmp_path / "none.safetensors")
    (tmp_path / "model.h5").touch()
    with pytest.raises(InputError, match=r"\.h5"):
        read_checkpoint(tmp_path / "model.h5")


def test_header_brings_preprocessing_and_labels(model: VisionTransformer, tmp_path: Path) -> None:
    preprocess = Preprocess(32, 32, 3, 0.8, "box", *IMAGENET, "squash")
    path, labels = tmp_path / "own.safetensors", tuple("abcdefghij")
    path.write_bytes(encode_checkpoint(model, preprocess, labels))
    hints = read_checkpoint(path).hints
    assert (hints.mean, hints.std) == IMAGENET
    assert (hints.crop, hints.crop_mode, hints.interpolation) == (0.8, "squash", "box")
    assert hints.labels == labels


@pytest.mark.parametrize("entry", ["{", "[]", '{"depth": -1}', "[" * 100_000])
def test_a_damaged_header_is_an_input_error(
    model: VisionTransformer, tmp_path: Path, entry: str
) -> None:
    path = tmp_path / "own.safetensors"
    save_file(dict(model.state_dict()), path, {CONFIG_KEY: entry})
    with pytest.raises(InputError, match="vit_edge entries are not valid"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ({"patch_embed.proj.weight": torch.zeros(2, dtype=torch.int32)}, "int32"),
        ({"patch_embed.proj.weight": torch.zeros(2, dtype=torch.complex64)}, "complex64"),
        ({"patch_embed.proj.weight": torch.zeros(2, 2).to_sparse()}, "sparse"),
        ({"patch_embed.proj.weight": torch.zeros(2, device="meta")}, "without data"),
        ({3: torch.zeros(2)}, "no state_dict of tensors"),
        ([torch.zeros(2)], "no state_dict of tensors"),
        ({"conv1.weight": torch.zeros(2)}, "does not look like a ViT"),
        ({}, "does not look like a ViT"),
    ],
)
def test_what_is_no_dense_float_tensor_of_a_vit_is_named(
    value: object, named: str, tmp_path: Path
) -> None:
    path = tmp_path / "odd.pth"
    torch.save(value, path)
    with pytest.raises(InputError, match=named):
        read_checkpoint(path)


class TestNpz:
    def write(self, path: Path, **arrays: np.ndarray) -> Path:
        np.savez_compressed(path, **arrays)
        return path

    def test_pickled_objects_are_refused(self, tmp_path: Path) -> None:
        path = self.write(tmp_path / "jax.npz", **{"embedding/kernel": np.array([{}], object)})
        with pytest.raises(InputError, match=r"not a whole \.npz"):
            read_checkpoint(path)

    @pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
    def test_truncation(self, share: float, tmp_path: Path) -> None:
        path = self.write(tmp_path / "jax.npz", **{"embedding/kernel": np.ones((8, 8, 3, 64))})
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
        with pytest.raises(InputError, match=r"jax\.npz"):
            read_checkpoint(path)

    def test_every_damaged_byte_is_an_input_error_or_harmless(self, tmp_path: Path) -> None:
        path = self.write(tmp_path / "jax.npz", **{"embedding/kernel": np.arange(64.0)})
        whole = path.read_bytes()
        for index in range(len(whole)):
            path.write_bytes(whole[:index] + bytes([whole[index] ^ 0xFF]) + whole[index + 1 :])
            with contextlib.suppress(InputError):
                read_checkpoint(path)

    def test_a_huge_claim_is_an_input_error(self, tmp_path: Path) -> None:
        header = "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }"
        text = header.ljust(117) + "\n"
        member = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()
        with zipfile.ZipFile(tmp_path / "jax.npz", "w") as archive:
            archive.writestr("embedding/kernel.npy", member)
        with pytest.raises(InputError, match=r"jax\.npz"):
            read_checkpoint(tmp_path / "jax.npz")
