"""What a training run can be told: frozen dataclasses, read from YAML, strictly.

Every option, its default and its meaning stand here and nowhere else. A YAML file and `-o section.key=value` overrides pass
through the same checks: an unknown key, a wrong type or a value out of range is one sentence. This file does not import Paddle.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
import reprlib
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from .errors import UserError, unknown_name

_REPR = reprlib.Repr()  # short, whatever stands in a file
_REPR.maxstring = 80


def _one_of(key: str, value: object, choices: Sequence[str]) -> None:
    if value not in choices:
        raise unknown_name(f"value of {key}", value, choices)


def _in_range(key: str, value: float, low: float, high: float = float("inf")) -> None:
    if not low <= value <= high:
        upper = "" if high == float("inf") else f" and at most {high:,}"
        raise UserError(f"{key} must be at least {low:g}{upper}, found {value:g}")


@dataclass(frozen=True)
class ModelConfig:
    name: str = "towernet"  # one of paddle_attn.list_models()
    attn: str | None = (
        None  # one of paddle_attn.list_attention(), 'sk' for networks of bottlenecks, or null for none
    )
    attn_kwargs: dict[str, Any] = field(
        default_factory=dict
    )  # the attention's own arguments: {e_lambda: 0.1}, {groups: 8}, …
    attn_pos: str = "paper"  # where it sits: 'paper' is its authors' place; 'pre_bn', 'post_bn', 'post_add', 'stage' are others
    num_classes: int | None = None  # null: as many as the data has
    pretrained: bool = False  # start from Paddle's own ImageNet weights
    weights: str | None = None  # start from this .pdparams, .safetensors or PyTorch checkpoint

    def __post_init__(self):
        if self.num_classes is not None:
            _in_range("model.num_classes", self.num_classes, 1, 10**6)
        if self.pretrained and self.weights:
            raise UserError("model.pretrained and model.weights are both set, expected one of them")


@dataclass(frozen=True)
class AugmentConfig:
    rotation: float = 10.0  # rotate by up to ± this many degrees (the notebook's only augmentation)
    hflip: float = 0.0  # probability of a mirror image
    vflip: float = 0.0  # probability of turning upside down
    crop_scale: tuple[float, float] | None = (
        None  # random-resized crop: the part of the area that is kept, e.g. [0.08, 1.0]
    )
    color_jitter: float = 0.0  # brightness, contrast and saturation vary by up to ± this fraction
    mixup: float = (
        0.0  # blend each image of a batch with another, by a fraction drawn from Beta(mixup, mixup); 0: none
    )
    cutmix: float = 0.0  # paste a rectangle of another image, its area drawn from Beta(cutmix, cutmix); with both, a batch gets one of them
    pad_crop: int = 0  # pad by this many pixels, then crop the size at a random place (4 for CIFAR)

    def __post_init__(self):
        _in_range("data.augment.rotation", self.rotation, 0, 180)
        _in_range("data.augment.hflip", self.hflip, 0, 1)
        _in_range("data.augment.vflip", self.vflip, 0, 1)
        _in_range("data.augment.color_jitter", self.color_jitter, 0, 1)
        _in_range("data.augment.pad_crop", self.pad_crop, 0, 8192)
        _in_range("data.augment.mixup", self.mixup, 0)
        _in_range("data.augment.cutmix", self.cutmix, 0)
        if self.crop_scale is not None:
            low, high = self.crop_scale
            if not 0 < low <= high <= 1:
                raise UserError(
                    f"data.augment.crop_scale must be [low, high] with 0 < low <= high <= 1, found [{low:g}, {high:g}]"
                )


@dataclass(frozen=True)
class DataConfig:
    dataset: str = "folder"  # 'folder' of class folders, or 'cifar10', 'cifar100'
    root: str = "datasets/caltech101-16"  # holds train/<class>/* and eval/<class>/* (or val/), as tools/split.py writes them; CIFAR's archive
    size: int | None = (
        None  # side of the square input; null: the model's own (256 for towernet, 224 for the others)
    )
    resize: str = "stretch"  # 'stretch' to the square (the notebook's), or 'crop': short side to size / 0.875, then the centre
    mean: tuple[float, float, float] | None = None  # of R, G, B in 0..1; null: the model's own
    std: tuple[float, float, float] | None = None  # likewise
    augment: AugmentConfig = field(default_factory=AugmentConfig)  # of the training part
    workers: int = 0  # processes that load images; 0: a thread beside the training
    cache: int = (
        1024  # MB of memory for images that are decoded and resized already; 0: none. Used when workers is 0
    )

    def __post_init__(self):
        if self.size is not None:
            _in_range("data.size", self.size, 1, 8192)
        _one_of("data.dataset", self.dataset, ("folder", "cifar10", "cifar100"))
        _one_of("data.resize", self.resize, ("stretch", "crop"))
        _in_range("data.workers", self.workers, 0, 256)
        _in_range("data.cache", self.cache, 0)
        if self.std is not None and min(self.std) <= 0:
            raise UserError(f"data.std must be three positive numbers, found {list(self.std)}")


@dataclass(frozen=True)
class OptimConfig:
    name: str = "momentum"  # 'momentum', 'sgd', 'adam', 'adamw'
    lr: float = 0.01  # the rate after warm-up
    momentum: float = 0.9  # of 'momentum'
    weight_decay: float = 1e-4  # L2, on every trainable parameter; decoupled under 'adamw'
    schedule: str = "cosine"  # 'cosine' to 0, 'step', 'multistep', 'constant'
    schedule_unit: str = "epoch"  # the rate changes after each 'epoch' or each 'step' (a batch)
    step_epochs: int = 30  # 'step': multiply by step_gamma after this many epochs, and again
    milestones: tuple[
        int, ...
    ] = ()  # 'multistep': multiply by step_gamma when each of these epochs begins, counted from 0
    step_gamma: float = 0.1  # the factor of 'step' and 'multistep'
    scale_lr: bool = False  # multiply the rate by the number of processes, as the images of a step are
    warmup_epochs: int = 0  # the rate climbs in a straight line over this many epochs
    clip_norm: float | None = (
        None  # scale the gradients down when their common norm exceeds this; null: never
    )
    accumulate: int = 1  # average the gradients of so many batches before each update
    ema_decay: float | None = (
        None  # evaluate and keep the moving average of the weights, with this decay, such as 0.999; null: the weights
    )
    label_smoothing: float = 0.0  # of the training loss; the eval loss is never smoothed

    def __post_init__(self):
        _one_of("optim.name", self.name, ("momentum", "sgd", "adam", "adamw"))
        _one_of("optim.schedule", self.schedule, ("cosine", "step", "multistep", "constant"))
        _one_of("optim.schedule_unit", self.schedule_unit, ("epoch", "step"))
        _in_range("optim.lr", self.lr, 0)
        _in_range("optim.momentum", self.momentum, 0, 1)
        _in_range("optim.weight_decay", self.weight_decay, 0)
        _in_range("optim.step_epochs", self.step_epochs, 1)
        if self.schedule == "multistep" and (
            not self.milestones or list(self.milestones) != sorted(set(self.milestones))
        ):
            raise UserError(f"optim.milestones must be epochs in rising order, found {list(self.milestones)}")
        _in_range("optim.step_gamma", self.step_gamma, 0, 1)
        _in_range("optim.warmup_epochs", self.warmup_epochs, 0)
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise UserError(f"optim.clip_norm must be positive, or null for none, found {self.clip_norm:g}")
        _in_range("optim.accumulate", self.accumulate, 1)
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise UserError(
                f"optim.ema_decay must lie between 0 and 1, or be null for none, found {self.ema_decay:g}"
            )
        _in_range("optim.label_smoothing", self.label_smoothing, 0, 1)


@dataclass(frozen=True)
class TrainConfig:
    epochs: int = 100  # passes over the training images
    batch_size: int = 32  # images a step, in each process
    seed: int = 0  # of weights, order and augmentation: the same seed gives the same run on the same machine
    device: str = "auto"  # 'auto' (a GPU where Paddle has one), 'cpu', 'gpu', 'gpu:1'
    sync_bn: bool = False  # batch norms take the statistics of all processes' images; on GPUs alone
    patience: int | None = None  # stop when eval top-1 has not risen for so many epochs; null: never
    stop_on_nan: bool = (
        False  # stop when the loss is no number any more, and name the step and the last good checkpoint
    )
    amp: str | None = (
        None  # mixed precision on a GPU: 'O1' (most operators), 'O2' (the weights too); null: none
    )
    ops: str | None = (
        None  # compiled CPU operators: 'auto', 'on' (or say why not), 'off'; null: what PADDLE_ATTN_OPS says, else 'auto'
    )
    output: str | None = None  # the run's folder; null: output/<config name>
    resume: bool | str = (
        False  # true or 'auto': go on with the run in train.output, if there is one; false: move it aside
    )
    checkpoint_steps: int | None = (
        None  # write a checkpoint every so many steps too, not after each epoch alone
    )

    def __post_init__(self):
        _in_range("train.epochs", self.epochs, 1, 10**6)
        _in_range("train.batch_size", self.batch_size, 1, 10**6)
        _in_range("train.seed", self.seed, 0, 2**32 - 1)
        if isinstance(self.resume, str):
            _one_of("train.resume", self.resume, ("auto", "true", "false"))
        if self.checkpoint_steps is not None:
            _in_range("train.checkpoint_steps", self.checkpoint_steps, 1)
        if self.patience is not None:
            _in_range("train.patience", self.patience, 1)
        if self.amp is not None:
            _one_of("train.amp", self.amp, ("O1", "O2"))
        if self.ops is not None:
            _one_of("train.ops", self.ops, ("auto", "on", "off"))
        if not re.fullmatch(r"auto|cpu|gpu(:\d+)?", self.device):
            raise UserError(f"train.device must be 'auto', 'cpu', 'gpu' or 'gpu:N', found '{self.device}'")


@dataclass(frozen=True)
class Config:
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


def load_config(path: str | os.PathLike, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file, apply `section.key=value` overrides in their order, check everything.

    Raises UserError in one sentence for a missing file, broken YAML, an unknown key, a wrong type or a value out of range.
    """
    path = Path(path)
    try:
        tree = _parse(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"cannot read the config {path}: {getattr(error, 'strerror', None) or 'it is not UTF-8 text'}"
        ) from None
    tree = {} if tree is None else tree
    if not isinstance(tree, dict):
        raise UserError(
            f"{path} must hold sections (model, data, optim, train), found a {type(tree).__name__}"
        )
    for override in overrides:
        _apply(tree, override)
    config = _build(Config, tree, "")
    if config.train.output is None:
        output = str(Path("output") / path.stem)
        config = dataclasses.replace(config, train=dataclasses.replace(config.train, output=output))
    return config


def dump_config(config: Config) -> str:
    """The config as YAML that `load_config` reads back."""
    return yaml.dump(_plain(dataclasses.asdict(config)), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Every option by its full name, such as 'optim.lr' or 'data.augment.rotation'; tuples become lists."""
    flat: dict[str, Any] = {}
    for option in dataclasses.fields(config):
        name, value = f"{prefix}{option.name}", getattr(config, option.name)
        flat |= flatten(value, f"{name}.") if dataclasses.is_dataclass(value) else {name: _plain(value)}
    return flat


def parse_mapping(text: str, where: str) -> dict[str, Any]:
    """A mapping in YAML's short form, such as `{reduction: 4}`. Raises UserError that names `where` it stood."""
    tree = _parse(text, where)
    if not isinstance(tree, dict) or not all(isinstance(name, str) for name in tree):
        raise UserError(f"{where} must be a mapping such as '{{reduction: 4}}', found {text!r}")
    return tree


class _Loader(yaml.SafeLoader):
    """YAML 1.2's floats and booleans (PyYAML alone takes 1e-4 for a text, and on and off for true and false), no key twice, no aliases."""

    yaml_implicit_resolvers: typing.ClassVar = {  # without PyYAML's booleans
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):  # a few lines of them can stand for billions of values
            raise yaml.composer.ComposerError(
                None, None, "an alias (*name), which no config needs", self.peek_event().start_mark
            )
        return super().compose_node(parent, index)

    def construct_yaml_int(self, node):
        value = super().construct_yaml_int(node)
        if abs(value) >= 2**63:
            raise yaml.constructor.ConstructorError(
                None, None, "a whole number of more than 63 bits", node.start_mark
            )
        return value

    def construct_mapping(self, node, deep=False):
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key.value}' stands twice", node.start_mark
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


class _Dumper(yaml.SafeDumper):
    """Puts in quotation marks whatever one of the two versions would not take for a text."""


for _side in (_Loader, _Dumper):
    _side.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
    )


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader: data only
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        raise UserError(
            f"{where} is not valid YAML{line}: {getattr(error, 'problem', None) or type(error).__name__}"
        ) from None


def _apply(tree: dict, override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"an override is written section.key=value, found '{override}'")
    *sections, last = key.split(".")
    for section in sections:
        if tree.get(section) is None:
            tree[section] = {}
        tree = tree[section]
        if not isinstance(tree, dict):
            raise UserError(f"cannot override '{key}': '{section}' is not a section")
    tree[last] = _parse(text, f"the override '{override}'")


def _build(cls: type, tree: Any, prefix: str) -> Any:
    """A dataclass from a mapping; every key must be a field and every value of its field's type."""
    if not isinstance(tree, dict):
        raise UserError(f"{prefix.rstrip('.')} must be a section of keys, found {_REPR.repr(tree)}")
    hints = typing.get_type_hints(cls)
    values = {}
    for key, value in tree.items():
        if key not in hints:
            raise unknown_name("config key", f"{prefix}{key}", [f"{prefix}{name}" for name in hints])
        values[key] = _coerce(hints[key], value, f"{prefix}{key}")
    return cls(**values)


def _coerce(hint: Any, value: Any, key: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _build(hint, {} if value is None else value, f"{key}.")
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        if value is None:
            return None
        hint, *others = (option for option in typing.get_args(hint) if option is not types.NoneType)
        hint = next((option for option in others if type(value) is option), hint)
    if typing.get_origin(hint) is tuple:
        members = typing.get_args(hint)
        if members[-1] is Ellipsis and isinstance(value, (list, tuple)):
            members = members[:1] * len(value)
        if not isinstance(value, (list, tuple)) or len(value) != len(members):
            raise UserError(f"{key} must be a list of {len(members)} numbers, found {_REPR.repr(value)}")
        return tuple(_coerce(member, item, key) for member, item in zip(members, value, strict=True))
    if typing.get_origin(hint) is dict:
        if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
            raise UserError(f"{key} must be a mapping of names to values, found {_REPR.repr(value)}")
        return dict(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, hint) or (hint is not bool and isinstance(value, bool)):
        words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
        raise UserError(f"{key} must be {words[hint]}, found {_REPR.repr(value)}")
    if hint is float and not math.isfinite(value):
        raise UserError(f"{key} must be a finite number, found {value}")
    return value


def _plain(tree: Any) -> Any:
    """Tuples as lists, so that any YAML reader takes the dump."""
    if isinstance(tree, dict):
        return {key: _plain(value) for key, value in tree.items()}
    return [_plain(value) for value in tree] if isinstance(tree, (list, tuple)) else tree
