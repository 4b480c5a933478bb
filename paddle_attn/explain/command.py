"""What `paddle-attn explain` does: from trained weights and image files to pictures."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import paddle
from paddle import Tensor, nn
from PIL import Image
from rich.cells import cell_len

from .. import ops
from ..builders import load_trained, make_preprocess, set_device
from ..cli import column
from ..config import Config
from ..data.images import find_images, in_turn, load_image
from ..data.transforms import Preprocess
from ..errors import UserError, escaped, unknown_name
from ..files import atomic_write, shown
from ..plotting.mark import check_replaceable
from .cam import ClassMaps, class_maps, to_image_size
from .faithfulness import check_randomisation, deletion_insertion, random_maps
from .figure import Overlay, Trial, gate_columns, plot_columns, plot_faithfulness
from .gates import attention_gates
from .recording import last_map, list_attentions, list_layers

MAX_COLUMNS = 5  # of gates in a picture
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


@dataclass(frozen=True)
class Options:
    """What `paddle-attn explain` shows, and where it writes."""

    out: Path
    method: str = "grad-cam"  # one of `METHODS`, or 'gate'
    layer: str | None = None
    class_name: str | None = None
    faithfulness: bool = False
    limit: int = 16  # images

    @classmethod
    def of(cls, arguments: argparse.Namespace, folder: str) -> Options:
        """The options of the command line; `folder` is that of the weights.

        Raises: UserError when they contradict each other, or would replace a file of the user.
        """
        out = Path(arguments.out or Path(folder, "explain.png"))
        names = ("method", "layer", "class_name", "faithfulness", "limit")
        options = cls(out, **{name: getattr(arguments, name) for name in names})
        if not arguments.inputs and not arguments.list_layers:
            raise UserError("there is nothing to explain: expected images or folders, or --list-layers")
        if options.limit < 1:
            raise UserError(f"--limit must be at least 1, found {options.limit}")
        if options.method == "gate" and (options.faithfulness or options.class_name):
            raise UserError("a gate belongs to no class: --faithfulness and --class expect another --method")
        for path in options.pictures:
            if not str(path).startswith("/dev/") and path.suffix.lower() != ".png":
                raise UserError(f"the picture is a PNG: expected a name that ends with .png, found {path}")
        check_replaceable(*options.pictures)
        return options

    @property
    def pictures(self) -> list[Path]:
        """The picture of the maps and, with `faithfulness`, the one that judges them."""
        judged = self.out.with_name(f"{self.out.stem}_faithfulness{self.out.suffix}")
        return [self.out, judged] if self.faithfulness else [self.out]


@dataclass(frozen=True)
class Inputs:
    """The images to explain."""

    names: list[str]
    images: list[Image.Image]
    left_out: int  # images beyond the limit


def read_images(inputs: Sequence[str], limit: int, on_error: Callable[[UserError], None]) -> Inputs:
    """At most `limit` images of files and folders; what cannot be read is passed to `on_error`.

    A smaller limit takes one image of each folder in turn, so that all classes are shown. The images of a
    folder beyond it are counted, not opened.
    """
    files: list[tuple[Path, bool]] = []  # and whether the file itself is an input
    for item in map(Path, inputs):
        for found in find_images(item):
            if isinstance(found, UserError):
                on_error(found)
            else:
                files.append((found, not item.is_dir()))
    read: dict[int, Image.Image] = {}
    left_out = 0
    for place in in_turn(file.parent for file, _ in files):
        file, is_input = files[place]
        if len(read) == limit and not is_input:
            left_out += 1
            continue
        try:
            image = load_image(file)
        except UserError as error:
            on_error(error)
            continue
        if len(read) < limit:
            read[place] = image
        else:
            left_out += 1
    chosen = [files[place][0] for place in sorted(read)]
    names = [f"{file.parent.name}/{file.name}".lstrip("/") for file in chosen]
    return Inputs(names, [read[place] for place in sorted(read)], left_out)


def explain(
    models: Sequence[Trained], inputs: Sequence[str], options: Options, on_error: Callable[[UserError], None]
) -> list[str]:
    """Write the pictures of images and folders.

    Returns: the lines to print; none when no image could be read.
    """
    found = read_images(inputs, options.limit, on_error)
    if not found.images:
        return []
    if found.left_out:
        text = f"shows {len(found.images)} images and leaves out {found.left_out}: --limit sets how many"
        print(text, file=sys.stderr)
    if options.method == "gate":
        lines = [f"gates of {', '.join(explain_gates(models, found, options))}"]
    else:
        results = explain_class(models, found, options)
        lines = class_lines(models, results, found.names)
        if options.faithfulness:
            lines += trial_lines(judge(models, found.images, results, options.pictures[-1]))
    return [*lines, f"wrote {' and '.join(map(shown, options.pictures))}"]


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
        classes = [model.classes[number] for number in result.class_ids]
        width = max(cell_len(escaped(name)) for name in classes)
        for name, class_name, score in zip(names, classes, result.scores, strict=True):
            lines.append(f"  {100 * score:6.2f} %  {column(class_name, width)}  {shown(name)}")
    return lines


def trial_lines(trials: Sequence[Trial]) -> list[str]:
    """For each model the areas under its curves beside those of random maps, and the verdict."""
    lines = []
    for trial in trials:
        curves, control = trial.curves, trial.control
        lines += [
            f"{trial.title}:",
            f"  deletion {curves.deletion_area.mean():.3f}, random map "
            f"{control.deletion_area.mean():.3f} (lower is better)",
            f"  insertion {curves.insertion_area.mean():.3f}, random map "
            f"{control.insertion_area.mean():.3f} (higher is better)",
            f"  {trial.randomisation.verdict}",
        ]
    return lines


def explain_class(models: Sequence[Trained], found: Inputs, options: Options) -> list[ClassMaps]:
    """Write the picture of class activation maps, a column for each model; returns the maps of each."""
    columns, results = [], []
    for model in models:
        pixels, inputs = model.see(found.images)
        result = _maps(model, inputs, options)
        captions = [
            f"{model.classes[number]} {100 * score:.0f} %{'' if map_.any() else ': no evidence'}"
            for number, score, map_ in zip(result.class_ids, result.scores, result.maps, strict=True)
        ]
        maps = to_image_size(result.maps, *pixels.shape[1:3])
        columns.append(Overlay(model.title if len(models) > 1 else "", pixels, maps, captions))
        results.append(result)
    title = f"{options.method} at {', '.join(dict.fromkeys(result.layer for result in results))}"
    if len(models) == 1:
        title = f"{models[0].title}: {title}"
    pixels = models[0].see(found.images)[0]
    atomic_write(options.out, lambda part: plot_columns(pixels, found.names, columns, part, title))
    return results


def _maps(model: Trained, inputs: Tensor, options: Options) -> ClassMaps:
    """`class_maps` in batches, which bound the memory."""
    class_id = model.class_id(options.class_name)
    with ops.using(model.config.train.ops):
        parts = [
            class_maps(model.net, inputs[start : start + BATCH], options.method, options.layer, class_id)
            for start in range(0, len(inputs), BATCH)
        ]
    return dataclasses.replace(
        parts[0],
        maps=np.concatenate([part.maps for part in parts]),
        class_ids=[number for part in parts for number in part.class_ids],
        probabilities=np.concatenate([part.probabilities for part in parts]),
    )


def explain_gates(models: Sequence[Trained], found: Inputs, options: Options) -> list[str]:
    """Write the picture of gates, of the named attention or a selection; returns the attentions shown."""
    columns, gates_shown = [], []
    for model in models:
        pixels, inputs = model.see(found.images)
        every = list(list_attentions(model.net))
        with ops.using(model.config.train.ops):
            chosen = [options.layer] if options.layer else every[:1]
            first = gate_columns(pixels, attention_gates(model.net, inputs[:1], chosen))
            if not options.layer:
                chosen = _evenly(every, max(1, MAX_COLUMNS // len(models) // len(first)))
            gates = attention_gates(model.net, inputs, chosen)
        for each in gate_columns(pixels, gates):
            title = f"{model.title}\n{each.title}" if len(models) > 1 else each.title
            columns.append(dataclasses.replace(each, title=title))
        gates_shown += [gate.layer for gate in gates]
    pixels = models[0].see(found.images)[0]
    title = f"{', '.join(model.title for model in models)}: gates of the attention"
    atomic_write(options.out, lambda part: plot_columns(pixels, found.names, columns, part, title))
    return gates_shown


def _evenly(names: list[str], count: int) -> list[str]:
    """At most `count` of the names: the last one, and others at equal distances before it."""
    places = np.linspace(len(names) - 1, 0, count) if count > 1 else [len(names) - 1]
    return [names[place] for place in sorted({round(place) for place in places})]


def judge(
    models: Sequence[Trained], images: Sequence[Image.Image], results: Sequence[ClassMaps], out: Path
) -> list[Trial]:
    """Write the picture that judges each model's maps; returns what it shows."""
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
