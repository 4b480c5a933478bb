"""A study: the grid of its variants, and the list of runs in the order in which they are done."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..builders import check_model
from ..config import Config, find_config, flatten, load_config, read_config
from ..data.prepare.split import EVERY
from ..errors import UserError, did_you_mean, nearest, quote, unknown_name
from ..files import read_regular
from ..strict_yaml import build, dump, key_names, parse

MAX_NAME = 100  # bytes of a variant's name, which becomes the name of files
FOLDER = r"\w[\w.-]*"  # the name of a study, which becomes that of folders
SUMMARY, PREDICTIONS = "study_run.json", "study_predictions.csv"  # in the folder of a run
SET_BY_THE_STUDY = ("train.seed", "train.output", "train.resume")
# these options do not decide the result of a run, or not more than rounding does
NOT_DECISIVE = {
    *SET_BY_THE_STUDY[1:],
    "train.device",
    "train.ops",
    "train.checkpoint_steps",
    "data.root",
    "data.workers",
    "data.cache",
}


@dataclass(frozen=True)
class Study:
    """The options of a study, as its YAML file has them."""

    base: str = ""  # the config that every variant changes, such as configs/towernet_none.yaml
    overrides: dict[str, Any] = field(default_factory=dict)  # of the base, such as {train.epochs: 40}
    models: tuple[str, ...] = ()  # values of model.name; empty: that of the base
    attentions: tuple[str | None, ...] = ()  # values of model.attn; null: none
    grid: dict[str, Any] = field(default_factory=dict)  # further options, each with the list of its values
    # sets of options by name, such as {short: {train.epochs: 10}, long: {train.epochs: 40, optim.lr: 0.02}}
    variants: dict[str, Any] = field(default_factory=dict)
    baseline: str | None = None  # the variant that the others are compared with; null: the first one
    # which folds are tested on; empty: no split is made, and the runs use train/ and eval/ in data.root
    folds: tuple[int, ...] = tuple(range(EVERY))
    seeds: tuple[int, ...] = (0,)  # each fold is trained with each of them
    source: str | None = None  # the photographs, as `paddle-attn split --source`; null: it looks in datasets/
    classes: tuple[str, ...] = ()  # use only these classes; empty: all, or the sixteen of the download
    # studies in results/ whose finished runs are copied where options, seed and split are the same
    reuse: tuple[str, ...] = ()
    name: str | None = None  # of the folders in output/studies and results; null: that of the file

    def __post_init__(self):
        for key, low, high in (("folds", 0, EVERY - 1), ("seeds", 0, 2**20)):
            values = getattr(self, key)
            if len(set(values)) < len(values) or not all(low <= value <= high for value in values):
                raise UserError(
                    f"{key} must be different whole numbers from {low} to {high}, found {quote(list(values))}"
                )
        if not self.seeds:
            raise UserError("seeds must have at least one number, such as [0]")
        if not self.base:
            raise UserError("base must be the path of a config, such as configs/towernet_none.yaml")
        if self.name is not None and not re.fullmatch(FOLDER, self.name):
            raise UserError(f"name must be the name of a folder, found {quote(self.name)}")
        if wrong := [name for name in self.reuse if not re.fullmatch(FOLDER, name)]:
            raise UserError(f"reuse must list names of studies, found {quote(wrong[0])}")
        known = key_names(Config)
        own = {"model.name": "models" * bool(self.models), "model.attn": "attentions" * bool(self.attentions)}
        axes = own | dict.fromkeys(self.grid, "grid")
        sets = {f"variants.{name}": options for name, options in self.variants.items()}
        for section, options in {"overrides": self.overrides, "grid": self.grid, **sets}.items():
            if not isinstance(options, dict):
                raise UserError(f"{section} must be a set of options, found {quote(options)}")
            for key in _full_names(options):
                if key in SET_BY_THE_STUDY or (key == "data.root" and self.folds):
                    raise UserError(f"{section} has {key}, which the study itself sets: remove it")
                if key == "data.root" and section != "overrides":
                    raise UserError(f"{section} has {key}, but variants are compared on the same images")
                if section in sets and axes.get(key):
                    raise UserError(f"{key} is in {section} and in {axes[key]}, expected it in one of them")
                if not any(f"{name}.".startswith(f"{key}.") or key.startswith(f"{name}.") for name in known):
                    raise UserError(
                        f"{section} has {quote(key)}, which is no option{did_you_mean(nearest(key, known))}"
                    )
        for key, values in self.grid.items():
            if not isinstance(values, list) or not values:
                raise UserError(f"grid.{key} must be a list of values, found {quote(values)}")
            if key in ("model.name", "model.attn"):
                raise UserError(f"grid has {key}: list its values under models or attentions")


def _full_names(options: dict[Any, Any], prefix: str = "") -> list[str]:
    """The names of options that may be given in sections, as in {model: {attn: se}}."""
    names = []
    for key, value in options.items():
        name = f"{prefix}{key}"
        is_section = isinstance(value, dict) and name != "model.attn_kwargs"
        names += _full_names(value, f"{name}.") if is_section and value else [name]
    return names


@dataclass(frozen=True)
class Variant:
    """One combination of the grid."""

    name: str
    config: Config


@dataclass(frozen=True)
class PlannedRun:
    """One training run of a study."""

    name: str
    variant: str
    fold: int
    seed: int
    config: Config
    config_hash: str


def load_study(path: str | os.PathLike) -> Study:
    """Read a study's YAML file, or the packaged study of this name, such as `studies/demo`.

    Raises UserError for a missing file, invalid YAML, an unknown key, or a value of the wrong type.
    """
    path = find_config(path)
    text = read_config(path, "study")
    tree = parse(text, str(path)) or {}
    if isinstance(tree, dict) and {"model", "data", "optim", "train"} & set(tree):
        raise UserError(f"{path} is the config of a training: use it with paddle-attn train -c")
    study = build(Study, tree)
    return study if study.name else dataclasses.replace(study, name=path.stem.replace(" ", "_"))


def list_variants(study: Study) -> list[Variant]:
    """Every combination of models, attentions, the grid and the sets of options, the baseline first.

    Raises: UserError for an invalid value, two variants of the same name, or an unknown baseline.
    """
    axes = {"model.name": list(study.models), "model.attn": list(study.attentions), **study.grid}
    axes = {key: values for key, values in (axes | {"variants": list(study.variants)}).items() if values}
    variants: dict[str, Variant] = {}
    for values in itertools.product(*axes.values()):
        chosen = dict(zip(axes, values, strict=True))
        named = {key: value for key, value in chosen.items() if key == "variants" or len(axes[key]) > 1}
        name = _variant_name(named)
        options = study.variants.get(chosen.pop("variants", ""), {})
        if name in variants:
            raise UserError(f"the grid has the variant {name} twice: expected different values")
        overrides = {**study.overrides, **options, **chosen}
        lines = [f"{key}={json.dumps(value)}" for key, value in overrides.items()]
        config = load_config(study.base, lines)
        check_model(config)
        variants[name] = Variant(name, config)
    baseline = study.baseline or next(iter(variants))
    if baseline not in variants:
        raise unknown_name("baseline", baseline, variants)
    return [variants.pop(baseline), *variants.values()]


def _variant_name(values: dict[str, Any]) -> str:
    """Such as 'resnet18-simam-lr=0.02': the values of the options that differ."""
    parts = []
    for key, value in values.items():
        text = "none" if value is None else value if isinstance(value, str) else json.dumps(value)
        is_name = key in ("model.name", "model.attn", "variants")
        parts.append(text if is_name else f"{key.rpartition('.')[2]}={text}")
    name = re.sub(r"[^\w.=+-]+", "_", "-".join(parts)).strip("_.") or "base"
    if len(name.encode()) <= MAX_NAME:
        return name
    short = name.encode()[: MAX_NAME - 9].decode(errors="ignore")  # not half of a character
    return f"{short}-{_digest(name)}"


def plan_runs(study: Study) -> list[PlannedRun]:
    """The runs of a study: fold by fold, in each fold seed by seed, in each of these variant by variant.

    So the runs that are done when a study is cut short have the variants paired.
    """
    variants = list_variants(study)
    runs = []
    for fold, seed, variant in itertools.product(study.folds or (0,), study.seeds, variants):
        name = f"{variant.name}_fold{fold}_seed{seed}"
        config = variant.config
        train = dataclasses.replace(
            config.train,
            # each fold starts from other weights: shared ones would hide a part of the spread of the runs
            seed=EVERY * seed + fold,
            output=str(study_folder(study) / "runs" / name),
            resume="auto",
        )
        root = str(fold_folder(study, fold)) if study.folds else config.data.root
        data = dataclasses.replace(config.data, root=root)
        config = dataclasses.replace(config, data=data, train=train)
        runs.append(PlannedRun(name, variant.name, fold, seed, config, config_hash(config)))
    return runs


def study_folder(study: Study) -> Path:
    """Where the runs of a study are: output/studies/NAME."""
    return Path("output", "studies", study.name)


def results_folder(study: Study) -> Path:
    """Where the results of a study are: results/NAME."""
    return Path("results", study.name)


def fold_folder(study: Study, fold: int) -> Path:
    """The split with this fold for eval."""
    return study_folder(study) / "data" / f"fold{fold}"


def config_hash(config: Config) -> str:
    """A short checksum of the options that decide a run's result, where they differ from the defaults."""
    defaults = flatten(Config())
    return _digest(
        {
            key: value
            for key, value in flatten(config).items()
            if key not in NOT_DECISIVE and value != defaults[key]
        }
    )


def data_hash(root: str | Path) -> str:
    """A short checksum of a split: its files, classes and colour statistics; '' without a `split.json`."""
    try:
        record = json.loads(read_regular(Path(root, "split.json")))
        return _digest([record[key] for key in ("classes", "files", "mean", "std")])
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, LookupError, TypeError):
        raise UserError(
            f"{Path(root, 'split.json')} is damaged: remove {root} and start again, it is made again"
        ) from None


def dump_study(study: Study) -> str:
    """The study as YAML that `load_study` reads back."""
    return dump(dataclasses.asdict(study))


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]
