"""Golden samples of a bundle that nobody signed may be anything, hashes and all."""

from __future__ import annotations

import io
import struct
import time
import zipfile
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vit_edge.runtime.golden
from tests.specs import engine_spec
from vit_edge.runtime.errors import BundleError
from vit_edge.runtime.golden import parse_golden

SPEC = engine_spec("images", "logits", (8, 6, 3), 10, (1, 1, 4))
GOOD: dict[str, Any] = {
    "images": np.arange(2 * 8 * 6 * 3, dtype=np.uint8).reshape(2, 8, 6, 3),
    "logits": np.linspace(-1, 1, 20, dtype=np.float32).reshape(2, 10),
    "labels": np.array([3, 4]),
}


def saved(save: Any = np.savez, **changed: Any) -> bytes:
    file = io.BytesIO()
    save(file, **{k: v for k, v in {**GOOD, **changed}.items() if v is not None})
    return file.getvalue()


def header(text: str, data: bytes = b"") -> bytes:
    padded = text.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded + data


def archive(images: bytes, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """An archive with good logits, and `images.npy` of these bytes."""
    file = io.BytesIO(saved(images=None, labels=None))
    with zipfile.ZipFile(file, "a", compression) as opened:
        opened.writestr("images.npy", images)
    return file.getvalue()


IMAGES = "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 8, 6, 3), }"
PIXELS = GOOD["images"].tobytes()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_saves_is_read_as_it_was(save: Any) -> None:
    samples = parse_golden(saved(save), SPEC)
    for name, array in GOOD.items():
        np.testing.assert_array_equal(getattr(samples, name), array)
        assert getattr(samples, name).dtype == array.dtype
    assert samples.images.flags.writeable
    assert parse_golden(saved(save, labels=None), SPEC).labels is None
    assert len(parse_golden(archive(header(IMAGES, PIXELS)), SPEC)) == 2


@pytest.mark.parametrize(
    "changed",
    [
        {"images": GOOD["images"][:1]},
        {"images": GOOD["images"][:, :-1]},
        {"images": GOOD["images"][:0]},
        {"images": GOOD["images"].astype(np.int8)},
        {"images": np.asfortranarray(GOOD["images"])},
        {"images": GOOD["images"][0]},
        {"images": None},
        {"logits": None},
        {"logits": GOOD["logits"].astype(">f4")},
        {"logits": GOOD["logits"].astype(np.float64)},
        {"logits": GOOD["logits"][:, 0]},
        {"labels": GOOD["labels"].astype(np.int32)},
        {"labels": GOOD["labels"][:, None]},
        {"labels": np.array([1])},
        {"labels": np.array(7)},
        {"labels": np.array([None, {}], dtype=object)},
        {"more": np.zeros(2)},
    ],
)
def test_other_names_types_and_shapes_are_refused(changed: Any) -> None:
    with pytest.raises(BundleError, match=r"golden\.npz"):
        parse_golden(saved(**changed), SPEC)


@pytest.mark.parametrize(
    "images",
    [
        b"",
        b"\x93NUMPY\x01\x00",
        header(IMAGES),
        header(IMAGES, PIXELS[:-1]),
        header(IMAGES, PIXELS + b"x"),
        header(IMAGES.replace("(2,", "(3,"), PIXELS),
        header(IMAGES.replace("(2,", "(99999999,"), PIXELS),
        header(IMAGES.replace("(2,", f"({10**60},"), PIXELS),
        header(IMAGES.replace("(2,", "(-2,"), PIXELS),
        header(IMAGES.replace("|u1", "|O"), PIXELS),
        header(IMAGES.replace("'|u1'", "__import__('os')"), PIXELS),
        header("(" * 100, PIXELS),
        b"\x93NUMPY\x02\x00" + header(IMAGES, PIXELS)[8:],
        b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 0xFFFF,
    ],
)
def test_what_numpy_would_not_have_written_is_refused(images: bytes) -> None:
    with pytest.raises(BundleError, match=r"golden\.npz is not valid"):
        parse_golden(archive(images), SPEC)


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused(compression: int) -> None:
    with pytest.raises(BundleError, match="neither stored nor deflated"):
        parse_golden(archive(header(IMAGES, PIXELS), compression), SPEC)


def test_a_bomb_is_not_inflated() -> None:
    """256 MiB of zeros in 260 KB: refused by its claims, in a moment and without the memory."""
    bomb = archive(header(IMAGES, bytes(1 << 28)))
    lying = bytearray(bomb)  # claims the size that its header lets us expect, inflates to more
    at = lying.rindex(b"PK\x01\x02")
    lying[at + 24 : at + 28] = struct.pack("<I", len(header(IMAGES, PIXELS)))
    start = time.perf_counter()
    for raw in (bomb, bytes(lying)):
        with pytest.raises(BundleError):
            parse_golden(raw, SPEC)
    assert time.perf_counter() - start < 0.1


def test_samples_beyond_memory_are_refused_before_they_are_allocated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(vit_edge.runtime.golden, "available_memory", lambda: 100)
    with pytest.raises(BundleError, match="more than the free memory"):
        parse_golden(saved(), SPEC)


def test_a_file_that_is_there_twice_is_refused() -> None:
    file = io.BytesIO(saved())
    with zipfile.ZipFile(file, "a") as opened, pytest.warns(UserWarning, match="Duplicate"):
        opened.writestr("images.npy", header(IMAGES, PIXELS))
    with pytest.raises(BundleError, match="does not belong there"):
        parse_golden(file.getvalue(), SPEC)


COMPRESSED = saved(np.savez_compressed)


@settings(max_examples=500, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(COMPRESSED) - 1), st.integers(0, 255)), max_size=3))
def test_any_bytes_are_samples_or_our_error(changes: list[tuple[int, int]]) -> None:
    raw = bytearray(COMPRESSED)
    for position, value in changes:
        raw[position] = value
    try:
        samples = parse_golden(bytes(raw), SPEC)
    except BundleError:
        return
    assert samples.images.shape == (2, 8, 6, 3)
    assert samples.logits.shape == (2, 10)


def test_every_truncation_is_refused() -> None:
    for length in range(len(COMPRESSED)):
        with pytest.raises(BundleError):
            parse_golden(COMPRESSED[:length], SPEC)
