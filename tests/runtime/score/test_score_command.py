"""`vit-edge score`: every image is a row, with the engine's outputs, whatever form they come in."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vit_edge.runtime import Bundle, Engine

from .rig import ENGINE, ROOT, column, parts, read, score, write_images

COUNT = 21


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_images(tmp_path_factory.mktemp("images"), COUNT)


@pytest.fixture
def folder(images: list[Path]) -> Path:
    return images[0].parent


def expected(bundle: Path, images: list[Path]) -> tuple[np.ndarray, list[list[tuple[int, float]]]]:
    """Logits, and the classes by falling probability, image by image."""
    with Engine.load(bundle, "fp32", "onnxruntime", threads=1) as engine:
        logits = np.concatenate([engine(engine.preprocess.read(i)[None]) for i in images])
        top = [[(a.index, a.probability) for a in each] for each in engine.top.each(logits, 3)]
    return logits, top


def test_a_folder_becomes_rows_with_the_engines_outputs(
    bundle_source: Path,
    folder: Path,
    images: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    arguments = (*ENGINE, "--top", 3, "--rows", 8, "--batch", 3)
    status, printed, err = score(capsys, bundle_source, folder, "--out", out, *arguments)
    assert status == 0, err
    assert printed.startswith(f"{COUNT} rows in 3 files in {out}, ")
    assert [pq.read_metadata(part).num_rows for part in parts(out)] == [8, 8, 5]
    table = read(out)
    assert column(table, "index") == list(range(COUNT))
    assert column(table, "path") == [str(image) for image in images]
    assert column(table, "error") == [None] * COUNT
    logits, top = expected(bundle_source, images)
    np.testing.assert_allclose(np.array(column(table, "logits")), logits, atol=1e-4)
    assert column(table, "logits_top_index") == [[index for index, _ in each] for each in top]
    probabilities = [[p for _, p in each] for each in top]
    np.testing.assert_allclose(column(table, "logits_top_probability"), probabilities, atol=1e-5)
    assert json.loads((out / "_SUCCESS").read_text()) == {"rows": COUNT, "failed": 0, "files": 3}


def test_the_files_say_what_made_them(
    bundle_source: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    status, printed, _ = score(capsys, bundle_source, folder, "--out", out, *ENGINE, "--json")
    summary = json.loads(printed)
    assert (status, summary["rows"], summary["failed"]) == (0, COUNT, 0)
    assert summary["images_per_second"] > 0
    schema = pq.read_schema(parts(out)[0])
    facts = {key.decode(): value.decode() for key, value in schema.metadata.items()}
    bundle = Bundle.open(bundle_source)
    assert facts["vit_edge.bundle_sha256"] == bundle.digest
    assert (facts["vit_edge.precision"], facts["vit_edge.backend"]) == ("fp32", "onnxruntime")
    (output,) = json.loads(facts["vit_edge.outputs"])
    assert (output["column"], output["kind"], output["shape"]) == ("logits", "logits", [10])
    assert json.loads(facts["vit_edge.class_names"]) is None
    record = json.loads((out / "_score.json").read_text())
    assert (record["images"], record["batch"], record["top"]) == (COUNT, 4, 5)


def test_readers_of_a_folder_of_parquet_take_the_rows_alone(
    bundle_source: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pandas = pytest.importorskip("pandas")
    out = tmp_path / "out"
    assert score(capsys, bundle_source, folder, "--out", out, *ENGINE, "--rows", 8)[0] == 0
    frame = pandas.read_parquet(out)
    assert list(frame["index"]) == list(range(COUNT))
    assert np.stack(frame["logits"]).shape == (COUNT, 10)


def test_what_cannot_be_read_has_a_row_with_the_reason(
    bundle_source: Path,
    images: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "damaged.png").write_bytes(images[0].read_bytes()[:200])
    (tmp_path / "good.png").write_bytes(images[1].read_bytes())
    listed = ["good.png", "damaged.png", "", "none.png", str(images[2]), "x" * 5000 + ".png", "."]
    (tmp_path / "list.txt").write_text("\r\n".join(listed) + "\n")
    out = tmp_path / "out"
    arguments = ("--out", out, *ENGINE, "--rows", 2, "--batch", 4)
    status, printed, err = score(capsys, bundle_source, tmp_path / "list.txt", *arguments)
    assert status == 1, err
    assert "6 rows in 3 files" in printed
    assert "4 of them have an error" in err
    table = read(out)
    assert column(table, "path") == [name for name in listed if name]
    errors = column(table, "error")
    assert [error is None for error in errors] == [True, False, False, True, False, False]
    assert "damaged.png is not a readable image" in errors[1]
    assert "there is no image at" in errors[2]
    assert "is not a file" in errors[5]
    for name in ("logits", "logits_top_index", "logits_top_probability"):
        assert [value is None for value in column(table, name)] == [e is not None for e in errors]
    logits, _ = expected(bundle_source, [images[1], images[2]])
    np.testing.assert_allclose(column(table, "logits")[0], logits[0], atol=1e-4)
    np.testing.assert_allclose(column(table, "logits")[3], logits[1], atol=1e-4)
    assert json.loads((out / "_SUCCESS").read_text())["failed"] == 4


@pytest.mark.parametrize("form", ["bytes", "bytes with paths", "struct", "paths", "folder"])
def test_parquet_gives_the_same_rows_as_files(
    form: str,
    bundle_source: Path,
    folder: Path,
    images: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    encoded = [image.read_bytes() for image in images]
    encoded[4] = b"damaged"
    names = [os.path.relpath(image, tmp_path) for image in images]
    structs = [{"bytes": data, "path": f"{i}.png"} for i, data in enumerate(encoded)]
    structs[1] = {"bytes": None, "path": names[1]}
    structs[2] = None
    columns = {
        "bytes": {"image": encoded, "label": list(range(COUNT))},
        "bytes with paths": {"bytes": encoded, "path": names},
        "struct": {"image": structs, "label": ["none"] * COUNT},
        "paths": {"file": names},
        "folder": {"image": encoded},
    }[form]
    table = pa.table(columns)
    if form == "folder":
        data = tmp_path / "data"
        data.mkdir()
        pq.write_table(table.slice(0, 10), data / "a.parquet", row_group_size=4)
        pq.write_table(table.slice(10), data / "b.parquet", row_group_size=4)
        (data / "_SUCCESS").touch()
    else:
        data = tmp_path / "images.parquet"
        pq.write_table(table, data, row_group_size=6)
    out, files = tmp_path / "out", tmp_path / "files"
    arguments = (*ENGINE, "--rows", 8)
    status, _, err = score(capsys, bundle_source, data, "--out", out, *arguments)
    assert status == (form != "paths"), err
    score(capsys, bundle_source, folder, "--out", files, *arguments)
    mine, theirs = read(out), read(files)
    failed = {"paths": set(), "struct": {2, 4}}.get(form, {4})
    assert {i for i, error in enumerate(column(mine, "error")) if error is not None} == failed
    logits = column(theirs, "logits")
    np.testing.assert_allclose(
        [row for row in column(mine, "logits") if row is not None],
        [row for i, row in enumerate(logits) if i not in failed],
        atol=1e-4,
    )
    path = {
        "bytes": "images.parquet#6", "bytes with paths": names[6], "struct": "6.png",
        "paths": names[6], "folder": "a.parquet#6",
    }[form]  # fmt: skip
    assert column(mine, "path")[6] == path


def test_links_to_folders_are_followed_and_lead_in_no_circle(
    bundle_source: Path, images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    (data / "own").mkdir(parents=True)
    (data / "linked").symlink_to(images[-1].parent)
    (data / "own" / "back").symlink_to(data)
    os.link(images[0], data / "own" / "a.png")
    out = tmp_path / "out"
    assert score(capsys, bundle_source, data, "--out", out, *ENGINE)[0] == 0
    linked = [str(data / "linked" / i.name) for i in images if i.parent == images[-1].parent]
    assert column(read(out), "path") == [*linked, str(data / "own" / "a.png")]


def test_a_folder_that_cannot_be_read_ends_the_run_before_it_begins(
    bundle_source: Path,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    scan = os.scandir

    def refuse(path: Any) -> Any:  # root may read everything
        if str(path).endswith("below"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    status, _, err = score(capsys, bundle_source, folder, "--out", tmp_path / "out", *ENGINE)
    assert status == 2
    assert "below cannot be read (Permission denied): its images would be missing" in err
    assert not (tmp_path / "out").exists()


def test_a_list_may_begin_with_a_byte_order_mark(
    bundle_source: Path, images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "list.txt").write_text(f"{images[0]}\r\n{images[1]}\r\n", "utf-8-sig")
    out = tmp_path / "out"
    assert score(capsys, bundle_source, tmp_path / "list.txt", "--out", out, *ENGINE)[0] == 0
    assert column(read(out), "path") == [str(image) for image in images[:2]]


@pytest.mark.parametrize(
    ("names", "arguments", "said"),
    [
        ((), (), "there is nothing at"),
        (("empty/",), (), "holds no images"),
        (("list.txt",), (), "lists no images"),
        (("binary.bin",), (), "no text with a path a line"),
        (("n" * 300,), (), "File name too long"),
        (("mixed/a.png", "mixed/b.parquet"), (), "name one kind"),
        (("a.png",), (), "is an image"),
        (("a.txt: b.png",), ("--column", "image"), "has no columns"),
        (("damaged.parquet",), (), "is not a readable Parquet file"),
        (("good.parquet",), ("--column", "photo"), "has no column 'photo'; its columns are"),
        (("good.parquet",), ("--column", "label"), "column 'label' holds int64"),
        (("none.parquet",), (), "has no column of encoded images"),
        (("both.parquet",), (), "which of left, right has the images? Say --column"),
        (("empty.parquet",), (), "holds no rows"),
        (("a.txt: b.png",), ("--batch", "0"), "--batch 0: give at least 1"),
        (("a.txt: b.png",), ("--precision", "int3"), "int3"),
    ],
)
def test_bad_input_is_one_clear_line_and_leaves_nothing(
    names: tuple[str, ...],
    arguments: tuple[str, ...],
    said: str,
    bundle_source: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tables = {
        "good.parquet": {"image": [b"x"], "label": [1]},
        "none.parquet": {"label": [1]},
        "both.parquet": {"left": ["a.png"], "right": ["b.png"]},
        "empty.parquet": {"image": pa.array([], pa.binary())},
    }
    data = tmp_path / (names[0].split("/")[0].split(":")[0] if names else "none")
    for name in names:
        file = tmp_path / name.split(":")[0]
        (file if name.endswith("/") else file.parent).mkdir(exist_ok=True)
        if name in tables:
            pq.write_table(pa.table(tables[name]), file)
        elif not name.endswith("/") and len(name) < 256:
            file.write_bytes(b"\0" if name == "binary.bin" else name.partition(": ")[2].encode())
    out = tmp_path / "out"
    status, printed, err = score(capsys, bundle_source, data, "--out", out, *arguments)
    assert (status, printed) == (2, ""), err
    assert said in err
    assert "unexpected" not in err
    assert not parts(out)
    assert not (out / "_SUCCESS").exists()


def test_without_a_terminal_progress_is_a_line_now_and_then(
    bundle_source: Path,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("vit_edge.runtime.tools.score.progress._EVERY", 0.0)
    arguments = (bundle_source, folder, "--out", tmp_path / "out", *ENGINE, "--batch", 4)
    _, _, err = score(capsys, *arguments)
    lines = [line for line in err.splitlines() if line.endswith(" left")]
    assert lines[0].startswith(f"4 of {COUNT} images, ")
    assert " images/s, 0 min " in lines[0]
    assert lines[-1].startswith(f"{COUNT} of {COUNT} images, ")


@pytest.mark.parametrize(
    ("blocked", "options", "said"),
    [
        ("pyarrow", (), "`score` needs pyarrow: pip install 'pyarrow>=17' 'pillow>=11'"),
        ("ray", ("--ray",), "--ray needs Ray Data: pip install 'ray[data]>=2.50' 'pyarrow>=17'"),
    ],
)
def test_a_missing_extra_is_named_and_no_other_command_needs_it(
    blocked: str,
    options: tuple[str, ...],
    said: str,
    bundle_source: Path,
    folder: Path,
    tmp_path: Path,
) -> None:
    code = (
        "import sys\n"
        f"sys.modules[{blocked!r}] = None\n"  # an import of it fails
        "from vit_edge.runtime.tools.cli import build_parser, main\n"
        "build_parser()\n"
        "assert not {'pyarrow', 'ray', 'pandas'} & {n for n, m in sys.modules.items() if m}\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    arguments = ("score", bundle_source, folder, "--out", tmp_path / "out", *options)
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["inside", "behind a link", "used", "file"])
def test_a_folder_that_readers_would_mix_up_is_refused(
    place: str,
    bundle_source: Path,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "other.parquet").touch()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(folder)
    out, said = {
        "inside": (folder / "scores", "whose files are read"),
        "behind a link": (tmp_path / "link" / "scores", "whose files are read"),
        "used": (tmp_path / "used", "holds other files (other.parquet)"),
        "file": (tmp_path / "file", "is a file: give --out a folder"),
    }[place]
    status, _, err = score(capsys, bundle_source, folder, "--out", out, *ENGINE)
    assert status == 2
    assert said in err
    assert "unexpected" not in err
