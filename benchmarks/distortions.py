"""Distortions that happen to a camera's images, of frames uint8 `[N, height, width, channels]`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Frames = NDArray[np.uint8]


def scaled(frames: Frames, factor: float) -> Frames:
    """Brighter or darker by a factor, clipped."""
    return _rounded(frames * factor)


def gamma(frames: Frames, exponent: float) -> Frames:
    return _rounded(255 * (frames / 255) ** exponent)


def less_contrast(frames: Frames, factor: float) -> Frames:
    """Pressed together about the middle of the range, as by haze."""
    return _rounded((frames - 128.0) * factor + 128)


def tinted(frames: Frames, share: float) -> Frames:
    """More red and less blue by that share: a wrong white balance."""
    return _rounded(frames * np.array([1 + share, 1, 1 - share]))


def swapped(frames: Frames) -> Frames:
    """BGR for RGB."""
    return np.ascontiguousarray(frames[..., ::-1])


def grey(frames: Frames) -> Frames:
    luma = [np.asarray(Image.fromarray(frame).convert("L")) for frame in frames]
    return np.repeat(np.stack(luma)[..., None], 3, axis=3)


def blurred(frames: Frames, radius: float) -> Frames:
    """Gaussian blur of that deviation in pixels."""
    blur = ImageFilter.GaussianBlur(radius)
    pictures = [_picture(frame).filter(blur) for frame in frames]
    return np.stack([np.asarray(picture) for picture in pictures]).reshape(frames.shape)


def noisy(frames: Frames, deviation: float, seed: int = 0) -> Frames:
    """With Gaussian noise."""
    return _rounded(frames + np.random.default_rng(seed).normal(0, deviation, frames.shape))


def zoomed(frames: Frames, factor: float) -> Frames:
    """The middle of each frame, enlarged: above 1 a crop that is too small, below 1 one that is too
    large, its border black.
    """
    _, height, width, _ = frames.shape
    rest = ((1 - 1 / factor) * width / 2, (1 - 1 / factor) * height / 2)
    box = (rest[0], rest[1], width - rest[0], height - rest[1])
    enlarge = Image.Transform.EXTENT
    pictures = [
        _picture(frame).transform((width, height), enlarge, box, Image.Resampling.BICUBIC)
        for frame in frames
    ]
    return np.stack([np.asarray(picture) for picture in pictures]).reshape(frames.shape)


def upscaled(frames: Frames, share: float) -> Frames:
    """As from a camera of that share of the resolution."""
    _, height, width, _ = frames.shape
    small = (max(1, round(width * share)), max(1, round(height * share)))
    bicubic = Image.Resampling.BICUBIC
    pictures = [
        _picture(frame).resize(small, bicubic).resize((width, height), bicubic) for frame in frames
    ]
    return np.stack([np.asarray(picture) for picture in pictures]).reshape(frames.shape)


def barred(frames: Frames, share: float) -> Frames:
    """With black bars above and below, each that share of the height."""
    frames = frames.copy()
    bar = round(frames.shape[1] * share)
    frames[:, :bar] = frames[:, frames.shape[1] - bar :] = 0
    return frames


def frozen(frames: Frames) -> Frames:
    """The first frame again and again."""
    return np.repeat(frames[:1], len(frames), axis=0)


def _picture(frame: Frames) -> Image.Image:
    return Image.fromarray(frame[:, :, 0] if frame.shape[2] == 1 else frame)


def _rounded(values: NDArray[np.float64]) -> Frames:
    rounded: Frames = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return rounded
