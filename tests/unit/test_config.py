"""The config: strict, with one sentence for each mistake; what is dumped is read back."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from helpers import ROOT
from hypothesis import given
from hypothesis import strategies as st

from paddle_attn import create_model, model_spec
from paddle_attn.config import Config, dump_config, load_config
from paddle_attn.errors import UserError

CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))


def write(folder: Path, text: str) -> Path:
    path = folder / "some.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_an_empty_config_is_the_defaults_and_the_notebooks_recipe(tmp_path: Path):
    config = load_config(write(tmp_path, ""))
    output = str(Path("output") / "some")
    assert config == dataclasses.replace(Config(), train=dataclasses.replace(Config().train, output=output))
    assert (config.train.epochs, config.train.batch_size, config.optim.lr, config.optim.momentum) == (
        100,
        32,
        0.01,
        0.9,
    )
    assert (config.optim.schedule, config.optim.schedule_unit, config.data.augment.rotation) == (
        "cosine",
        "epoch",
        10.0,
    )


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_valid_says_its_command_and_builds(path: Path):
    config = load_config(path)
    assert path.read_text().startswith(f"# python tools/train.py -c {path.relative_to(ROOT).as_posix()}")
    assert len(path.read_text().splitlines()) <= 20
    if path.stem != "demo":
        assert path.stem == f"{config.model.name.removeprefix('cifar_')}_{config.model.attn or 'none'}"
    if config.model.name in (
        "towernet",
        "mobilenet_v2",
        "cifar_resnet20",
        "cifar_preresnet20",
    ):  # the others in test_models
        create_model(config.model.name, config.model.attn, config.model.attn_kwargs, num_classes=16)
    assert model_spec(config.model.name)


def test_every_model_of_the_configs_has_every_attention():
    models = {"towernet", "vgg19", "resnet50", "mobilenet_v2"}
    wanted = {f"{model}_{attn}" for model in models for attn in ("none", "simam", "se", "cbam", "sge")}
    assert wanted <= {path.stem for path in CONFIGS}


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
    assert config.model.attn_kwargs == {"e_lambda": 1e-4}  # a number: PyYAML alone would take it for a text
    assert (
        load_config(path, ["train.ops=on"]).train.ops == "on"
    )  # a text: PyYAML alone would take it for true
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
        ("", ["optim.learning_rate=1"], "unknown config key 'optim.learning_rate'"),
        ("", ["optim.lr"], "an override is written section.key=value, found 'optim.lr'"),
        ("", ["optim.lr.x=1"], "unknown config key 'optim.lr.x'|must be a number"),
        ("optim: {lr: fast}", [], "optim.lr must be a number, found 'fast'"),
        ("train: {epochs: 1.5}", [], "train.epochs must be a whole number, found 1.5"),
        ("train: {epochs: true}", [], "train.epochs must be a whole number, found True"),
        ("model: {pretrained: yes}", [], "model.pretrained must be true or false, found 'yes'"),
        ("train: {epochs: 0}", [], "train.epochs must be at least 1 and at most 1,000,000, found 0"),
        ("optim: {schedule: multistep}", [], "optim.milestones must be epochs in rising order, found []"),
        ("optim: {schedule: multistep, milestones: [5, 3]}", [], "in rising order, found [5, 3]"),
        ("optim: {milestones: [1, x]}", [], "optim.milestones must be a whole number, found 'x'"),
        ("optim: {lr: .nan}", [], "optim.lr must be a finite number, found nan"),
        ("optim: {schedule: cosin}", [], "did you mean 'cosine'?"),
        ("train: {device: tpu}", [], "train.device must be 'auto', 'cpu', 'gpu' or 'gpu:N', found 'tpu'"),
        ("data: {mean: [1, 2]}", [], "data.mean must be a list of 3 numbers"),
        ("data: {augment: {crop_scale: [0.9, 0.1]}}", [], "0 < low <= high <= 1"),
        ("model: [towernet]", [], "model must be a section of keys"),
        ("[1, 2]", [], "must hold sections"),
        ("model: {name: a, name: b}", [], "the key 'name' stands twice"),
        ("model: {name: ", [], "is not valid YAML"),
        ("optim: {lr: -" + "1" * 400 + "}", [], "a whole number of more than 63 bits"),
        ("train: {device: 0x" + "f" * 5000 + "}", [], "a whole number of more than 63 bits"),
        (
            "model: &a {name: towernet}\ndata: *a",
            [],
            "is not valid YAML at line 2: an alias (*name), which no config needs",
        ),
        ("model: !!python/object/apply:os.system ['true']", [], "is not valid YAML"),
        ("model: {pretrained: true, weights: x.pdparams}", [], "both set"),
    ],
)
def test_each_mistake_is_one_sentence(tmp_path: Path, text: str, overrides: list[str], message: str):
    with pytest.raises(UserError) as error:
        load_config(write(tmp_path, text), overrides)
    assert any(part in str(error.value) for part in message.split("|")), str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"cannot read the config .*none\.yaml: No such file"):
        load_config(tmp_path / "none.yaml")


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
def test_what_is_dumped_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, lr, epochs, attn, kwargs, mean
):
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
def test_a_text_stays_a_text(tmp_path: Path, text: str):
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
        assert "\n" not in str(error) and len(str(error)) < 1000
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
        assert str(error)


def test_every_field_has_a_comment():
    """Each option says what it means where it is defined."""
    source = (ROOT / "paddle_attn" / "config.py").read_text()
    plain = {"model", "data", "optim", "train"}  # the sections
    for line in source.splitlines():
        name = line.strip().partition(":")[0]
        if (
            line.startswith("    ")
            and " = " in line
            and ": " in line
            and name.isidentifier()
            and line[4] != " "
            and name not in plain
        ):
            assert "  # " in line, line


def test_the_config_does_not_import_paddle():
    code = "import sys, paddle_attn.config, paddle_attn.runtime, paddle_attn.cli, paddle_attn; sys.exit('paddle' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
