"""Training on a folder: epochs of augmented batches, each followed by a validation and a save.

Frames are decoded by threads ahead of the model: Pillow lets other threads run while it decodes.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vit_edge.runtime.errors import InputError
from vit_edge.runtime.preprocess import Preprocess

from ..preprocessing import normalise
from ..vision_transformer import VisionTransformer
from .augment import Augmentation, Mixture, mix
from .folder import READ_ERRORS, LabelledFiles, unreadable
from .recipe import Recipe, learning_rate_at
from .state import EpochResult, TrainingState

Frame = NDArray[np.uint8]

_AHEAD = 2
_WORKERS = min(8, os.cpu_count() or 1)


def load_batches(
    batches: Iterable[NDArray[np.int64]], read: Callable[[int], Frame]
) -> Generator[tuple[NDArray[np.int64], NDArray[np.uint8]], None, None]:
    """Yields each batch of positions with its frames, uint8 `[n, height, width, channels]`.

    At most two batches are decoded ahead, so memory does not grow with the folder. `read` is called
    from several threads; its errors are raised here.
    """
    pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="decode")

    def submit(positions: NDArray[np.int64]) -> list[Future[Frame]]:
        return [pool.submit(read, int(position)) for position in positions]

    rest = iter(batches)
    try:
        waiting = deque((positions, submit(positions)) for positions in islice(rest, _AHEAD))
        while waiting:
            positions, futures = waiting.popleft()
            frames = np.stack([future.result() for future in futures])
            waiting.extend((following, submit(following)) for following in islice(rest, 1))
            yield positions, frames
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


# The first numbers of the seeds of one epoch's choices, so that none repeats another.
_ORDER, _MIXTURE, _IMAGE = range(3)

StepDone = Callable[[int, int], None]
"""Callback with the batches of this epoch that are done, and their number."""


@dataclass(frozen=True)
class Task:
    """Data to learn from, and the way to learn."""

    training: LabelledFiles
    validation: LabelledFiles
    preprocess: Preprocess
    augmentation: Augmentation
    recipe: Recipe
    seed: int

    @property
    def batches(self) -> int:
        """Number of batches in an epoch."""
        return math.ceil(len(self.training) / self.recipe.batch)


def train_epoch(state: TrainingState, task: Task, on_step: StepDone) -> EpochResult:
    """Runs one pass over the training images, then one over the validation images.

    Raises:
        InputError: if an image cannot be decoded, or the loss is not finite; `state` is then not
            worth keeping.
    """
    epoch = len(state.history)
    generator = np.random.default_rng([_MIXTURE, task.seed, epoch])
    torch.manual_seed(int(generator.integers(1 << 63)))  # for a model that draws, as dropout does
    state.model.train()
    total = 0.0
    with closing(load_batches(_order(task, epoch), _augmented(task, epoch))) as batches:
        for done, (positions, frames) in enumerate(batches, start=1):
            loss = _step(state, task, positions, frames, generator)
            _check_finite(loss, epoch, task.recipe)
            total += loss * len(positions)
            on_step(done, task.batches)
    loss, accuracy = evaluate(state.average, task.validation, task.preprocess, task.recipe.batch)
    _check_finite(loss, epoch, task.recipe)
    return EpochResult(total / len(task.training), loss, accuracy)


def _order(task: Task, epoch: int) -> list[NDArray[np.int64]]:
    """Draws the epoch's batches, in sizes that differ by one at most: a last batch of a few images
    would weigh as much as a full one.
    """
    generator = np.random.default_rng([_ORDER, task.seed, epoch])
    return np.array_split(generator.permutation(len(task.training)), task.batches)


def _augmented(task: Task, epoch: int) -> Callable[[int], NDArray[np.uint8]]:
    def read(position: int) -> NDArray[np.uint8]:
        generator = np.random.default_rng([_IMAGE, task.seed, epoch, position])
        file = task.training.files[position]
        try:
            with Image.open(file) as image:
                return task.augmentation(image, task.preprocess, generator)
        except READ_ERRORS as error:
            raise unreadable(file, error) from None

    return read


def _step(
    state: TrainingState,
    task: Task,
    positions: NDArray[np.int64],
    frames: NDArray[np.uint8],
    generator: np.random.Generator,
) -> float:
    """Updates weights and average once. Returns the loss before it."""
    recipe, device = task.recipe, state.model.pos_embed.device
    for group in state.optimiser.param_groups:
        group["lr"] = learning_rate_at(state.step, recipe.epochs * task.batches, recipe)
    mixture = mix(normalise(frames, task.preprocess).to(device), recipe.mixup, generator)
    labels = torch.from_numpy(task.training.labels[positions]).to(device)
    loss = mixed_loss(state.model(mixture.images), labels, mixture, recipe.label_smoothing)
    state.optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(state.model.parameters(), recipe.max_norm)
    state.optimiser.step()
    state.update_average(recipe)
    state.step += 1
    return loss.item()


def mixed_loss(logits: Tensor, labels: Tensor, mixture: Mixture, smoothing: float) -> Tensor:
    """Computes the cross-entropy of logits `[B, classes]` with both labels of each mixed image."""
    own = F.cross_entropy(logits, labels, label_smoothing=smoothing)
    if mixture.share == 1.0:
        return own
    other = F.cross_entropy(logits, labels[mixture.partners], label_smoothing=smoothing)
    return mixture.share * own + (1 - mixture.share) * other


def _check_finite(loss: float, epoch: int, recipe: Recipe) -> None:
    if not math.isfinite(loss):
        raise InputError(
            f"the loss became {loss} in epoch {epoch + 1}: start again with a --learning-rate "
            f"smaller than {recipe.learning_rate:g}"
        )


@torch.inference_mode()
def evaluate(
    model: VisionTransformer, data: LabelledFiles, preprocess: Preprocess, batch: int
) -> tuple[float, float]:
    """Returns mean cross-entropy and top-1 share, with the device's own preprocessing.

    Raises:
        InputError: naming an image that cannot be decoded.
    """
    device = model.pos_embed.device
    order = np.array_split(np.arange(len(data)), math.ceil(len(data) / batch))
    loss, right = 0.0, 0
    with closing(load_batches(order, lambda i: preprocess.read(data.files[i]))) as batches:
        for positions, frames in batches:
            labels = torch.from_numpy(data.labels[positions]).to(device)
            logits = model(normalise(frames, preprocess).to(device))
            loss += float(F.cross_entropy(logits, labels, reduction="sum"))
            right += int((logits.argmax(dim=1) == labels).sum())
    return loss / len(data), right / len(data)
