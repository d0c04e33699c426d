"""The C++ client gives the very bits that Python's engine and preprocessing give, and refuses what
they refuse.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.effort import ONE_CALL
from tests.runtime.test_bundle import replace_file, rewrite_manifest, write_manifest
from tests.runtime.test_preprocess_parity import NOTHING, PICTURES, photograph
from vit_edge.export.pipeline import export_bundle
from vit_edge.export.plan import ExportRequest
from vit_edge.export.progress import Display
from vit_edge.runtime.backends import find_backend
from vit_edge.runtime.bundle import Bundle
from vit_edge.runtime.engine import Engine
from vit_edge.runtime.manifest import MANIFEST, SCHEMA_VERSION
from vit_edge.runtime.preprocess import INTERPOLATIONS, Preprocess

from .pictures import write_pictures

pytestmark = pytest.mark.slow

SOURCE = Path(__file__).parents[2] / "clients" / "cpp"
LARGE = "vit_tiny_patch16_224"
"""Large enough that its Linears are convolutions in OpenVINO."""
BACKENDS = ("openvino", "onnxruntime")
Once = Callable[[str, Callable[[Path], None]], Path]
Run = Callable[..., subprocess.CompletedProcess[str]]


def _locations() -> list[str]:
    """CMake's options that say where Python's packages have their libraries."""
    options = []
    if (openvino := importlib.util.find_spec("openvino")) and openvino.origin:
        options.append(f"-DOpenVINO_DIR={Path(openvino.origin).parent / 'cmake'}")
    if (runtime := importlib.util.find_spec("onnxruntime")) and runtime.origin:
        options.append(f"-DONNXRUNTIME_LIBRARY_DIR={Path(runtime.origin).parent / 'capi'}")
    return options


@pytest.fixture(scope="session")
def binaries(once: Once) -> Path:
    """The folder with the built programs; skips with the reason where they cannot be built."""
    pytest.importorskip("openvino")
    for tool in ("cmake", "c++"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed: see docs/cpp.md")

    def build(folder: Path) -> None:
        extra = os.environ.get("VIT_EDGE_CPP_OPTIONS", "").split()
        options = ["-DVIT_EDGE_TESTS=ON", *_locations(), *extra]
        configured = subprocess.run(
            ["cmake", "-S", SOURCE, "-B", folder / "build", *options],
            capture_output=True,
            text=True,
        )
        if configured.returncode:
            (folder / "problem").write_text(configured.stderr)
            return
        command = ["cmake", "--build", folder / "build"]
        built = subprocess.run(command, capture_output=True, text=True)
        assert built.returncode == 0, built.stderr

    folder = once("cpp", build)
    if (folder / "problem").exists():
        pytest.skip(f"a library is missing, see docs/cpp.md: {(folder / 'problem').read_text()}")
    return folder / "build"


@pytest.fixture
def run(binaries: Path) -> Run:
    def call(*arguments: Any) -> subprocess.CompletedProcess[str]:
        command = [binaries / "vit-edge-run", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=300)

    return call


@pytest.fixture
def probe(binaries: Path) -> Callable[[list[str]], list[str]]:
    """Runs jobs, one a line, in one process; returns its answers. A crash fails the test."""

    def ask(jobs: list[str]) -> list[str]:
        done = subprocess.run(
            [binaries / "vit-edge-probe"], input="\n".join(jobs), capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        answers = done.stdout.splitlines()
        assert len(answers) == len(jobs)
        return answers

    return ask


@pytest.fixture(scope="session")
def large_bundle(once: Once) -> Path:
    def export(folder: Path) -> None:
        request = ExportRequest(
            name=LARGE,
            weights="random",
            out=folder / "large",
            precisions=("fp32", "int8"),
            method="minmax",
            calibration_size=16,
            max_batch=4,
            effort="fast",
            timing=ONE_CALL,
        )
        assert export_bundle(request, Display()).good

    return once("large", export) / "large"


def outputs_in_python(bundle: Path, precision: str, backend: str, frames: np.ndarray) -> np.ndarray:
    """Outputs of the frames, in calls of as many as the client runs at a time."""
    with Engine.load(bundle, precision, backend) as engine:
        if backend == "onnxruntime":
            return np.asarray(engine(frames))
        return np.concatenate([engine(frame[None]) for frame in frames])


def pairs_that_run(bundle: Path) -> list[tuple[str, str]]:
    """Precisions and backends of a bundle on a CPU."""
    precisions = Bundle.open(bundle).manifest.precisions
    return [
        (precision, name)
        for precision, entry in precisions.items()
        for name in BACKENDS
        if "cpu" in entry.graphs and precision not in find_backend(name).lacks
    ]


def require_same_outputs(run: Run, bundle: Path, folder: Path, samples: int | str) -> None:
    golden = Bundle.open(bundle).golden()
    frames = golden.images if samples == "all" else golden.images[:samples]
    compared = 0
    for precision, backend in pairs_that_run(bundle):
        out = folder / f"{precision}.{backend}.npy"
        chosen = ("--precision", precision, "--backend", backend)
        done = run(bundle, *chosen, "--golden", samples, "--outputs", out)
        if "this build has no backend" in done.stderr:
            continue
        assert done.returncode == 0, done.stderr
        assert f"golden check passed, {len(frames)} samples" in done.stdout
        expected = outputs_in_python(bundle, precision, backend, frames)
        np.testing.assert_array_equal(np.load(out).view(np.uint32), expected.view(np.uint32))
        compared += 1
    assert compared


def test_outputs_are_the_bits_of_pythons_engine(run: Run, bundle: Path, tmp_path: Path) -> None:
    require_same_outputs(run, bundle, tmp_path, "all")


def test_outputs_of_a_larger_model_too(run: Run, large_bundle: Path, tmp_path: Path) -> None:
    require_same_outputs(run, large_bundle, tmp_path, 6)


def test_top_k_is_that_of_python(run: Run, bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    paths = write_pictures(folder)
    done = run("--precision", "fp32", "--top", 3, "--json", bundle, *paths)
    assert done.returncode == 0, done.stderr
    *rows, end = map(json.loads, done.stdout.splitlines())
    with Engine.load(bundle, "fp32", "openvino") as engine:
        for path, row in zip(paths, rows, strict=True):
            answers = engine.top(engine(engine.preprocess.read(path)[None])[0], 3)
            assert row["image"] == str(path)
            assert [label for label, _ in row["top3"]] == [a.label for a in answers]
            np.testing.assert_allclose(
                [p for _, p in row["top3"]], [a.probability for a in answers], rtol=1e-12
            )
    assert (end["images"], end["failed"]) == (len(paths), 0)
    assert end["engine"]["precision"] == "fp32"


def frame_job(path: Path, out: Path, p: Preprocess) -> str:
    size = f"{p.height} {p.width} {p.channels} {p.crop!r}"
    return f"frame {path} {out} {size} {p.interpolation} {p.crop_mode}"


def require_same_frames(
    probe: Any, folder: Path, paths: list[Path], kinds: list[Preprocess]
) -> None:
    jobs = [(path, p) for path in paths for p in kinds]
    outs = [folder / f"{index}.npy" for index in range(len(jobs))]
    answers = probe([frame_job(path, out, p) for (path, p), out in zip(jobs, outs, strict=True)])
    for (path, p), out, answer in zip(jobs, outs, answers, strict=True):
        assert answer == "ok", (path, p)
        expected = p.read(path)
        np.testing.assert_array_equal(np.load(out), expected, err_msg=f"{path} {p}")


def grey(height: int, width: int, crop: float, kind: str, mode: str) -> Preprocess:
    return Preprocess(height, width, 1, crop, kind, (0.0,), (1.0,), mode)


def test_photographs_become_the_same_frames(probe: Any, tmp_path: Path) -> None:
    """Those of the parity tests, by every interpolation, crop and mode."""
    (tmp_path / "pictures").mkdir()
    paths = []
    for name in PICTURES:
        paths.append(tmp_path / "pictures" / f"{name}.png")
        photograph(name).save(paths[-1], compress_level=1)
    sizes = [((96, 96), 0.8), ((224, 224), 0.875), ((97, 97), 0.9), ((96, 96), 1.0)]
    sizes += [((160, 224), 0.95), ((224, 159), 0.875), ((95, 160), 1.0), ((95, 95), 95 / 97)]
    kinds = [
        Preprocess(*size, 3, crop, kind, *NOTHING, mode)
        for size, crop in sizes
        for kind in INTERPOLATIONS
        for mode in ("center", "center_floor", "squash")
    ]
    kinds += [grey(96, 96, 0.9, kind, "center") for kind in INTERPOLATIONS]
    require_same_frames(probe, tmp_path, paths, kinds)


def test_files_of_every_form_become_the_same_frames(probe: Any, tmp_path: Path) -> None:
    """All EXIF orientations, modes of Pillow, ways to write a JPEG."""
    (tmp_path / "pictures").mkdir()
    paths = write_pictures(tmp_path / "pictures")
    kinds = [
        Preprocess(32, 32, 3, 0.875, "bicubic", *NOTHING),
        Preprocess(23, 37, 3, 1.0, "bilinear", *NOTHING, "squash"),
        grey(28, 28, 0.9, "lanczos", "center_floor"),
        grey(8, 8, 1.0, "box", "center"),
    ]
    require_same_frames(probe, tmp_path, paths, kinds)


def test_what_is_no_picture_is_refused_by_name(run: Run, bundle: Path, tmp_path: Path) -> None:
    good, text = tmp_path / "good.png", tmp_path / "text.png"
    photograph("small").save(good)
    text.write_text("no picture")
    os.mkfifo(tmp_path / "pipe.png")
    for name, reason in (
        ("missing.png", "there is no image"),
        ("text.png", "neither JPEG nor PNG"),
        ("pipe.png", "is not a file"),
    ):
        done = run(bundle, tmp_path / name)
        assert done.returncode == 2
        assert name in done.stderr
        assert reason in done.stderr
    assert run(bundle, good, text).returncode == 1


@pytest.mark.parametrize("form", ["png", "jpg"])
def test_a_cut_picture_is_refused(probe: Any, tmp_path: Path, form: str) -> None:
    whole = tmp_path / f"whole.{form}"
    photograph("small").save(whole)
    data = whole.read_bytes()
    paths = []
    for share in (0.05, 0.3, 0.6, 0.9):
        paths.append(tmp_path / f"{share}.{form}")
        paths[-1].write_bytes(data[: int(share * len(data))])
    answers = probe([f"picture {path}" for path in [whole, *paths]])
    assert answers[0] == "ok"
    assert all(answer.startswith("error:") for answer in answers[1:])


def require_refused(run: Run, bundle: Path, reason: str, status: int = 2) -> None:
    done = run("--precision", "fp32", bundle)
    assert done.returncode == status, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert reason in done.stderr


def test_altered_cut_and_missing_files_are_refused(run: Run, bundle: Path) -> None:
    for name in (MANIFEST, "manifest.sha256", "golden.npz", "onnx/fp32.onnx"):
        path = bundle / name
        whole = path.read_bytes()
        altered = bytearray(whole)
        altered[len(whole) // 2] ^= 1
        path.write_bytes(altered)
        require_refused(run, bundle, "was altered")
        path.write_bytes(whole[:-1])
        require_refused(run, bundle, "was altered" if "manifest" in name else "is truncated")
        path.unlink()
        require_refused(run, bundle, f"{name} is missing")
        (bundle / "kept").write_bytes(whole)
        path.symlink_to(bundle / "kept")
        require_refused(run, bundle, "is not a regular file")
        path.unlink()
        path.write_bytes(whole)
    assert run("--precision", "fp32", bundle).returncode == 0
    require_refused(run, bundle / "nowhere", "there is no bundle")


def test_other_schemas_are_refused(run: Run, bundle: Path) -> None:
    def version(number: Any) -> Callable[[dict[str, Any]], None]:
        return lambda manifest: manifest.update(schema_version=number)

    rewrite_manifest(bundle, version(SCHEMA_VERSION + 1))
    require_refused(run, bundle, "made by a newer vit-edge")
    for other in (2, "7", True, 7.0, None):
        rewrite_manifest(bundle, version(other))
        require_refused(run, bundle, f"reads 3 to {SCHEMA_VERSION}")


def test_a_schema_3_bundle_is_read(run: Run, bundle: Path) -> None:
    def age(manifest: dict[str, Any]) -> None:
        manifest["schema_version"] = 3
        spec = manifest["spec"]
        (output,) = spec["outputs"]
        spec["output_name"], spec["outputs"] = output["name"], output["shape"][0]
        for precision in manifest["precisions"].values():
            for graph in precision["graphs"].values():
                for measure in ("accuracy", "rms_tolerance"):
                    graph[measure] = graph[measure][output["name"]]

    rewrite_manifest(bundle, age)
    Bundle.open(bundle)
    assert run("--precision", "fp32", bundle).returncode == 0


def test_what_python_refuses_in_a_manifest_is_refused(run: Run, bundle: Path) -> None:
    text = (bundle / MANIFEST).read_text()
    name = '"name": "vit_digits"'
    assert name in text
    for old, new in (
        (name, f'{name}, "more": 1'),
        (name, f"{name}, {name}"),
        (name, '"name": "a\\u001bb"'),
        (name, '"name": 3'),
        ('"onnx/fp32.onnx"', '"../fp32.onnx"'),
        ('"golden.npz"', '"golden.npy"'),
        ('"file": "statistics.npz"', '"file": "statistics.npy"'),
    ):
        changed = text.replace(old, new)
        assert changed != text, old
        write_manifest(bundle, changed.encode())
        require_refused(run, bundle, "manifest.json is not valid")


def test_wrong_golden_answers_are_a_miss(run: Run, bundle: Path, tmp_path: Path) -> None:
    golden = dict(np.load(bundle / "golden.npz"))
    golden["logits"] = golden["logits"][:, ::-1].copy()
    np.savez_compressed(tmp_path / "golden.npz", **golden)
    replace_file(bundle, "golden.npz", (tmp_path / "golden.npz").read_bytes())
    require_refused(run, bundle, "failed the golden check", status=1)


def test_golden_samples_of_another_form_are_refused(run: Run, bundle: Path, tmp_path: Path) -> None:
    golden = dict(np.load(bundle / "golden.npz"))
    images = golden["images"]
    for changes, reason in (
        ({"images": images.astype(np.int16)}, "does not fit the manifest"),
        ({"images": images[:, :4]}, "does not fit the manifest"),
        ({"images": np.asfortranarray(images)}, "header"),
        ({"images": images[:-1]}, "images"),
        ({"more": images}, "does not belong"),
    ):
        np.savez(tmp_path / "golden.npz", **(golden | changes))
        replace_file(bundle, "golden.npz", (tmp_path / "golden.npz").read_bytes())
        require_refused(run, bundle, reason)


def test_a_graph_that_reads_other_files_is_refused(run: Run, bundle: Path) -> None:
    import onnx

    model = onnx.load(bundle / "onnx/fp32.onnx")
    tensor = model.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../secret")
    replace_file(bundle, "onnx/fp32.onnx", model.SerializeToString())
    require_refused(run, bundle, "reads '../../secret', which the manifest does not list")


def test_bad_arguments_are_refused(run: Run, bundle: Path) -> None:
    for arguments, reason in (
        ([], "no bundle is given"),
        (["--top", "0", bundle], "--top 0"),
        (["--precision", "int3", bundle], "no precision int3"),
        (["--backend", "abacus", bundle], "no backend abacus"),
        (["--colour", bundle], "unknown option --colour"),
        ([bundle, "--top"], "--top needs a value"),
    ):
        done = run(*arguments)
        assert done.returncode == 2
        assert reason in done.stderr


def damaged(data: bytes, rng: np.random.Generator, count: int) -> list[bytes]:
    """The data cut at places, and with a few bits flipped."""
    copies = [data[: int(end)] for end in rng.integers(0, len(data), count)]
    for _ in range(count):
        array = np.frombuffer(data, np.uint8).copy()
        for place in rng.integers(0, min(len(data), 4096), rng.integers(1, 4)):
            array[place] ^= np.uint8(1 << rng.integers(0, 8))
        copies.append(array.tobytes())
    return copies


def test_damaged_bytes_never_crash_a_reader(probe: Any, bundle: Path, tmp_path: Path) -> None:
    """The readers themselves, behind the hashes that refuse such files anyway."""
    rng = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    small = photograph("tiny").resize((20, 12))
    small.save(tmp_path / "a.png")
    small.save(tmp_path / "a.jpg", exif=Image.Exif())
    sources = {
        "manifest": (bundle / MANIFEST, ""),
        "golden": (bundle / "golden.npz", " 8 8 1 10"),
        "onnx": (bundle / "onnx/int8.onnx", ""),
        "picture": (tmp_path / "a.png", ""),
    }
    jobs, cut = [], []
    for job, (source, rest) in sources.items():
        for index, data in enumerate(damaged(source.read_bytes(), rng, 150)):
            path = tmp_path / f"{job}{index}"
            path.write_bytes(data)
            jobs.append(f"{job} {path}{rest}")
            cut.append(index < 150 and job in ("manifest", "golden", "picture"))
    for index, data in enumerate(damaged((tmp_path / "a.jpg").read_bytes(), rng, 150)):
        (tmp_path / f"jpeg{index}").write_bytes(data)
        jobs.append(f"picture {tmp_path / f'jpeg{index}'}")
        cut.append(False)
    answers = probe(jobs)
    assert all(answer == "ok" or answer.startswith("error: ") for answer in answers)
    for job, answer, is_cut in zip(jobs, answers, cut, strict=True):
        assert answer != "ok" or not is_cut, job
