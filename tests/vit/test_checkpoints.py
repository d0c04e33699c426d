from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from runtime.errors import InputError
from vit.checkpoints import build_model, encode_checkpoint, read_checkpoint
from vit.vision_transformer import VisionTransformer


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


def test_what_does_not_fit_is_named(model: VisionTransformer) -> None:
    tensors = dict(model.state_dict())
    del tensors["norm.bias"]
    tensors["head.weight"] = torch.zeros(3, 3)
    tensors["extra"] = torch.zeros(1)
    with pytest.raises(InputError) as caught:
        build_model(model.config, tensors, "file")
    for words in ("norm.bias is missing", "extra is not expected", "head.weight is [3, 3]"):
        assert words in str(caught.value)
