"""Picture files of many forms, as cameras, phones and programs write them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from sklearn.datasets import load_sample_image

ORIENTATIONS = range(10)
"""EXIF's are 1 to 8; others mean nothing."""
XMP = '<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
_ORIENTATION = 0x0112


def write_pictures(folder: Path) -> list[Path]:
    """Writes one file of each form; returns their paths, in order of their names."""
    photograph = Image.fromarray(load_sample_image("china.jpg")).crop((20, 30, 333, 244))
    small = photograph.resize((37, 23))
    _write_modes(folder, photograph, small)
    _write_orientations(folder, small)
    _write_jpegs(folder, photograph)
    return sorted(folder.iterdir())


def _write_modes(folder: Path, photograph: Image.Image, small: Image.Image) -> None:
    alpha = Image.fromarray(np.arange(37 * 23, dtype=np.uint32).reshape(23, 37).astype(np.uint8))
    clear = small.copy()
    clear.putalpha(alpha)
    forms = {
        "rgb": photograph,
        "rgba": clear,
        "grey": photograph.convert("L"),
        "grey_alpha": clear.convert("LA"),
        "black_and_white": photograph.convert("1"),
        "one_pixel": photograph.crop((5, 5, 6, 6)),
        "column": photograph.crop((5, 5, 6, 200)),
    }
    for name, picture in forms.items():
        picture.save(folder / f"{name}.png")
    for colors in (2, 4, 16, 200):
        small.quantize(colors).save(folder / f"palette{colors}.png")
    small.quantize(16).save(folder / "palette_clear.png", transparency=3)
    small.save(folder / "rgb_transparent_color.png", transparency=(1, 2, 3))
    deep = np.arange(37 * 23, dtype=np.uint16).reshape(23, 37) * 77
    Image.fromarray(deep).save(folder / "grey16.png")
    for name, kind, channels in (("rgb16", 2, 3), ("grey_alpha16", 4, 2), ("rgba16", 6, 4)):
        samples = np.random.default_rng(kind).integers(0, 1 << 16, (23, 37, channels), np.uint16)
        (folder / f"{name}.png").write_bytes(_png(samples, 16, kind))
    levels = np.random.default_rng(1).integers(0, 256, (23, 37, 1), np.uint8)
    for depth in (1, 2, 4):
        (folder / f"grey{depth}.png").write_bytes(_png(levels >> (8 - depth), depth, 0))
    (folder / "interlaced.png").write_bytes(_interlaced())


def _write_orientations(folder: Path, small: Image.Image) -> None:
    for orientation in ORIENTATIONS:
        exif = Image.Exif()
        exif[_ORIENTATION] = orientation
        small.save(folder / f"turned{orientation}.jpg", exif=exif, quality=95)
        small.convert("L").save(folder / f"turned{orientation}.png", exif=exif)
    exif = Image.Exif()
    exif.endian = "<"
    exif[0x010E], exif[_ORIENTATION] = "before it", 8
    small.save(folder / "little_endian.jpg", exif=exif)
    small.save(folder / "damaged_exif.png", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    small.save(folder / "xmp.jpg", xmp=XMP.encode())
    text = PngInfo()
    text.add_itxt("XML:com.adobe.xmp", XMP)
    small.save(folder / "xmp.png", pnginfo=text)
    raw = PngInfo()
    exif = Image.Exif()
    exif[_ORIENTATION] = 3
    block = exif.tobytes()
    raw.add_text("Raw profile type exif", f"\nexif\n{len(block):8}\n{block.hex()}\n", zip=True)
    small.save(folder / "raw_profile.png", pnginfo=raw)


def _write_jpegs(folder: Path, photograph: Image.Image) -> None:
    for name, options in {
        "444": {"subsampling": "4:4:4"},
        "422": {"subsampling": "4:2:2"},
        "420": {"subsampling": "4:2:0"},
        "411": {"subsampling": "4:1:1"},
        "progressive": {"progressive": True},
        "bad": {"quality": 5},
        "best": {"quality": 100},
        "rgb": {"keep_rgb": True},
        "restart": {"restart_marker_rows": 2},
    }.items():
        photograph.save(folder / f"jpeg_{name}.jpg", **options)
    photograph.convert("L").save(folder / "jpeg_grey.jpg")
    inverted = photograph.convert("CMYK")
    inverted.save(folder / "jpeg_cmyk.jpg")
    inks = np.random.default_rng(2).integers(0, 256, (24, 31, 4), np.uint8)
    Image.frombytes("CMYK", (31, 24), inks.tobytes()).save(
        folder / "jpeg_cmyk_black.jpg", quality=90
    )


def _png(samples: np.ndarray, depth: int, kind: int) -> bytes:
    """A PNG file of samples `[height, width, channels]`, which Pillow does not write itself."""
    height, width, _ = samples.shape
    rows = []
    for row in samples:
        if depth == 16:
            rows.append(b"\0" + row.astype(">u2").tobytes())
            continue
        bits = np.unpackbits(row.astype(np.uint8), axis=1)[:, -depth:].reshape(-1)
        rows.append(b"\0" + np.packbits(bits).tobytes())
    header = _big(width) + _big(height) + bytes([depth, kind, 0, 0, 0])
    return _chunks(header, b"".join(rows))


def _interlaced() -> bytes:
    """An Adam7 file, RGB of 13 by 11 pixels, each row of each pass unfiltered."""
    pixels = np.random.default_rng(3).integers(0, 256, (11, 13, 3), np.uint8)
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2),
              (1, 0, 2, 1))  # fmt: skip
    rows = [
        b"\0" + row.tobytes()
        for y, x, down, right in passes
        for row in pixels[y::down, x::right]
        if row.size
    ]
    return _chunks(_big(13) + _big(11) + bytes([8, 2, 0, 0, 1]), b"".join(rows))


def _chunks(header: bytes, rows: bytes) -> bytes:
    import zlib

    file = io.BytesIO(b"\x89PNG\r\n\x1a\n")
    file.seek(0, io.SEEK_END)
    for name, content in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        file.write(_big(len(content)) + name + content + _big(zlib.crc32(name + content)))
    return file.getvalue()


def _big(number: int) -> bytes:
    return number.to_bytes(4, "big")
