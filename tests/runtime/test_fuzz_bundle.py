"""Whatever is done to the files of a bundle is refused before another library sees them."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vit_edge.runtime.bundle import Bundle
from vit_edge.runtime.engine import Engine
from vit_edge.runtime.errors import BundleError
from vit_edge.runtime.manifest import MANIFEST, MANIFEST_DIGEST
from vit_edge.runtime.trust import RELEASE

from .guard import nothing_foreign
from .keys import public_pem, sign_by_hand
from .test_bundle import all_files

KEY = ec.generate_private_key(ec.SECP256R1())
PUBLIC = public_pem(KEY)
SAMPLED = 60


def flip(path: Path, position: int, bit: int) -> Callable[[], None]:
    """Changes one bit of a file in place; returns what changes it back."""
    with open(path, "r+b") as file:
        file.seek(position)
        kept = file.read(1)
        file.seek(position)
        file.write(bytes([kept[0] ^ 1 << bit]))

    def undo() -> None:
        with open(path, "r+b") as file:
            file.seek(position)
            file.write(kept)

    return undo


@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 7])
def test_changed_bytes_of_the_manifest_and_its_hash_are_refused(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    with nothing_foreign(monkeypatch, bundle):
        for name in (MANIFEST, MANIFEST_DIGEST):
            for position in range(0, (bundle / name).stat().st_size, step):
                undo = flip(bundle / name, position, position % 8)
                with pytest.raises(BundleError, match=r"manifest\.json was altered"):
                    Bundle.open(bundle)
                undo()
    Bundle.open(bundle).verify()


def test_changed_bytes_of_any_file_are_refused(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ends, and a sample between them; all of the small files by `benchmarks.fuzz_bundle`."""
    choose, opened = random.Random(0), Bundle.open(bundle)
    with nothing_foreign(monkeypatch, bundle):
        for name, entry in opened.manifest.files.items():
            chosen = choose.sample(range(entry.size), SAMPLED) if entry.size < 1 << 20 else []
            for position in (0, entry.size - 1, *chosen):
                undo = flip(bundle / name, position, position % 8)
                with pytest.raises(BundleError, match="was altered"):
                    opened.read(name)
                undo()
    opened.verify()


def test_every_changed_byte_of_a_signed_release_is_refused(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_by_hand(bundle, KEY, 3)
    with nothing_foreign(monkeypatch, bundle):
        for position in range((bundle / RELEASE).stat().st_size):
            for bit in range(8):
                undo = flip(bundle / RELEASE, position, bit)
                with pytest.raises(BundleError, match="not what was signed"):
                    Bundle.open(bundle, PUBLIC)
                undo()


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damage_of_any_kind_is_refused_by_all_that_reads(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, data: st.DataObject
) -> None:
    path = data.draw(st.sampled_from(all_files(bundle)))
    kept = path.read_bytes()
    damaged = data.draw(
        st.one_of(
            st.integers(0, len(kept) - 1).map(lambda length: kept[:length]),
            st.binary(min_size=1, max_size=9).map(lambda more: kept + more),
            st.binary(min_size=1, max_size=9).map(lambda more: more + kept),
            st.binary(max_size=99).filter(lambda other: other != kept),
        )
    )
    path.write_bytes(damaged)
    with nothing_foreign(monkeypatch, bundle), pytest.raises(BundleError):
        Bundle.open(bundle).verify()
    path.write_bytes(kept)


def test_files_in_each_others_place_are_refused(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = all_files(bundle)
    for one, other in zip(files, files[1:] + files[:1], strict=True):
        for place in (os.rename, os.link, os.symlink):
            aside = one.with_name("aside")
            one.rename(aside)
            if place is os.rename:
                one.write_bytes(other.read_bytes())
            else:
                place(other, one)
            with nothing_foreign(monkeypatch, bundle), pytest.raises(BundleError):
                Bundle.open(bundle).verify()
            one.unlink()
            aside.rename(one)
    Bundle.open(bundle).verify()


def test_a_damaged_graph_or_engine_is_refused_by_load(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("fp32", "fp16", "int8"):
        path = bundle / "onnx" / f"{name}.onnx"
        undo = flip(path, path.stat().st_size // 2, 3)
        with nothing_foreign(monkeypatch, bundle), pytest.raises(BundleError, match="altered"):
            Engine.load(bundle, name, "onnxruntime")
        undo()
    flip(bundle / "golden.npz", 100, 3)
    with pytest.raises(BundleError, match=r"golden\.npz was altered"):
        Engine.load(bundle, "fp32", "onnxruntime")


def test_a_hard_link_to_the_very_same_bytes_is_that_file(bundle: Path, tmp_path: Path) -> None:
    """It cannot be told from a file; what is used are bytes whose hash matched."""
    os.link(bundle / "golden.npz", tmp_path / "link")
    (bundle / "golden.npz").unlink()
    os.link(tmp_path / "link", bundle / "golden.npz")
    Bundle.open(bundle).verify()


def test_files_that_nobody_listed_are_never_opened(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(bundle / "pipe")
    (bundle / "onnx" / "more.onnx").symlink_to("/dev/zero")
    with nothing_foreign(monkeypatch, bundle):
        Bundle.open(bundle).verify()


def test_the_guard_itself_notices(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError, match="open /etc/hostname"):  # noqa: SIM117
        with nothing_foreign(monkeypatch, bundle):
            os.close(os.open("/etc/hostname", os.O_RDONLY))
    with (
        pytest.raises(AssertionError, match="not verified"),
        nothing_foreign(monkeypatch, bundle),
    ):
        np.load(bundle / "golden.npz")
