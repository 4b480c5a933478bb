"""The options of a training run: frozen dataclasses, read from YAML, strictly.

Every option is defined here once, with its default, its bounds and its meaning. YAML files,
`-o section.key=value` overrides and Python code go through the same checks. Does not import Paddle.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import UserError, did_you_mean, quote, unknown_name
from .files import read_regular
from .strict_yaml import apply_override, build, dump, key_names, parse


def option(
    default: Any,
    *,
    low: float | None = None,
    high: float = math.inf,
    choices: Sequence[str] = (),
    rule: tuple[Callable[[Any], bool], str] | None = None,
) -> Any:
    """A dataclass field whose value is checked unless it is None.

    Args:
        low, high: the bounds, both included; no bounds without `low`.
        choices: the valid values.
        rule: a test of the value, and the words for what passes it.
    """
    return field(default=default, metadata={"low": low, "high": high, "choices": choices, "rule": rule})


class Section:
    """Checks each option when a section is built, and names it in full, such as `optim.lr`."""

    section = ""

    def __post_init__(self):
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if item.metadata and value is not None:
                _check(f"{self.section}.{item.name}", value, **item.metadata)


def _check(
    name: str,
    value: Any,
    low: float | None,
    high: float,
    choices: Sequence[str],
    rule: tuple[Callable[[Any], bool], str] | None,
) -> None:
    if choices and value not in choices:
        raise unknown_name(f"value of {name}", value, choices)
    if low is not None and not low <= value <= high:
        upper = "" if high == math.inf else f" and at most {high:,}"
        raise UserError(f"{name} must be at least {low:g}{upper}, found {value:g}")
    if rule and not rule[0](value):
        found = list(value) if isinstance(value, tuple) else value
        raise UserError(f"{name} must be {rule[1]}, found {quote(found)}")


@dataclass(frozen=True)
class ModelConfig(Section):
    section = "model"

    name: str = "towernet"  # one of paddle_attn.list_models()
    attn: str | None = None  # one of paddle_attn.list_attention(); null: none
    attn_kwargs: dict[str, Any] = field(default_factory=dict)  # its arguments, such as {e_lambda: 0.1}
    attn_pos: str = "paper"  # 'paper': where its authors put it; or 'pre_bn', 'post_bn', 'post_add', 'stage'
    num_classes: int | None = option(None, low=1, high=10**6)  # null: as many as the data has
    pretrained: bool = False  # start from Paddle's ImageNet weights; towernet: from this package's
    weights: str | None = None  # start from this .pdparams, .safetensors or PyTorch file

    def __post_init__(self):
        super().__post_init__()
        if self.pretrained and self.weights:
            raise UserError("model.pretrained and model.weights are both set, expected one of them")


@dataclass(frozen=True)
class AugmentConfig(Section):
    section = "data.augment"

    rotation: float = option(0.0, low=0, high=180)  # rotate by a random angle of up to ± this many degrees
    hflip: float = option(0.0, low=0, high=1)  # probability of a horizontal flip
    vflip: float = option(0.0, low=0, high=1)  # probability of a vertical flip
    # random resized crop: smallest and largest fraction of the area to keep, such as [0.08, 1.0]; null: off
    crop_scale: tuple[float, float] | None = option(
        None, rule=(lambda scale: 0 < scale[0] <= scale[1] <= 1, "[low, high] with 0 < low <= high <= 1")
    )
    color_jitter: float = option(0.0, low=0, high=1)  # of brightness, contrast, saturation: up to ± this
    mixup: float = option(0.0, low=0)  # blend two images; lam is drawn from Beta(mixup, mixup); 0: off
    cutmix: float = option(0.0, low=0)  # paste a rectangle of another image; with mixup: one of the two
    pad_crop: int = option(0, low=0, high=8192)  # pad by this many pixels, then crop at random (4 for CIFAR)


@dataclass(frozen=True)
class DataConfig(Section):
    section = "data"

    dataset: str = "folder"  # a key of data.datasets.DATASETS; 'folder': one folder per class
    root: str = "datasets/caltech101-16"  # train/<class>/*, eval/<class>/* (or val/); or CIFAR's archive
    size: int | None = option(None, low=1, high=8192)  # pixels, side of the square input; null: the model's
    # 'stretch': to the square; 'crop': short side to size / 0.875, then the centre
    resize: str = option("stretch", choices=("stretch", "crop"))
    # train on at most so many images of each class, evenly spread over its files; null: all
    per_class: int | None = option(None, low=1)
    mean: tuple[float, float, float] | None = None  # of R, G, B in 0..1; null: the model's
    # standard deviation of R, G, B; null: the model's
    std: tuple[float, float, float] | None = option(
        None, rule=(lambda std: min(std) > 0, "three positive numbers")
    )
    augment: AugmentConfig = field(default_factory=AugmentConfig)  # of the training images
    workers: int = option(0, low=0, high=256)  # processes that load images; 0: a thread beside training
    cache: int = option(1024, low=0)  # MB of memory for decoded, resized images; 0: none. Needs workers: 0


@dataclass(frozen=True)
class OptimConfig(Section):
    section = "optim"

    name: str = option("momentum", choices=("momentum", "sgd", "adam", "adamw"))  # the optimiser
    lr: float = option(0.01, low=0)  # the learning rate after warm-up
    momentum: float = option(0.9, low=0, high=1)  # of 'momentum'
    weight_decay: float = option(1e-4, low=0)  # L2 on every trainable parameter; decoupled with 'adamw'
    # 'cosine' falls to 0; 'step' and 'multistep' multiply the rate by step_gamma
    schedule: str = option("cosine", choices=("cosine", "step", "multistep", "constant"))
    schedule_unit: str = option("epoch", choices=("epoch", "step"))  # change the rate after each of these
    # 'cosine': units until the rate is 0, after which it rises again; null: those of the whole training
    t_max: int | None = option(None, low=1)
    step_epochs: int = option(30, low=1)  # 'step': epochs between two changes
    milestones: tuple[int, ...] = ()  # 'multistep': the epochs that start with a change, counted from 0
    step_gamma: float = option(0.1, low=0, high=1)  # the factor of 'step' and 'multistep'
    scale_lr: bool = False  # multiply the rate by the number of processes
    warmup_epochs: int = option(0, low=0)  # the rate rises linearly from 0 over this many epochs
    # scale the gradients so that their global norm is at most this; null: off
    clip_norm: float | None = option(None, rule=(lambda norm: norm > 0, "positive, or null for none"))
    accumulate: int = option(1, low=1)  # average the gradients of this many batches before each update
    # decay of a moving average of the weights, such as 0.999: evaluate and save the average; null: off
    ema_decay: float | None = option(
        None, rule=(lambda decay: 0 < decay < 1, "between 0 and 1, or null for none")
    )
    label_smoothing: float = option(0.0, low=0, high=1)  # of the training loss; the eval loss is not smoothed

    def __post_init__(self):
        super().__post_init__()
        milestones = list(self.milestones)
        if self.schedule == "multistep" and (not milestones or milestones != sorted(set(milestones))):
            raise UserError(f"optim.milestones must be epochs in rising order, found {quote(milestones)}")
        if self.t_max is not None and self.schedule != "cosine":
            raise UserError(
                f"optim.t_max is {self.t_max} with optim.schedule '{self.schedule}', "
                "expected 'cosine' or no t_max"
            )


@dataclass(frozen=True)
class TrainConfig(Section):
    section = "train"

    epochs: int = option(100, low=1, high=10**6)  # passes over the training images
    batch_size: int = option(32, low=1, high=10**6)  # images per step, in each process
    seed: int = option(0, low=0, high=2**32 - 1)  # of weights, order and augmentation
    # 'auto' (a GPU if Paddle has one), 'cpu', 'gpu', 'gpu:1'
    device: str = option(
        "auto", rule=(re.compile(r"auto|cpu|gpu(:\d+)?").fullmatch, "'auto', 'cpu', 'gpu' or 'gpu:N'")
    )
    sync_bn: bool = False  # batch norm uses the statistics of all processes; on GPUs only
    patience: int | None = option(None, low=1)  # stop after so many epochs without a new best; null: never
    stop_on_nan: bool = False  # stop when the loss or a weight is not a finite number
    # mixed precision: 'O1' (on a CPU: products in bfloat16), 'O2' (casts weights too, GPUs only); null: off
    amp: str | None = option(None, choices=("O1", "O2"))
    # compiled operators: 'auto', 'on' (an error if they are missing), 'off'; null: PADDLE_ATTN_OPS or 'auto'
    ops: str | None = option(None, choices=("auto", "on", "off"))
    output: str | None = None  # the run's folder; null: output/<config name>
    # true or 'auto': resume the run in train.output, if there is one; false: move it aside and start
    resume: bool | str = option(
        False, rule=(lambda value: value in (True, False, "auto", "true", "false"), "true, false or 'auto'")
    )
    checkpoint_steps: int | None = option(None, low=1)  # also save every so many steps; null: off


@dataclass(frozen=True)
class Config:
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


def load_config(path: str | os.PathLike, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file, or the packaged config of a name, and apply `section.key=value` overrides in order.

    Raises UserError for a missing file, invalid YAML, an unknown key, a wrong type or a value out of range.
    """
    path = find_config(path)
    tree = parse(read_config(path), str(path))
    tree = {} if tree is None else tree
    if not isinstance(tree, dict):
        sections = ", ".join(item.name for item in dataclasses.fields(Config))
        raise UserError(f"{path} must hold sections ({sections}), found a {type(tree).__name__}")
    known = key_names(Config)
    if {"base", "attentions", "folds"} & set(tree):
        raise UserError(f"{path} is the config of a study: use it with paddle-attn study -c")
    attention = _attention(tree)
    for override in overrides:
        apply_override(tree, override, known)
    if _attention(tree) != attention:  # the file's arguments are those of its own attention
        tree["model"].pop("attn_kwargs", None)
        for override in overrides:
            if override.startswith("model.attn_kwargs"):
                apply_override(tree, override, known)
    config = build(Config, tree)
    if config.train.output is None:
        # the config that a run wrote is beside its classes.txt, and the run is where its folder is now
        is_of_a_run = path.name == "config.yaml" and path.with_name("classes.txt").exists()
        output = str(path.parent if is_of_a_run else Path("output") / path.stem)
        config = dataclasses.replace(config, train=dataclasses.replace(config.train, output=output))
    return config


def _attention(tree: dict) -> Any:
    model = tree.get("model")
    return model.get("attn") if isinstance(model, dict) else None


def list_configs() -> dict[str, Path]:
    """The configs of this package by name, such as `towernet_simam` or `cifar/resnet20_simam`.

    A wheel contains them in the package; in a clone they are beside it.
    """
    package = Path(__file__).parent
    folder = next(filter(Path.is_dir, (package / "configs", package.parent / "configs")), None)
    paths = sorted(folder.rglob("*.yaml")) if folder else []
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths}


def find_config(name: str | os.PathLike) -> Path:
    """The file of this path if it exists, else the packaged config of this name, else the path itself.

    A packaged config has two names: `towernet_simam` and `configs/towernet_simam.yaml`.
    """
    path = Path(name)
    if os.path.exists(path) and not path.is_dir():
        return path
    return list_configs().get(path.as_posix().removeprefix("configs/").removesuffix(".yaml"), path)


def read_config(path: Path, kind: str = "config") -> str:
    """The text of a config. Raises UserError, which names the configs with the most similar names."""
    try:
        return read_regular(path).decode("utf-8")
    except OSError as error:
        hint = did_you_mean(*([] if path.exists() else _nearest_configs(path)))
        raise UserError(f"cannot read the {kind} {path}: {error.strerror or error}{hint}") from None
    except UnicodeDecodeError:
        raise UserError(f"cannot read the {kind} {path}: it is not UTF-8 text") from None


def _nearest_configs(path: Path) -> list[str]:
    """The configs with the most similar names, beside `path` or in this package, at most three."""
    packaged = {file.resolve(): name for name, file in list_configs().items()}
    beside = [file for file in path.parent.glob("*.yaml") if file.resolve() not in packaged]
    found = [(file.stem, str(file)) for file in beside]
    found += [(name.rpartition("/")[2], name) for name in packaged.values()]
    near = difflib.get_close_matches(path.stem, {stem for stem, _ in found}, cutoff=0.5)
    return [name for each in near for stem, name in found if stem == each][:3]


def dump_config(config: Config) -> str:
    """The config as YAML that `load_config` reads back."""
    return dump(dataclasses.asdict(config))


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Every option by its full name, such as 'optim.lr' or 'data.augment.rotation'; tuples become lists."""
    flat: dict[str, Any] = {}
    for item in dataclasses.fields(config):
        name, value = f"{prefix}{item.name}", getattr(config, item.name)
        flat |= flatten(value, f"{name}.") if dataclasses.is_dataclass(value) else {name: _as_lists(value)}
    return flat


def _as_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_lists(item) for key, item in value.items()}
    return [_as_lists(item) for item in value] if isinstance(value, (list, tuple)) else value
