"""What many tests share: one small model, exported once, and one bundle of it."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from filelock import FileLock

from vit_edge.calibration.collect import Calibration
from vit_edge.calibration.observers import DEFAULT_METHOD, CalibrationTable
from vit_edge.export.onnx_export import export_onnx
from vit_edge.export.passes import optimise
from vit_edge.export.pipeline import export_bundle
from vit_edge.export.plan import ExportRequest
from vit_edge.export.precision import PRECISIONS
from vit_edge.export.progress import Display
from vit_edge.runtime.tools.images import ImageSet
from vit_edge.vit.checkpoints import build_model, encode_checkpoint, read_checkpoint
from vit_edge.vit.datasets import digits, samples
from vit_edge.vit.training.digits import train_digits
from vit_edge.vit.variants import Variant, find_variant
from vit_edge.vit.vision_transformer import VisionTransformer

from .calibrate import calibrate
from .effort import ONE_CALL

MODEL = "vit_test_patch8_32"
Once = Callable[[str, Callable[[Path], None]], Path]
DEFAULT_CASES = {
    "test_fault_is_found_where_it_is": (
        "plain-fp32",
        "plain-fp16",
        "plain-int8",
    ),
    "test_no_false_alarm": ("digits",),
    "test_no_false_alarm_whatever_the_observer": ("digits",),
    "test_no_false_alarm_of_the_export": ("plain", "digits"),
    "test_plain_min_max_collapses_on_outliers": ("digits, outliers",),
    "test_a_fault_of_the_values_is_found_there": ("scale", "half a smoothing"),
    "test_constants_that_grow_with_the_batch": ("torchscript-17-dynamic",),
    "test_table_of_another_model": ("digits, outliers", "digits"),
    "test_table_from_before_fine_tuning": ("plain", "digits"),
    "test_graph_of_older_weights": ("int8",),
    "test_each_effect_is_that_of_the_part_alone": ("plain-int8", "plain-int8_attention"),
    "test_graph_gives_what_pytorch_gives": ("DINOv2 with registers and SwiGLU", "not square"),
    "test_last_block_computes_the_class_token_only": ("SwiGLU, class token",),
    "test_engines_are_built_in_every_precision": (),
    "test_one_row_makes_a_precision": ("precision1",),
    "test_a_module_that_normalises_itself_is_recognised": ("255.0",),
    "test_other_models_are_fused": ("timm", "vit eager"),
    "test_our_own_model_comes_back_as_we_export_it": ("dynamo-23-dynamic",),
    "test_nothing_but_data_is_needed": ("timm_file", "jax_file", "vit_folder", "clip_folder"),
    "test_plain": ("Ti/16", "B/32"),
    "test_vit": ("Ti/16", "B/32"),
    "test_jax": ("Ti/16",),
    "test_every_model_ends_as_expected": (),
    "test_a_good_build_raises_no_alarm": ("cait_xxs24_224",),
    "test_faults_are_found": (),
    "test_a_wrong_norm_in_16_bits_is_found": ("cait_xxs24_224",),
    "test_loading_needs_little_more_than_the_model": (),
    "test_a_merged_graph_computes_token_merging": ("class token", "distilled"),
    "test_other_libraries_models_are_merged": ("timm with registers", "torchvision"),
}
"""Cases that the default run takes of these tests, by how their ids begin; the others are slow."""


def pytest_configure(config: pytest.Config) -> None:
    """Leaves each of several workers one thread: those of one would wait for those of another."""
    if config.getoption("numprocesses", None):
        os.environ["OMP_NUM_THREADS"] = "1"  # of the workers, which start later


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what is left to `make slow`, and puts the files first that need the shared bundle: of
    two workers, which begin at the start and in the middle, the second would wait for it.
    """
    early = {item.path for item in items if "bundle_source" in getattr(item, "fixturenames", ())}
    items.sort(key=lambda item: item.path not in early)
    for item in items:
        cases = DEFAULT_CASES.get(getattr(item, "originalname", item.name))
        case = item.name.partition("[")[2].removesuffix("]")
        if cases is not None and not any(f"{case}-".startswith(f"{first}-") for first in cases):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def _homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A place for each test. `mktemp` would look at all earlier ones each time."""
    folder = tmp_path_factory.mktemp("homes")
    return (folder / str(number) for number in count())


@pytest.fixture(autouse=True)
def _own_device_cache(_homes: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's cache, or what the user's device has seen."""
    home = next(_homes)
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "state"))


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Fills a folder by its name, in one of the workers: the others wait for it and read it."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def fill(name: str, build: Callable[[Path], None]) -> Path:
        folder = shared / name
        with FileLock(f"{folder}.lock"):
            if not (finished := shared / f"{name}.finished").exists():
                folder.mkdir(exist_ok=True)
                build(folder)
                finished.touch()
        return folder

    return fill


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, as in a terminal: jobs in the background ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def _little_effort(monkeypatch: pytest.MonkeyPatch) -> None:
    """A first load measures each engine, and `compare` profiles slow ones: few calls do here."""
    monkeypatch.setattr("vit_edge.runtime.metrics.QUICK", ONE_CALL)
    monkeypatch.setattr("vit_edge.runtime.tools.compare.run.PROFILE_SECONDS", 0.0)


@pytest.fixture(scope="session")
def variant() -> Variant:
    return find_variant(MODEL)


@pytest.fixture(scope="session")
def model(variant: Variant) -> VisionTransformer:
    """Random weights, biases and LayerNorms too, so that a lost one shows."""
    torch.manual_seed(0)
    vit = VisionTransformer.from_config(variant.config).eval()
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return vit


@pytest.fixture(scope="session")
def photographs(variant: Variant) -> ImageSet:
    return samples("evaluation", variant.preprocess)


@pytest.fixture(scope="session")
def exported(model: VisionTransformer, variant: Variant) -> ir.Model:
    """As the exporter wrote it. Tests that change it clone it."""
    return export_onnx(model, variant.preprocess, "logits")


@pytest.fixture(scope="session")
def optimised(exported: ir.Model) -> ir.Model:
    clone = ir.from_proto(ir.to_proto(exported))
    optimise(clone)
    return clone


@pytest.fixture(scope="session")
def calibration(optimised: ir.Model, variant: Variant) -> Calibration:
    images = samples("calibration", variant.preprocess).subset(range(32))
    return calibrate(optimised, images, DEFAULT_METHOD, tuple(PRECISIONS))


@pytest.fixture(scope="session")
def table(calibration: Calibration) -> CalibrationTable:
    return calibration.table


@pytest.fixture(scope="session")
def digits_weights(once: Once) -> Path:
    """The default model, trained as users train it."""

    def train(folder: Path) -> None:
        model = train_digits(0, lambda done, total: None)
        (folder / "digits.safetensors").write_bytes(encode_checkpoint(model))

    return once("weights", train) / "digits.safetensors"


@pytest.fixture(scope="session")
def digits_model(digits_weights: Path) -> VisionTransformer:
    tensors = read_checkpoint(digits_weights).tensors
    return build_model(find_variant("vit_digits").config, tensors, digits_weights.name)


@pytest.fixture(scope="session")
def bundle_source(once: Once, digits_weights: Path) -> Path:
    """A bundle of the digits model: every precision, every engine that can be built here."""

    def export(folder: Path) -> None:
        out = folder / "digits"
        request = ExportRequest(weights=str(digits_weights), out=out, max_batch=4, timing=ONE_CALL)
        assert export_bundle(request, Display()).good

    return once("bundle", export) / "digits"


@pytest.fixture
def bundle(bundle_source: Path, tmp_path: Path) -> Path:
    """A copy of the bundle that a test may damage."""
    return Path(shutil.copytree(bundle_source, tmp_path / "bundle"))


@pytest.fixture
def frames(photographs: ImageSet) -> np.ndarray:
    return next(photographs.batches(6))


@pytest.fixture(scope="session")
def digit_frames() -> np.ndarray:
    """Held-back digits, as the bundle's engines take them."""
    return next(digits("evaluation", find_variant("vit_digits").preprocess).batches(10))
