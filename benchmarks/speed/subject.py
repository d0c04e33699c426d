"""A model's files, which every contender runs, calibrates and is judged by; made once and kept."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from vit_edge.calibration.onnx_file import save_onnx
from vit_edge.export.onnx_export import OPSET, export_onnx
from vit_edge.export.passes import optimise
from vit_edge.export.pipeline import export_bundle
from vit_edge.export.plan import ExportRequest
from vit_edge.export.progress import Display
from vit_edge.vit.config import ViTConfig
from vit_edge.vit.datasets import samples
from vit_edge.vit.variants import find_variant
from vit_edge.vit.vision_transformer import VisionTransformer

from ..contest import quantised
from .contenders import TYPES, Contender

CALIBRATION_IMAGES = EVALUATION_IMAGES = 32
_IMAGES = {"calibration": CALIBRATION_IMAGES, "evaluation": EVALUATION_IMAGES}
_SEED = 0


@dataclass(frozen=True)
class Subject:
    """A variant with random weights: no trained ones come without a download, and time does not
    depend on them.

    Attributes:
        variant: Its name.
        cache: Folder of all models' files.
    """

    variant: str
    cache: Path

    @property
    def folder(self) -> Path:
        """Folder of `weights.pt`, the frames (uint8 `[N, height, width, channels]`) as
        `evaluation.npy` and `calibration.npy`, and as `.npz` for `vit-edge export`; `plain.onnx`,
        `graph.onnx` and `bundle`.
        """
        return self.cache.absolute() / "speed" / self.variant

    @cached_property
    def config(self) -> ViTConfig:
        return find_variant(self.variant).config

    def prepare(self, display: Display) -> None:
        """Makes the files that are missing, or were made by other sources."""
        self.folder.mkdir(parents=True, exist_ok=True)
        stamp, digest = self.folder / "made-by.txt", sources_digest()
        if not stamp.exists() or stamp.read_text() != digest:
            with display.stage(f"{self.variant}: model files"):
                self._write_files()
            stamp.write_text(digest)
        request = ExportRequest(
            model=self.variant, precisions=TYPES, targets=(), seed=_SEED,
            calibration=str(self.folder / "calibration.npz"),
            evaluation=str(self.folder / "evaluation.npz"),
            out=self.folder / "bundle", calibration_size=CALIBRATION_IMAGES,
        )  # fmt: skip
        if not export_bundle(request, display):
            raise RuntimeError(f"{self.variant}: our bundle did not meet its budgets")

    def _write_files(self) -> None:
        preprocess = find_variant(self.variant).preprocess
        for split, count in _IMAGES.items():
            images = next(samples(split, preprocess).batches(count))
            np.savez(self.folder / f"{split}.npz", images=images)
            np.save(self.folder / f"{split}.npy", images)
        model = _draw(self.config)
        torch.save(model.state_dict(), self.folder / "weights.pt")
        graph = export_onnx(model, preprocess, "logits")
        optimise(graph)
        save_onnx(graph, self.folder / "graph.onnx")
        _export_plain(model, self.folder / "plain.onnx")

    def file_of(self, contender: Contender) -> Path:
        """Returns the file that a contender runs; its quantiser runs first if it has not yet.

        Raises:
            RuntimeError: if the quantiser fails.
        """
        if contender.is_ours:
            return self.folder / "bundle"
        if contender.entrant is None:
            return self.folder / "plain.onnx"
        made = quantised(
            contender.entrant,
            self.folder / "graph.onnx",
            self.folder / "calibration.npy",
            self.cache,
        )
        if made.error is not None:
            raise RuntimeError(made.error)
        return made.file


def macs(config: ViTConfig) -> int:
    """Counts the multiply-adds of one image in the paper's model: matrix products alone.

    Ours and the quantisers' run fewer: in the last block only the class token's are needed.
    """
    patches, dim = config.num_patches, config.embed_dim
    tokens = patches + config.embedding.prefix_tokens
    embedding = patches * config.patch_size**2 * config.in_channels * dim
    linears = tokens * dim * (3 * dim + dim + 2 * config.mlp_dim)
    attention = 2 * tokens**2 * dim
    return embedding + config.depth * (linears + attention) + dim * config.num_classes


def _draw(config: ViTConfig) -> VisionTransformer:
    """Draws the same weights as `vit-edge export` from the same seed."""
    torch.manual_seed(_SEED)
    return VisionTransformer.from_config(config).eval()


def _export_plain(model: VisionTransformer, file: Path) -> None:
    """Exports the model by PyTorch's exporter: normalised float32 `[batch, channels, height,
    width]` in.

    Source: torch.onnx.export(dynamo=True).
    """
    config = model.config
    example = torch.zeros(2, config.in_channels, *config.image_size)
    torch.onnx.export(
        model, (example,), file, dynamo=True, opset_version=OPSET, external_data=False,
        dynamic_shapes=({0: torch.export.Dim("batch")},), verbose=False,
    )  # fmt: skip


def sources_digest(*others: Path) -> str:
    """Hashes all sources that a model's files depend on: our packages, this file, and `others`."""
    folders = map(Path, ("calibration", "export", "runtime", "vit"))
    files = [file for folder in folders for file in sorted(folder.rglob("*.py"))]
    state = hashlib.sha256()
    for file in [*files, Path(__file__), *others]:
        state.update(os.fsencode(file.name) + file.read_bytes())
    return state.hexdigest()
