"""What `paddle-attn explain` does: from trained weights and image files to figures."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
import paddle
from paddle import Tensor, nn
from PIL import Image

from .. import ops
from ..builders import load_trained, make_preprocess, set_device
from ..config import Config
from ..data.images import find_images, load_image
from ..data.transforms import Preprocess
from ..errors import UserError, escaped, unknown_name
from ..files import atomic_write, shown
from .cam import ClassMaps, class_maps, to_image_size
from .faithfulness import check_randomisation, deletion_insertion, random_maps
from .figure import MARK, Overlay, Trial, gate_columns, plot_columns, plot_faithfulness
from .gates import attention_gates
from .recording import last_map, list_attentions, list_layers

MAX_COLUMNS = 5  # of gates in a figure
BATCH = 8


@dataclass(frozen=True)
class Trained:
    """A trained network with what it needs to see an image as in its training."""

    title: str
    net: nn.Layer
    classes: list[str]
    preprocess: Preprocess
    config: Config

    @classmethod
    def load(cls, config: Config, weights: str | Path) -> Trained:
        net, classes = load_trained(config, weights)
        model = config.model
        title = model.name if model.attn is None else f"{model.name}-{model.attn}"
        return cls(title, net, classes, make_preprocess(config), config)

    def see(self, images: Iterable[Image.Image]) -> tuple[np.ndarray, Tensor]:
        """The images as uint8 `[N, size, size, 3]` and as the network's input `[N, 3, size, size]`."""
        pixels = np.stack([self.preprocess.resize(image) for image in images])
        return pixels, paddle.to_tensor(np.stack([self.preprocess.normalise(each) for each in pixels]))

    def class_id(self, name: str | None) -> int | None:
        """The number of a class by its name. Raises UserError."""
        if name is None:
            return None
        if name not in self.classes:
            raise unknown_name(f"class of {self.title}", name, self.classes)
        return self.classes.index(name)


def read_images(
    inputs: Sequence[str], limit: int, on_error: Callable[[UserError], None]
) -> tuple[list[str], list[Image.Image], int]:
    """The names and contents of at most `limit` images of files and folders, and how many more there are.

    A smaller limit takes one image of each folder in turn, so that all classes are shown.
    """
    found = [each for item in inputs for each in find_images(Path(item))]
    folders: dict[Path, list[int]] = {}  # the places in `found` of a folder's images
    for place, each in enumerate(found):
        if isinstance(each, UserError):
            on_error(each)
        else:
            folders.setdefault(each.parent, []).append(place)
    in_turn = [place for turn in zip_longest(*folders.values()) for place in turn if place is not None]
    read: dict[int, Image.Image] = {}
    tried = 0
    while tried < len(in_turn) and len(read) < limit:
        place = in_turn[tried]
        tried += 1
        try:
            read[place] = load_image(found[place])
        except UserError as error:
            on_error(error)
    places = sorted(read)
    names = [f"{found[place].parent.name}/{found[place].name}".lstrip("/") for place in places]
    return names, [read[place] for place in places], len(in_turn) - tried


def check_target(path: Path) -> None:
    """Raises UserError when `path` is a file that this command did not write, or not a PNG's name."""
    if not str(path).startswith("/dev/") and path.suffix.lower() != ".png":
        raise UserError(f"the figure is a PNG: expected a name that ends with .png, found {path}")
    if path.is_file() and not _is_ours(path):
        raise UserError(f"{path} is not a figure of this command, and is not replaced: choose another --out")


def _is_ours(path: Path) -> bool:
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return image.info.get("Software") == MARK["Software"]
    except Exception:  # not a PNG, or a damaged one
        return False


def layer_lines(trained: Trained) -> list[str]:
    """A line for each layer with a spatial map: its name, its class, the map's size, its note."""
    size = trained.preprocess.size
    blank = paddle.zeros([1, 3, size, size])
    default, attentions = last_map(trained.net, blank), list_attentions(trained.net)
    lines = []
    for call in list_layers(trained.net, blank):
        if call.has_map:
            shape = "x".join(map(str, call.shape[1:]))
            note = "  (default)" if call.name == default else "  (a gate)" if call.name in attentions else ""
            lines.append(f"{call.name:32s} {call.kind:24s} {shape}{note}")
    return lines


def class_lines(models: Sequence[Trained], results: Sequence[ClassMaps], names: Sequence[str]) -> list[str]:
    """For each model a line with the method and the layer, and one for each image: its class and score."""
    lines = []
    for model, result in zip(models, results, strict=True):
        lines.append(f"{model.title}: {result.method} at {result.layer}")
        for name, number, score in zip(names, result.class_ids, result.scores, strict=True):
            lines.append(f"  {100 * score:6.2f} %  {escaped(model.classes[number])}  {shown(name)}")
    return lines


def trial_lines(trials: Sequence[Trial]) -> list[str]:
    """For each model the areas under its curves beside those of random maps, and the verdict."""
    lines = []
    for trial in trials:
        curves, control = trial.curves, trial.control
        lines += [
            f"{trial.title}: deletion {curves.deletion_area.mean():.3f} (random map "
            f"{control.deletion_area.mean():.3f}, lower is better), insertion "
            f"{curves.insertion_area.mean():.3f} ({control.insertion_area.mean():.3f}, higher is better)",
            f"{trial.title}: {trial.randomisation.verdict}",
        ]
    return lines


def explain_class(
    models: Sequence[Trained],
    names: Sequence[str],
    images: Sequence[Image.Image],
    method: str,
    layer: str | None,
    class_name: str | None,
    out: Path,
) -> list[ClassMaps]:
    """Write the figure of class activation maps, a column for each model; returns the maps of each."""
    columns, results = [], []
    for model in models:
        pixels, inputs = model.see(images)
        result = _maps(model, inputs, method, layer, class_name)
        captions = [
            f"{model.classes[number]} {100 * score:.0f} %{'' if map_.any() else ': no evidence'}"
            for number, score, map_ in zip(result.class_ids, result.scores, result.maps, strict=True)
        ]
        maps = to_image_size(result.maps, *pixels.shape[1:3])
        columns.append(Overlay(model.title if len(models) > 1 else "", pixels, maps, captions))
        results.append(result)
    title = f"{method} at {', '.join(dict.fromkeys(result.layer for result in results))}"
    if len(models) == 1:
        title = f"{models[0].title}: {title}"
    pixels = models[0].see(images)[0]
    atomic_write(out, lambda part: plot_columns(pixels, names, columns, part, title))
    return results


def _maps(
    model: Trained, inputs: Tensor, method: str, layer: str | None, class_name: str | None
) -> ClassMaps:
    """`class_maps` in batches, which bound the memory."""
    class_id = model.class_id(class_name)
    with ops.using(model.config.train.ops):
        parts = [
            class_maps(model.net, inputs[start : start + BATCH], method, layer, class_id)
            for start in range(0, len(inputs), BATCH)
        ]
    return dataclasses.replace(
        parts[0],
        maps=np.concatenate([part.maps for part in parts]),
        class_ids=[number for part in parts for number in part.class_ids],
        probabilities=np.concatenate([part.probabilities for part in parts]),
    )


def explain_gates(
    models: Sequence[Trained],
    names: Sequence[str],
    images: Sequence[Image.Image],
    layer: str | None,
    out: Path,
) -> list[str]:
    """Write the figure of gates, of the named attention or a selection; returns the attentions shown."""
    columns, gates_shown = [], []
    for model in models:
        pixels, inputs = model.see(images)
        every = list(list_attentions(model.net))
        with ops.using(model.config.train.ops):
            first = gate_columns(
                pixels, attention_gates(model.net, inputs[:1], [layer] if layer else every[:1])
            )
            few = max(1, MAX_COLUMNS // len(models) // len(first))
            chosen = [layer] if layer else _evenly(every, few)
            gates = attention_gates(model.net, inputs, chosen)
        for column in gate_columns(pixels, gates):
            title = f"{model.title}\n{column.title}" if len(models) > 1 else column.title
            columns.append(dataclasses.replace(column, title=title))
        gates_shown += [gate.layer for gate in gates]
    pixels = models[0].see(images)[0]
    title = f"{', '.join(model.title for model in models)}: gates of the attention"
    atomic_write(out, lambda part: plot_columns(pixels, names, columns, part, title))
    return gates_shown


def _evenly(names: list[str], count: int) -> list[str]:
    """At most `count` of the names: the last one, and others at equal distances before it."""
    places = np.linspace(len(names) - 1, 0, count) if count > 1 else [len(names) - 1]
    return [names[place] for place in sorted({round(place) for place in places})]


def judge(
    models: Sequence[Trained], images: Sequence[Image.Image], results: Sequence[ClassMaps], out: Path
) -> list[Trial]:
    """Write the figure that judges each model's maps; returns what it shows."""
    trials = [
        _trial(model, model.see(images)[1], result) for model, result in zip(models, results, strict=True)
    ]
    pixels = models[0].see(images)[0]
    atomic_write(out, lambda part: plot_faithfulness(pixels, trials, part))
    return trials


def _trial(model: Trained, inputs: Tensor, result: ClassMaps) -> Trial:
    control = random_maps(*result.maps.shape)
    with ops.using(model.config.train.ops):
        return Trial(
            f"{model.title} {result.method}",
            deletion_insertion(model.net, inputs, result.maps, result.class_ids),
            deletion_insertion(model.net, inputs, control, result.class_ids),
            check_randomisation(
                model.net,
                inputs,
                lambda net: class_maps(net, inputs, result.method, result.layer, result.class_ids).maps,
            ),
        )


def load_models(configs: Sequence[Config], weights: Sequence[str]) -> list[Trained]:
    """The trained networks, on the device of the first config."""
    set_device(configs[0].train.device)
    return [Trained.load(config, path) for config, path in zip(configs, weights, strict=True)]
