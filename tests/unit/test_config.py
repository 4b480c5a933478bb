"""The config: strict, one sentence for each mistake, and a dump is read back."""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from helpers import ROOT
from hypothesis import example, given
from hypothesis import strategies as st

from paddle_attn import create_model, model_spec
from paddle_attn.config import (
    AugmentConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimConfig,
    Section,
    TrainConfig,
    dump_config,
    find_config,
    flatten,
    load_config,
)
from paddle_attn.errors import UserError

CONFIGS = [path for path in sorted((ROOT / "configs").rglob("*.yaml")) if path.parent.name != "studies"]


def is_one_line(message: str) -> bool:
    """Printable, as every terminal and log shows it, and short enough to read."""
    return message.isprintable() and 0 < len(message) < 1000


def write(folder: Path, text: str) -> Path:
    path = folder / "some.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_an_empty_config_is_the_defaults(tmp_path: Path):
    assert load_config(write(tmp_path, "")) == Config(train=TrainConfig(output=str(Path("output") / "some")))


def test_the_towernet_config_is_the_notebooks_recipe():
    options = flatten(load_config(ROOT / "configs" / "towernet_simam.yaml"))
    recipe = {
        "train.epochs": 100,
        "train.batch_size": 32,
        "optim.name": "momentum",
        "optim.lr": 0.01,
        "optim.momentum": 0.9,
        "optim.weight_decay": 2e-4,
        "optim.schedule": "cosine",
        "optim.schedule_unit": "epoch",
        "data.resize": "stretch",
        "data.augment.rotation": 10.0,
    }
    assert recipe.items() <= options.items()


def test_no_augmentation_is_the_default():
    assert not any(value for name, value in flatten(Config()).items() if name.startswith("data.augment."))


def config_name(path: Path) -> str:
    return path.relative_to(ROOT / "configs").as_posix()


@pytest.mark.parametrize("path", CONFIGS, ids=config_name)
def test_every_config_is_valid_short_and_headed_by_its_command(path: Path):
    config = load_config(path)
    lines = path.read_text().splitlines()
    name = path.relative_to(ROOT / "configs").with_suffix("").as_posix()
    assert lines[0].startswith(f"# paddle-attn train -c {name}") and find_config(name) == path
    assert len(lines) <= 20
    assert model_spec(config.model.name)
    if path.stem != "demo":
        assert path.stem == f"{config.model.name.removeprefix('cifar_')}_{config.model.attn or 'none'}"


SMALL = ("towernet", "mobilenet_v2", "cifar/resnet20", "cifar/preresnet20")  # test_models has the others


@pytest.mark.parametrize(
    "path", [path for path in CONFIGS if config_name(path).startswith(SMALL)], ids=config_name
)
def test_the_attention_of_a_config_fits_its_model(path: Path):
    model = load_config(path).model
    create_model(model.name, model.attn, model.attn_kwargs, num_classes=16)


def test_every_model_of_the_configs_has_every_attention():
    models = {"towernet", "vgg19", "resnet50", "mobilenet_v2"}
    wanted = {f"{model}_{attn}" for model in models for attn in ("none", "simam", "se", "cbam", "sge")}
    assert wanted <= {path.stem for path in CONFIGS}


def test_another_attention_does_not_take_the_arguments_of_the_files_attention(tmp_path: Path):
    path = write(tmp_path, "model: {attn: simam, attn_kwargs: {e_lambda: 0.1}}")
    assert load_config(path, ["model.attn=se"]).model.attn_kwargs == {}
    assert load_config(path, ["model.attn=null"]).model.attn_kwargs == {}
    overrides = ["model.attn_kwargs.reduction=4", "model.attn=se"]
    assert load_config(path, overrides).model.attn_kwargs == {"reduction": 4}
    assert load_config(path, ["model.attn=simam"]).model.attn_kwargs == {"e_lambda": 0.1}
    assert load_config(path, ["model.name=resnet18"]).model.attn_kwargs == {"e_lambda": 0.1}


def test_the_config_of_a_study_names_the_command_that_takes_it():
    with pytest.raises(UserError, match="the config of a study: use it with paddle-attn study -c"):
        load_config("studies/demo")


def test_overrides_go_through_the_same_check(tmp_path: Path):
    path = write(tmp_path, "model: {attn: simam}")
    config = load_config(
        path,
        [
            "optim.lr=2e-2",
            "model.attn_kwargs.e_lambda=1e-4",
            "model.attn=null",
            "data.mean=[0.1, 0.2, 0.3]",
            "optim.lr=3",
        ],
    )
    assert config.optim.lr == 3.0 and config.model.attn is None and config.data.mean == (0.1, 0.2, 0.3)
    assert config.model.attn_kwargs == {"e_lambda": 1e-4}  # PyYAML alone reads a string
    assert load_config(path, ["train.ops=on"]).train.ops == "on"  # PyYAML alone reads true
    assert load_config(write(tmp_path, "train: {ops: off, resume: True}")).train == dataclasses.replace(
        Config().train, ops="off", resume=True, output=str(Path("output") / "some")
    )


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        (
            "modle: {}",
            [],
            "unknown config key 'modle': expected one of data, model, optim, train; did you mean 'model'?",
        ),
        ("optim: {lr_: 1}", [], "did you mean 'optim.lr'?"),
        ("", ["optim.learning_rate=1"], "did you mean 'optim.lr=1'?"),
        ("optim: {learning_rate: 1}", [], "did you mean 'optim.lr'?"),
        ("", ["lr=0.1"], "expected one of data, model, optim, train; did you mean 'optim.lr=0.1'?"),
        ("lr: 0.1", [], "did you mean 'optim.lr'?"),
        ("", ["train.lr=0.1"], "did you mean 'optim.lr=0.1'?"),
        ("", ["batch=8"], "did you mean 'train.batch_size=8'?"),
        ("data: {augment: {flip: 0.5}}", [], "did you mean 'data.augment.vflip'?"),
        ("", ["zzz=1"], "unknown config key 'zzz': expected one of data, model, optim, train"),
        (
            "model: {attn_kwargs: {e_lambda:0.1}}",
            [],
            "'e_lambda:0.1' has no value; write a space after the colon, as in 'e_lambda: 0.1'",
        ),
        ("", ["model.attn_kwargs={e_lambda:0.1}"], "write a space after the colon, as in 'e_lambda: 0.1'"),
        ("", ["model.attn_kwargs=e_lambda:0.1"], "write a space after the colon, as in 'e_lambda: 0.1'"),
        ("optim:\n  lr:0.1", [], "write a space after the colon, as in 'lr: 0.1'"),
        ("", ["optim.lr"], "an override is written section.key=value, found 'optim.lr'"),
        ("", ["optim.lr.x=1"], "optim.lr must be a number, found {'x': 1}"),
        ("optim: {lr: fast}", [], "optim.lr must be a number, found 'fast'"),
        ("train: {epochs: 1.5}", [], "train.epochs must be a whole number, found 1.5"),
        ("train: {epochs: true}", [], "train.epochs must be a whole number, found True"),
        ("model: {pretrained: yes}", [], "model.pretrained must be true or false, found 'yes'"),
        ("train: {epochs: 0}", [], "train.epochs must be at least 1 and at most 1,000,000, found 0"),
        ("optim: {schedule: multistep}", [], "optim.milestones must be epochs in rising order, found []"),
        ("optim: {schedule: multistep, milestones: [5, 3]}", [], "in rising order, found [5, 3]"),
        ("optim: {milestones: [1, x]}", [], "optim.milestones must be a whole number, found 'x'"),
        ("optim: {milestones: 30}", [], "optim.milestones must be a list, found 30"),
        ("optim: {clip_norm: 0}", [], "optim.clip_norm must be positive, or null for none, found 0"),
        ("optim: {ema_decay: 1}", [], "optim.ema_decay must be between 0 and 1, or null for none, found 1"),
        ("train: {resume: maybe}", [], "train.resume must be true, false or 'auto', found 'maybe'"),
        ("data: {std: [1, 0, 1]}", [], "data.std must be three positive numbers, found [1.0, 0.0, 1.0]"),
        ("optim: {lr: .nan}", [], "optim.lr must be a finite number, found nan"),
        ("optim: {schedule: cosin}", [], "did you mean 'cosine'?"),
        ("train: {device: tpu}", [], "train.device must be 'auto', 'cpu', 'gpu' or 'gpu:N', found 'tpu'"),
        ("data: {mean: [1, 2]}", [], "data.mean must be a list of 3 numbers"),
        (
            "data: {augment: {crop_scale: [0.9, 0.1]}}",
            [],
            "must be [low, high] with 0 < low <= high <= 1, found [0.9, 0.1]",
        ),
        ("model: [towernet]", [], "model must be a section of keys"),
        ("[1, 2]", [], "must hold sections"),
        ("model: {name: a, name: b}", [], "is not valid YAML at line 1: the key 'name' is given twice"),
        ("model: {name: ", [], "is not valid YAML"),
        ("optim: {lr: -" + "1" * 400 + "}", [], "a whole number of more than 63 bits"),
        ("", ["train.epochs=010"], "010, which YAML 1.1 reads in base 8 or 60"),
        ("train: {epochs: 1:30}", [], "1:30, which YAML 1.1 reads in base 8 or 60"),
        ("train: {device: 0x" + "f" * 5000 + "}", [], "a whole number of more than 63 bits"),
        (
            "model: &a {name: towernet}\ndata: *a",
            [],
            "is not valid YAML at line 2: an alias (*name), which no config needs",
        ),
        ("model: !!python/object/apply:os.system ['true']", [], "is not valid YAML"),
        ("model: {pretrained: true, weights: x.pdparams}", [], "both set"),
        ('optim: {"l\\nr": 1}', [], r"unknown config key 'optim.l\nr'"),
        ('"' + "k" * 500 + r'\u2028": 1', [], "unknown config key 'kkk"),
        ('optim: {lr: "a\\nb"}', [], r"optim.lr must be a number, found 'a\nb'"),
        (r'train: {device: "gpu\e[2J\n"}', [], r"found 'gpu\x1b[2J\n'"),
        ('{"a\\nb": 1, "a\\nb": 2}', [], r"the key 'a\nb' is given twice"),
        ("", ["optim.l\nr=1"], r"unknown config key 'optim.l\nr'"),
        ("", ["optim\n"], r"found 'optim\n'"),
        ("", ["optim.lr={\n"], r"the override 'optim.lr={\n' is not valid YAML"),
        ("model: {name: a}", ["model.name.x=1"], "'name' is not a section"),
    ],
)
def test_each_mistake_is_one_sentence(tmp_path: Path, text: str, overrides: list[str], message: str):
    with pytest.raises(UserError) as error:
        load_config(write(tmp_path, text), overrides)
    assert message in str(error.value)
    assert is_one_line(str(error.value))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OptimConfig(lr=-1.0), "optim.lr must be at least 0, found -1"),
        (lambda: OptimConfig(name="adm"), "unknown value of optim.name 'adm'"),
        (lambda: AugmentConfig(hflip=2.0), "data.augment.hflip must be at least 0 and at most 1, found 2"),
        (lambda: DataConfig(size=0), "data.size must be at least 1 and at most 8,192, found 0"),
        (lambda: ModelConfig(num_classes=0), "model.num_classes must be at least 1"),
        (lambda: TrainConfig(device="tpu"), "train.device must be"),
        (
            lambda: dataclasses.replace(TrainConfig(), patience=0),
            "train.patience must be at least 1, found 0",
        ),
    ],
)
def test_options_set_in_python_go_through_the_same_check(make: Callable[[], Section], message: str):
    with pytest.raises(UserError) as error:
        make()
    assert message in str(error.value)


def test_flatten_names_every_option_in_full():
    config = Config(
        data=DataConfig(mean=(0.1, 0.2, 0.3), augment=AugmentConfig(crop_scale=(0.5, 1.0))),
        optim=OptimConfig(milestones=(1, 2)),
    )
    flat = flatten(config)
    assert flat["optim.lr"] == 0.01 and flat["data.augment.crop_scale"] == [0.5, 1.0]
    assert flat["data.mean"] == [0.1, 0.2, 0.3] and flat["optim.milestones"] == [1, 2]
    sections = [ModelConfig, DataConfig, AugmentConfig, OptimConfig, TrainConfig]
    assert len(flat) == sum(len(dataclasses.fields(section)) for section in sections) - 1  # data.augment


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"cannot read the config .*none\.yaml: No such file"):
        load_config(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("path", "nearest"),
    [
        ("towernet_siman", "towernet_simam"),
        ("config/towernet_simam.yaml", "towernet_simam"),
        ("configs/towernet-simam.yml", "towernet_simam"),
        ("resnet20_simam", "cifar/resnet20_simam"),
        ("min.yaml", "mine.yaml"),
    ],
)
def test_a_wrong_name_proposes_the_nearest_config(
    path: str, nearest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").touch()
    with pytest.raises(UserError, match=rf"No such file.*; did you mean '{nearest}'"):
        load_config(path)


@pytest.mark.parametrize("name", ["towernet_simam", "towernet_simam.yaml", "configs/towernet_simam.yaml"])
def test_a_packaged_config_is_found_by_name_in_every_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "towernet_simam").mkdir()  # a folder is no config
    packaged = ROOT / "configs" / "towernet_simam.yaml"
    assert find_config(name) == packaged and load_config(name) == load_config(packaged)


def test_a_path_that_exists_precedes_a_packaged_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "towernet_simam.yaml").write_text("model: {name: resnet18}")
    assert load_config("towernet_simam.yaml").model.name == "resnet18"
    assert load_config("towernet_simam").model.name == "towernet"


def test_a_config_that_is_not_a_regular_file_is_one_sentence(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.yaml")
    for path, words in ((tmp_path / "pipe.yaml", "it is a pipe"), (tmp_path, "it is a folder")):
        with pytest.raises(UserError, match=f"cannot read the config {path}: {words}"):
            load_config(path)


@given(
    lr=st.floats(0, 1e6, allow_nan=False),
    epochs=st.integers(1, 10**6),
    attn=st.none() | st.text(min_size=1, max_size=8).filter(str.isprintable),
    kwargs=st.dictionaries(
        st.text("abc_", min_size=1),
        st.integers(-(2**63) + 1, 2**63 - 1) | st.floats(allow_nan=False) | st.booleans() | st.none(),
    ),
    mean=st.none() | st.tuples(*[st.floats(-1, 1)] * 3),
)
def test_a_dump_is_read_back(tmp_path_factory: pytest.TempPathFactory, lr, epochs, attn, kwargs, mean):
    base = Config()
    config = Config(
        model=dataclasses.replace(base.model, attn=attn, attn_kwargs=kwargs),
        data=dataclasses.replace(base.data, mean=mean),
        optim=dataclasses.replace(base.optim, lr=lr),
        train=dataclasses.replace(base.train, epochs=epochs, output="out"),
    )
    path = write(tmp_path_factory.mktemp("dump"), dump_config(config))
    assert load_config(path) == config


@pytest.mark.parametrize(
    "text",
    ["1e-4", "yes", "off", "null", "~", "1_0", "0x1", "2026-11-20", "- a", "{a: b}", "a: b", "#", " a "],
)
def test_a_string_stays_a_string(tmp_path: Path, text: str):
    config = dataclasses.replace(Config(), train=dataclasses.replace(Config().train, output=text))
    assert load_config(write(tmp_path, dump_config(config))) == config


OPTIONS = {section: list(options) for section, options in dataclasses.asdict(Config()).items()}
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["simam", "cosine", "adam", "gpu:1", "O1"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
TREES = st.fixed_dictionaries(
    {},
    optional={
        s: st.fixed_dictionaries({}, optional=dict.fromkeys(names, VALUES)) for s, names in OPTIONS.items()
    },
)


@given(TREES)
def test_any_values_of_the_options_are_a_config_or_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, tree: dict
):
    path = tmp_path_factory.mktemp("tree") / "some.yaml"
    path.write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8")
    try:
        config = load_config(path)
    except UserError as error:
        assert is_one_line(str(error))
        return
    path.write_text(dump_config(config), encoding="utf-8")
    assert load_config(path) == config


@given(st.sampled_from([(section, name) for section, names in OPTIONS.items() for name in names]), VALUES)
def test_an_override_is_the_same_as_the_value_in_the_file(
    tmp_path_factory: pytest.TempPathFactory, option: tuple[str, str], value: object
):
    section, name = option
    path = write(tmp_path_factory.mktemp("override"), "")

    def outcome(read: Callable[[], Config]) -> Config | str:
        try:
            return read()
        except UserError:
            return "an error"

    text = (
        yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6)
        .removesuffix("\n")
        .removesuffix("\n...")
    )
    by_override = outcome(lambda: load_config(path, [f"{section}.{name}={text}"]))
    path.write_text(yaml.safe_dump({section: {name: value}}, allow_unicode=True), encoding="utf-8")
    assert outcome(lambda: load_config(path)) == by_override


@given(st.text())
def test_no_text_breaks_the_reader(tmp_path_factory: pytest.TempPathFactory, text: str):
    path = tmp_path_factory.mktemp("any") / "any.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        load_config(path)
    except UserError as error:
        assert is_one_line(str(error))


@given(
    st.dictionaries(st.text(), VALUES, max_size=3), st.sampled_from(["", "model", "data", "optim", "train"])
)
@example({"\n": None}, "")
@example({"a\nb": None}, "optim")
def test_any_keys_are_a_config_or_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, options: dict, section: str
):
    path = tmp_path_factory.mktemp("keys") / "some.yaml"
    path.write_text(yaml.safe_dump({section: options} if section else options), encoding="utf-8")
    try:
        load_config(path)
    except UserError as error:
        assert is_one_line(str(error))


@pytest.mark.parametrize("section", [ModelConfig, AugmentConfig, DataConfig, OptimConfig, TrainConfig])
def test_every_option_has_a_comment(section: type[Section]):
    """On its line or on the line above."""
    lines = inspect.getsource(section).splitlines()
    for option in dataclasses.fields(section):
        number = next(n for n, line in enumerate(lines) if re.match(rf"    {option.name}: ", line))
        assert "  # " in lines[number] or lines[number - 1].startswith("    # "), option.name


def test_the_config_does_not_import_paddle():
    code = "import sys, paddle_attn.config; sys.exit('paddle' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
