"""A training on a folder from request to weights: checked first, resumed after an interruption,
plotted by epoch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from vit_edge.runtime.errors import InputError
from vit_edge.runtime.tools.display import percent, progress_bar, say

from ..checkpoints import checkpoint_sha256, encode_checkpoint, locate
from ..config import ViTConfig
from .augment import AUGMENTATIONS
from .files import check_writable, replace_file
from .folder import (
    LabelledFiles,
    check_classes,
    check_headers,
    find_files,
    hold_back,
    match_classes,
)
from .loop import Task, train_epoch
from .recipe import Recipe
from .start import find_start, starting_model
from .state import EpochResult, Settings, TrainingState


def plot_history(history: Sequence[EpochResult], title: str, path: Path) -> None:
    """Saves a PNG with both losses on the left and the top-1 share on the right.

    Raises:
        InputError: if the file cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    epochs = range(1, len(history) + 1)
    figure = Figure(figsize=(10, 4), layout="constrained")
    figure.suptitle(title)
    loss, accuracy = figure.subplots(1, 2)
    mark = "o" if len(history) < 3 else ""  # a line of one point would be invisible
    loss.plot(epochs, [r.training_loss for r in history], marker=mark, label="training, augmented")
    loss.plot(epochs, [r.validation_loss for r in history], marker=mark, label="validation")
    loss.set(xlabel="epoch", ylabel="cross-entropy")
    loss.set_ylim(bottom=0)
    loss.legend()
    shares = [100 * r.accuracy for r in history]
    accuracy.plot(epochs, shares, color="tab:orange", marker=mark)
    accuracy.annotate(
        f"{shares[-1]:.1f} %", (epochs[-1], shares[-1]), (-4, -14), ha="right",
        textcoords="offset points",
    )  # fmt: skip
    accuracy.set(xlabel="epoch", ylabel="validation top-1 (%)", ylim=(0, 102))
    for axes in (loss, accuracy):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    with replace_file(path) as stream:
        figure.savefig(stream, format="png", dpi=120)


@dataclass(frozen=True)
class TrainRequest:
    """A training that the user asked for.

    Attributes:
        model: A variant's name; with `weights` it may be None, for the model that they are of.
        evaluation: Validation images; None holds back a share of `data`.
        weights: A checkpoint to start from, as `vit.checkpoints.locate` takes it; None starts from
            scratch.
        checkpoint_key: Of several weights in that file, those to take.
        image_size: Height and width of the input; None takes the variant's.
        augmentation: A row of `AUGMENTATIONS`.
    """

    model: str | None
    data: Path
    evaluation: Path | None
    weights: str | None
    image_size: int | None
    augmentation: str
    recipe: Recipe
    seed: int
    out: Path
    checkpoint_key: str | None = None

    @property
    def title(self) -> str:
        return self.model or f"{self.weights}"

    @property
    def state_file(self) -> Path:
        return self.out.with_suffix(".unfinished.pt")

    @property
    def plot(self) -> Path:
        return self.out.with_suffix(".png")


def train_folder(request: TrainRequest) -> None:
    """Trains, and writes weights and plot. An unfinished training with the same settings resumes
    where its last epoch ended, with the same outcome.

    Raises:
        InputError: for bad settings, data or weights; a saved state stays.
        KeyboardInterrupt: saying how to resume.
    """
    if request.out.suffix != ".safetensors":
        raise InputError(f"--out {request.out}: give a name that ends with .safetensors")
    start = find_start(request.model, request.weights, request.image_size, request.checkpoint_key)
    preprocess = start.preprocess
    training, validation = _find_images(request)
    model = starting_model(start, training.class_names, request.seed)
    check_writable(request.out)
    for data in (training, validation):
        check_headers(data)
    task = Task(
        training,
        validation,
        preprocess,
        AUGMENTATIONS[request.augmentation],
        request.recipe,
        request.seed,
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    state = TrainingState.start(model.to(device), request.recipe)
    settings = _settings(request, model.config, task)
    if request.state_file.exists():
        state.resume(request.state_file, settings)
    _run_epochs(state, task, request, settings)
    _finish(state, task, request)


def _find_images(request: TrainRequest) -> tuple[LabelledFiles, LabelledFiles]:
    data = find_files(request.data)
    check_classes(data)
    if request.evaluation is None:
        return hold_back(data, request.seed)
    if request.evaluation.resolve() == request.data.resolve():
        raise InputError(
            "--eval is the folder of --data: leave it out, and a share of the images is held back"
        )
    return data, match_classes(find_files(request.evaluation), data.class_names)


def _settings(request: TrainRequest, config: ViTConfig, task: Task) -> Settings:
    """Lists everything that the outcome depends on."""
    names = {"learning_rate": "--learning-rate", "epochs": "--epochs", "batch": "--batch"}
    weights = "none" if request.weights is None else _describe_weights(request.weights)
    more = {} if request.checkpoint_key is None else {"--checkpoint-key": request.checkpoint_key}
    if (class_names := task.training.class_names) != tuple(sorted(class_names)):
        more["order of classes"] = ", ".join(class_names)
    return {
        "MODEL": request.model or "as --weights",
        "--image-size": str(config.img_size),
        "--data": _describe(task.training),
        "--eval": "held back" if request.evaluation is None else _describe(task.validation),
        "--weights": weights,
        "--augment": request.augmentation,
        "--seed": str(request.seed),
        **{names.get(key, key): str(value) for key, value in asdict(request.recipe).items()},
        "augmentation": str(task.augmentation),
        "architecture": json.dumps(asdict(config)),
        "preprocessing": json.dumps(asdict(task.preprocess)),
        **more,
    }


def _describe(data: LabelledFiles) -> str:
    return f"{data.folder.resolve().name} ({len(data)} images, {data.digest()})"


def _describe_weights(weights: str) -> str:
    path = locate(weights)
    return f"{path.name} ({checkpoint_sha256(path)[:12]})"


def _run_epochs(
    state: TrainingState, task: Task, request: TrainRequest, settings: Settings
) -> None:
    epochs, done = task.recipe.epochs, len(state.history)
    say(
        f"{request.title}: {len(task.training)} training and {len(task.validation)} validation "
        f"images of {len(task.training.class_names)} classes"
        + (f"; going on after epoch {done} of {epochs}" if done else "")
    )
    try:
        for epoch in range(done + 1, epochs + 1):
            with progress_bar(f"epoch {epoch}/{epochs}") as on_step:
                result = train_epoch(state, task, on_step)
            state.history.append(result)
            state.save(request.state_file, settings)
            say(
                f"epoch {epoch}/{epochs}: training loss {result.training_loss:.3f}, validation "
                f"loss {result.validation_loss:.3f}, top-1 {percent(result.accuracy)}"
            )
    except InputError as error:
        raise InputError(f"{error}{_how_to_resume(request)}") from None
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted{_how_to_resume(request)}") from None


def _how_to_resume(request: TrainRequest) -> str:
    """Says what is left of a training that stopped."""
    if not request.state_file.exists():
        return "; no epoch was finished, so nothing is kept"
    return (
        f"; all finished epochs are kept in {request.state_file}: the same command on the same "
        "images goes on from there, removing the file starts afresh"
    )


def _finish(state: TrainingState, task: Task, request: TrainRequest) -> None:
    weights = encode_checkpoint(state.average, task.preprocess, task.training.class_names)
    with replace_file(request.out) as stream:
        stream.write(weights)
    title = f"{request.title} on {request.data.resolve().name}"
    plot_history(state.history, title, request.plot)
    request.state_file.unlink()
    say(f"weights: {request.out}\nlosses and accuracy by epoch: {request.plot}")
    accuracy = state.history[-1].accuracy
    print(f"top-1 on {len(task.validation)} validation images: {percent(accuracy)}")
