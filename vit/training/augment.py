"""Random changes of training images: crops, flips and colours of one, mixtures of two.

Every function takes its generator, so that an image's changes depend on seed, epoch and index
alone: neither threads nor a resumed run can alter them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from vit_edge.runtime.preprocess import Preprocess

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


@dataclass(frozen=True)
class Augmentation:
    """Limits of the changes of a training image.

    Attributes:
        min_area: Smallest share of the image that a crop keeps.
        stretch: Largest change of the aspect ratio, as a factor.
        flip: Probability of a mirror image.
        colour: Brightness, contrast and saturation change by up to this share.
    """

    min_area: float
    stretch: float
    flip: float
    colour: float

    def __call__(
        self, image: Image.Image, preprocess: Preprocess, generator: np.random.Generator
    ) -> NDArray[np.uint8]:
        """Turns a Pillow image into a changed frame of the size that the model takes."""
        frame = random_crop(image, preprocess, self, generator)
        if generator.random() < self.flip:
            frame = frame[:, ::-1]
        return jitter_colours(frame, self.colour, generator) if self.colour else frame


AUGMENTATIONS = {
    "photographs": Augmentation(min_area=0.35, stretch=4 / 3, flip=0.5, colour=0.3),
    # Writing, signs, instruments: a mirror or a tight crop would turn them into something else.
    "symbols": Augmentation(min_area=0.7, stretch=1.15, flip=0.0, colour=0.1),
    "none": Augmentation(min_area=1.0, stretch=1.0, flip=0.0, colour=0.0),
}


def random_crop(
    image: Image.Image,
    preprocess: Preprocess,
    limits: Augmentation,
    generator: np.random.Generator,
) -> NDArray[np.uint8]:
    """Cuts a random part out of the image and scales it to the model's input."""
    image = ImageOps.exif_transpose(image)
    aspect = preprocess.width / preprocess.height
    aspect *= math.exp(generator.uniform(-1, 1) * math.log(limits.stretch))
    # The largest box of that aspect ratio, then a share of its area.
    width = min(image.width, image.height * aspect)
    share = math.sqrt(generator.uniform(limits.min_area, 1))
    box = max(1, round(width * share)), max(1, round(width / aspect * share))
    box = min(box[0], image.width), min(box[1], image.height)
    left = int(generator.integers(0, image.width - box[0] + 1))
    top = int(generator.integers(0, image.height - box[1] + 1))
    # At the crop's own size `preprocess` converts colours and scales nothing; only then is it
    # stretched, so that colours are what validation and the device make of them.
    convert = replace(preprocess, height=box[1], width=box[0], crop=1.0)
    crop = convert(image.crop((left, top, left + box[0], top + box[1])))
    resized = Image.fromarray(crop[:, :, 0] if preprocess.channels == 1 else crop).resize(
        (preprocess.width, preprocess.height),
        Image.Resampling[preprocess.interpolation.upper()],
    )
    return np.asarray(resized, dtype=np.uint8).reshape(preprocess.shape)


def jitter_colours(
    frame: NDArray[np.uint8], most: float, generator: np.random.Generator
) -> NDArray[np.uint8]:
    """Scales brightness, contrast and saturation of a frame, each by up to `most`."""
    brightness, contrast, saturation = generator.uniform(1 - most, 1 + most, 3)
    x = frame.astype(np.float32) * brightness
    x = (x - x.mean()) * contrast + x.mean()
    if frame.shape[2] == 3:
        grey = (x @ _LUMA)[:, :, None]
        x = grey + (x - grey) * saturation
    changed: NDArray[np.uint8] = np.rint(x.clip(0, 255)).astype(np.uint8)
    return changed


@dataclass(frozen=True)
class Mixture:
    """Mixed images, float32 `[B, C, H, W]`: `share` of each is its own, the rest its partner's."""

    images: Tensor
    partners: Tensor
    share: float


def mix(images: Tensor, alpha: float, generator: np.random.Generator) -> Mixture:
    """Blends every image with another of its batch: mixup (Zhang et al., arXiv 1710.09412).

    Args:
        alpha: Parameter of the Beta(alpha, alpha) that the share is drawn from; 0 blends nothing.
    """
    partners = torch.from_numpy(generator.permutation(len(images))).to(images.device)
    share = float(generator.beta(alpha, alpha)) if alpha else 1.0
    if share == 1.0:
        return Mixture(images, partners, share)
    return Mixture(share * images + (1 - share) * images[partners], partners, share)
