"""The door `hf:ID`, `hf:FOLDER` or a folder of `save_pretrained`: any vision model of
transformers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from vit_edge.runtime.errors import InputError, first_line
from vit_edge.vit.checkpoints.choice import listed
from vit_edge.vit.checkpoints.folder import read_json
from vit_edge.vit.checkpoints.formats import fetch
from vit_edge.vit.checkpoints.processor import read_processor
from vit_edge.vit.hints import ModelHints

from . import RANDOM, is_saved_folder
from .libraries import import_library, random_weights, transformers_hints
from .local_weights import load_weights, read_weights
from .module import LoadedModule, find_module_source
from .source import Source

if TYPE_CHECKING:
    from vit_edge.export.plan import ExportRequest

PREFIX = "hf:"
_PROCESSOR, _WHOLE_PROCESSOR = "preprocessor_config.json", "processor_config.json"
_LABELS_ONLY = ("do_reduce_labels",)
"""Steps of a processor that do nothing to images."""


def find_source(request: ExportRequest) -> Source:
    """Returns the model as a source. Raises InputError if it cannot be used."""
    return find_module_source(load(request), request)


def load(request: ExportRequest) -> LoadedModule:
    """Makes the model; its preprocessing is that of its image processor.

    Raises:
        InputError: if transformers is not installed, or the folder or its model cannot be used.
    """
    assert isinstance(request.model, str)
    library = import_library("transformers", f"{PREFIX}ID")
    name = request.model.removeprefix(PREFIX)
    folder = Path(name)
    if not folder.is_dir():
        folder = fetch(f"{PREFIX}{name}")
    if not is_saved_folder(folder):
        raise InputError(f"{folder} has no config.json: give a folder that save_pretrained wrote")
    config = _read_config(library, folder)
    kind = _find_class(library, config, folder)
    module, weights, notes = _load(library, kind, config, folder, request)
    processor = _read_processor(folder, request.facts)
    hints = processor.or_else(transformers_hints(config))
    origin = "its image processor and config" if processor != ModelHints() else "its config"
    facts = {
        "source": request.model if not Path(name).is_dir() else f"{PREFIX}{folder.resolve().name}",
        "class": kind.__name__,
        "transformers": library.__version__,
    }
    title = folder.resolve().name if Path(name).is_dir() else name.partition("@")[0]
    return LoadedModule(title, module, weights, hints, origin, facts, notes)


def _read_config(library: Any, folder: Path) -> Any:
    fields = read_json(folder / "config.json")
    if "architecture" in fields:
        name, weights = fields["architecture"], folder / "model.safetensors"
        raise InputError(
            f"{folder} is of timm, not of transformers: give timm:{name} --weights {weights}"
        )
    if "auto_map" in fields:
        raise InputError(
            f"{folder} needs Python code of its own (auto_map), which is not run: build the module "
            "in a file of yours and give FILE.py:FUNCTION"
        )
    try:
        return library.AutoConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises whatever it stumbles over
        raise InputError(
            f"{folder / 'config.json'} cannot be used by transformers {library.__version__}: "
            f"{first_line(error)}"
        ) from None


def _find_class(library: Any, config: Any, folder: Path) -> Any:
    """The class that saved the model, or of a pair of towers the one for images."""
    names = list(getattr(config, "architectures", None) or ())
    if not names:
        raise InputError(
            f"{folder / 'config.json'} does not say its class: add "
            '"architectures": ["CLASS OF TRANSFORMERS"]'
        )
    stem = names[0].removesuffix("Model")
    for name in (names[0], f"{stem}VisionModelWithProjection", f"{stem}VisionModel"):
        kind = getattr(library, name, None)
        if kind is not None and getattr(kind, "main_input_name", "") == "pixel_values":
            return kind
    raise InputError(f"transformers {library.__version__} has no model {names[0]} for images")


def _load(
    library: Any, kind: Any, config: Any, folder: Path, request: ExportRequest
) -> tuple[nn.Module, str, tuple[str, ...]]:
    """The model, the origin of its weights in words, and notes on tensors that were left out."""
    if kind.config_class is not None and not isinstance(config, kind.config_class):
        vision, width = config.vision_config, getattr(config, "projection_dim", None)
        if width is not None:  # of both towers
            vision.projection_dim = width
        config = vision
    if request.weights == RANDOM:
        with random_weights(request.seed):
            return kind(config), RANDOM, ()
    if request.weights is not None:
        module, local = kind(config), read_weights(request)
        return module, local.source, load_weights(module, local)
    try:
        with _quiet(library):
            module, loading = kind.from_pretrained(
                folder, config=config, output_loading_info=True, local_files_only=True
            )
    except Exception as error:  # as above
        raise InputError(
            f"{folder} cannot be loaded as {kind.__name__} ({first_line(error)}): give its weights "
            "as --weights FILE, or --weights random to measure speed alone"
        ) from None
    missing = sorted(map(str, loading["missing_keys"])) + [
        str(key) for key, *_ in loading.get("mismatched_keys", ())
    ]
    if missing:
        raise InputError(
            f"{folder} lacks weights of {kind.__name__}, which would be random: {listed(missing)}"
        )
    extra = sorted(map(str, loading["unexpected_keys"]))
    notes = (f"left out: {len(extra)} tensors, as {extra[0]}",) if extra else ()
    return module, f"{PREFIX}{folder.resolve().name}", notes


@contextmanager
def _quiet(library: Any) -> Iterator[None]:
    """Keeps the library from drawing progress bars, and from warning of what is an error here."""
    logging = library.utils.logging
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        logging.enable_progress_bar()


def _read_processor(folder: Path, user: ModelHints) -> ModelHints:
    """Hints of the image processor; none where there is none, or the user says it all."""
    said = (user.mean, user.std, user.interpolation, user.crop, user.crop_mode)
    if None not in said:
        return ModelHints()
    path, fields = folder / _PROCESSOR, dict[str, Any]()
    if path.is_file():
        fields = read_json(path)
    elif (folder / _WHOLE_PROCESSOR).is_file():
        path = folder / _WHOLE_PROCESSOR
        fields = read_json(path).get("image_processor") or {}
    if not fields:
        return ModelHints()
    return read_processor({k: v for k, v in fields.items() if k not in _LABELS_ONLY}, path)
