"""Files as cameras, phones and attackers write them."""

from __future__ import annotations

import contextlib
import os
import struct
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vit_edge.runtime.errors import BackendError, InputError
from vit_edge.runtime.preprocess import Preprocess

HALF = (0.5, 0.5, 0.5)
WHOLE = Preprocess(64, 64, 3, 1.0, "bicubic", HALF, HALF)


@pytest.fixture
def picture() -> Image.Image:
    x, y = np.meshgrid(np.linspace(0, 255, 64), np.linspace(0, 255, 64))
    return Image.fromarray(np.stack([x, y, 255 - x], axis=-1).astype(np.uint8))


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "1", "YCbCr", "PA", "HSV"])
def test_every_mode_is_converted_as_pillow_does(picture: Image.Image, mode: str) -> None:
    converted = picture.convert(mode)
    np.testing.assert_array_equal(WHOLE(converted), np.asarray(converted.convert("RGB")))


def test_16_bits_keep_their_range(picture: Image.Image, tmp_path: Path) -> None:
    grey = np.asarray(picture.convert("L"))
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "16.png")
    np.testing.assert_array_equal(WHOLE.read(tmp_path / "16.png")[:, :, 0], grey)


@pytest.mark.parametrize("transparency", [3, bytes(range(256))])
def test_a_transparent_palette_is_read_quietly(
    picture: Image.Image, tmp_path: Path, transparency: int | bytes
) -> None:
    palette = picture.convert("P")
    palette.save(tmp_path / "palette.png", transparency=transparency)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frame = WHOLE.read(tmp_path / "palette.png")
    np.testing.assert_array_equal(frame, np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("kind", ["gif", "webp", "png"])
def test_of_an_animation_the_first_frame_is_taken(kind: str, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (64, 64), color) for color in ("red", "blue")]
    path = tmp_path / f"moving.{kind}"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    red, _, blue = WHOLE.read(path)[32, 32]
    assert red > 250
    assert blue < 5


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_turned_as_its_exif_says(
    picture: Image.Image, tmp_path: Path, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.png"
    picture.save(path, exif=exif)
    turned = np.asarray(picture)
    turned = {  # how the pixels in the file have to be moved, from the Exif standard
        1: turned, 2: turned[:, ::-1], 3: turned[::-1, ::-1], 4: turned[::-1],
        5: turned.swapaxes(0, 1), 6: np.rot90(turned, -1),
        7: turned[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(turned),
    }[orientation]  # fmt: skip
    np.testing.assert_array_equal(WHOLE.read(path), turned)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_any_truncation_or_change_is_one_error(picture: Image.Image, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for kind in ("png", "jpeg", "gif", "tiff", "webp", "bmp", "ppm"):
        path = tmp_path / f"picture.{kind}"
        picture.resize((20, 20)).save(path)
        whole = path.read_bytes()
        for size in {0, 1, len(whole) // 3, len(whole) // 2}:
            path.write_bytes(whole[:size])
            with pytest.raises(InputError, match="not a readable image"):
                WHOLE.read(path)
        for _ in range(60):
            changed = bytearray(whole)
            changed[random.integers(len(whole))] = random.integers(256)
            path.write_bytes(changed)
            with contextlib.suppress(InputError):
                assert WHOLE.read(path).shape == (64, 64, 3)


def png(width: int, height: int) -> bytes:
    """A PNG that promises more pixels than it has."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(b"\0" * 100))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("size", "named"),
    [((0, 9), "bomb.png"), ((12000, 12000), "at most 134217728"), ((60000, 60000), "bomb")],
)
def test_sizes_beyond_reason_are_refused_unread(
    size: tuple[int, int], named: str, tmp_path: Path
) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png(*size))
    with pytest.raises(InputError, match=named) as refused:
        WHOLE.read(path)
    assert str(path) in str(refused.value)


def test_only_picture_formats_reach_a_decoder(tmp_path: Path) -> None:
    """Pillow would run Ghostscript for this one."""
    path = tmp_path / "picture.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    assert Image.open(path).format == "EPS"
    with pytest.raises(InputError, match="cannot identify"):
        WHOLE.read(path)


def test_bytes_are_read_as_their_file_is(picture: Image.Image, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.jpg"
    picture.save(path, exif=exif)
    data = path.read_bytes()
    np.testing.assert_array_equal(WHOLE.decode(data, "turned"), WHOLE.read(path))
    for damaged in (data[:200], b"", b"%!PS-Adobe-3.0 EPSF-3.0\n"):
        with pytest.raises(InputError, match=r"^row 7 is not a readable image \(") as error:
            WHOLE.decode(damaged, "row 7")
        assert "object at" not in str(error.value)


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path, named in (
        (tmp_path / "none.png", "there is no image at"),
        (tmp_path, "is not a file"),
        (tmp_path / "pipe.png", "is not a file"),  # opening it would hang
        (Path("/dev/zero"), "is not a file"),
    ):
        with pytest.raises(InputError, match=named):
            WHOLE.read(path)


def test_a_file_whose_pixels_are_no_picture_is_named(tmp_path: Path) -> None:
    Image.new("F", (9, 9)).save(tmp_path / "depth.tiff")
    with pytest.raises(InputError, match=r"depth\.tiff: mode F has no known range"):
        WHOLE.read(tmp_path / "depth.tiff")


def test_a_truncated_file_that_the_caller_opened_is_an_input_error(
    picture: Image.Image, tmp_path: Path
) -> None:
    path = tmp_path / "half.jpg"
    picture.resize((640, 640)).save(path)
    path.write_bytes(path.read_bytes()[:4000])
    with Image.open(path) as lazy, pytest.raises(InputError, match="truncated"):
        WHOLE(lazy)


def test_files_need_pillow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(BackendError, match="reading image files needs Pillow: pip install"):
        WHOLE.read(tmp_path / "picture.png")
