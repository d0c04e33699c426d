"""Videos for the tests, written by OpenCV."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np

WIDTH, HEIGHT = 64, 48
ANGLES = {0: (1, 0, 0, 1), 90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}
"""The rotation clockwise, as a, b, c, d of the matrix in ISO/IEC 14496-12, 8.3.2."""


def frame(index: int) -> np.ndarray:
    """RGB: the left half red, the lower right blue; grey, the brighter the later, between."""
    pixels = np.full((HEIGHT, WIDTH, 3), 8 * index, np.uint8)
    pixels[:, : WIDTH // 2] = (230, 20, 20)
    pixels[HEIGHT // 2 :, WIDTH // 2 :] = (20, 20, 230)
    return pixels


def write_video(path: Path, frames: int) -> Path:
    kind = {".mp4": "mp4v", ".avi": "MJPG"}[path.suffix]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*kind), 10, (WIDTH, HEIGHT))
    assert writer.isOpened()
    for index in range(frames):
        writer.write(cv2.cvtColor(frame(index), cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def turn(path: Path, angle: int) -> None:
    """Writes the rotation into the track's header, as a phone does that is held upright."""
    content = bytearray(path.read_bytes())
    header = content.index(b"tkhd")
    assert content[header + 4] == 0, "version 0: 32-bit times"
    a, b, c, d = (value << 16 for value in ANGLES[angle])
    tx, ty = {0: (0, 0), 90: (HEIGHT, 0), 180: (WIDTH, HEIGHT), 270: (0, WIDTH)}[angle]
    matrix = struct.pack(">9i", a, b, 0, c, d, 0, tx << 16, ty << 16, 1 << 30)
    content[header + 44 : header + 80] = matrix
    path.write_bytes(content)
