"""ONNX, the engines that run it, and lower precision: all give the answers of the network, or say why not."""

from __future__ import annotations

import dataclasses
import gc
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from helpers import (
    HANG,
    ROOT,
    assert_one_sentence,
    condition,
    fits,
    kwargs_for,
    leave_the_start,
    smaller_kwargs,
    tool,
    tree,
)

from paddle_attn import Predictor, create_attention, create_model, list_attention, list_models, model_spec
from paddle_attn.config import Config, DataConfig, ModelConfig, dump_config
from paddle_attn.data.transforms import Preprocess
from paddle_attn.deploy import export_config, export_model
from paddle_attn.deploy.description import read_description
from paddle_attn.deploy.formats import FORMATS
from paddle_attn.deploy.onnx_format import saturates
from paddle_attn.errors import UserError
from paddle_attn.runtime import this_machine
from paddle_attn.weights import save_weights

EXTRA = ("onnx", "onnxruntime", "paddle2onnx", "ml_dtypes")  # of the extra `onnx`, which `make test` installs
if missing := [name for name in EXTRA if importlib.util.find_spec(name) is None]:
    pytest.skip(f'needs {", ".join(missing)}: pip install "paddle_attn[onnx]"', allow_module_level=True)
import onnx  # noqa: E402

HAS_OPENVINO = importlib.util.find_spec("openvino") is not None
needs_openvino = pytest.mark.skipif(not HAS_OPENVINO, reason='needs pip install "paddle_attn[openvino]"')
ENGINES = ["onnxruntime", pytest.param("openvino", marks=needs_openvino)]
CLASSES = ["blue", "green", "grün 01", "no"]
PREPROCESS = Preprocess(16, "crop", (0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
OF_EACH_FAMILY = {
    **{"cifar_preresnet20": None, "mobilenet_v2": "simam", "resnet18": "cbam", "towernet": "simam"},
    "vgg19": "se",
}


class Small(paddle.nn.Layer):
    """A classifier with one attention module, and what all networks have."""

    def __init__(self, attn: paddle.nn.Layer):
        super().__init__()
        self.conv, self.bn = paddle.nn.Conv2D(3, 64, 3, padding=1, bias_attr=False), paddle.nn.BatchNorm2D(64)
        self.attn, self.fc = attn, paddle.nn.Linear(64, 4)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = F.max_pool2d(F.relu6(self.bn(self.conv(x))), 2, 2)
        return self.fc(F.adaptive_avg_pool2d(self.attn(x), 1).flatten(1))


def randomised(net: paddle.nn.Layer) -> paddle.nn.Layer:
    """The network in eval mode, with attention parameters that are not at their neutral initial values."""
    leave_the_start(net)
    net.eval()
    return net


def noise(batch: int, height: int = 16, width: int = 16) -> np.ndarray:
    return np.random.default_rng(0).standard_normal([batch, 3, height, width], "float32")


def softmax_of(net: paddle.nn.Layer, images: np.ndarray) -> np.ndarray:
    with paddle.no_grad():
        return F.softmax(net(paddle.to_tensor(images))).numpy()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[paddle.nn.Layer, Path]:
    """A network and the folder of its export to ONNX, with static height and width."""
    paddle.seed(0)
    net, out = randomised(Small(create_attention("simam", 64))), tmp_path_factory.mktemp("onnx") / "small"
    about = {"model": "small", "attention": "simam"}
    assert export_model(net, out, PREPROCESS, CLASSES, noise(3), about, format="onnx") < 1e-5
    return net, out


# ---- the file


def test_the_file_is_plain_onnx_with_a_free_batch_that_says_what_it_classifies(exported):
    _, out = exported
    assert sorted(path.name for path in out.iterdir()) == ["inference.onnx", "inference.yml"]
    model = onnx.load(out / "inference.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [(opset.domain, opset.version >= 17) for opset in model.opset_import] == [("", True)]
    (images,), (probabilities,) = model.graph.input, model.graph.output
    dimensions = [d.dim_param or d.dim_value for d in images.type.tensor_type.shape.dim]
    assert dimensions == ["batch", 3, 16, 16]
    assert [d.dim_param or d.dim_value for d in probabilities.type.tensor_type.shape.dim] == ["batch", 4]
    texts = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(texts["classes"]) == CLASSES
    assert Preprocess.from_ops(json.loads(texts["preprocess"])) == PREPROCESS
    assert (texts["model"], texts["attention"]) == ("small", "simam")


def test_a_dynamic_export_has_a_free_height_and_width(exported, tmp_path: Path):
    export_model(exported[0], tmp_path / "out", PREPROCESS, CLASSES, noise(1), dynamic=True, format="onnx")
    shape = onnx.load(tmp_path / "out" / "inference.onnx").graph.input[0].type.tensor_type.shape
    assert [d.dim_param or d.dim_value for d in shape.dim] == ["batch", 3, "height", "width"]


def small(attn: str | None) -> Small:
    module = create_attention(attn, 64, **smaller_kwargs(attn)) if attn else paddle.nn.Identity()
    return randomised(Small(module))


@pytest.mark.parametrize("attn", [None, *list_attention()])
def test_every_attention_converts_with_dynamic_sizes(attn: str | None, tmp_path: Path):
    net = small(attn)
    predictor = check_dynamic_export(net, 16, tmp_path)
    attributes = [attribute for node in onnx.load(predictor.path).graph.node for attribute in node.attribute]
    epsilons = [attribute.f for attribute in attributes if attribute.name == "epsilon"]
    assert all(0 < epsilon < 0.01 for epsilon in epsilons), (
        epsilons
    )  # paddle2onnx gives group norms random ones
    for images in (noise(3, 2, 2), noise(2, 2, 22)):  # maps of 1x1, 1x11
        np.testing.assert_allclose(predictor.probabilities(images), softmax_of(net, images), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("attn", list_attention())
def test_every_attention_converts_with_known_sizes(attn: str, tmp_path: Path):
    net = small(attn)
    for size in (2, 16):  # maps of 1x1, 8x8
        preprocess, images = dataclasses.replace(PREPROCESS, size=size), noise(3, size, size)
        export_model(net, tmp_path / "out", preprocess, CLASSES, noise(1, size, size), format="onnx")
        found = Predictor(tmp_path / "out").probabilities(images)
        np.testing.assert_allclose(found, softmax_of(net, images), atol=1e-4)


class Unconvertible(paddle.nn.Layer):
    """Has an operator that ONNX lacks; paddle2onnx ends the process then."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return F.channel_shuffle(x, 2)


def test_what_does_not_convert_is_one_sentence_and_writes_nothing(tmp_path: Path):
    net = randomised(Small(Unconvertible()))
    with pytest.raises(UserError, match=r"paddle2onnx cannot convert this network: .*--format paddle"):
        export_model(net, tmp_path / "out", PREPROCESS, CLASSES, noise(1), format="onnx")
    assert not list(tmp_path.iterdir())


def check_dynamic_export(net: paddle.nn.Layer, size: int, folder: Path) -> Predictor:
    """Export at one size, compare at another and at another batch size."""
    preprocess = Preprocess(size, "stretch", (0, 0, 0), (1, 1, 1))
    export_model(net, folder / "out", preprocess, CLASSES, noise(1, size, size), dynamic=True, format="onnx")
    predictor = Predictor(folder / "out")
    for images in (noise(2, size, size), noise(1, size + 40, size + 8)):
        np.testing.assert_allclose(predictor.probabilities(images), softmax_of(net, images), atol=1e-4)
    return predictor


def check_model(model: str, attn: str | None, folder: Path) -> None:
    size = max(model_spec(model).min_size, 64)
    net = randomised(create_model(model, attn, kwargs_for(model, attn), num_classes=4))
    condition(net, noise(4, size, size))
    check_dynamic_export(net, size, folder)
    del net
    gc.collect()  # traced programs and their networks form cycles; 200 of them fill the memory


@pytest.mark.parametrize(("model", "attn"), OF_EACH_FAMILY.items())
def test_one_model_of_each_family_converts_with_dynamic_sizes(model: str, attn: str | None, tmp_path: Path):
    check_model(model, attn, tmp_path)


COMBINATIONS = [
    (model, attn) for model in list_models() for attn in [None, *list_attention()] if fits(model, attn)
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "attn"), [pair for pair in COMBINATIONS if pair not in OF_EACH_FAMILY.items()]
)
def test_every_other_model_converts_with_dynamic_sizes(model: str, attn: str | None, tmp_path: Path):
    check_model(model, attn, tmp_path)


def test_the_converter_prints_nothing(exported, tmp_path: Path, capfd: pytest.CaptureFixture):
    export_model(exported[0], tmp_path / "out", PREPROCESS, CLASSES, noise(1), format="onnx")
    assert capfd.readouterr() == ("", "")


def test_an_export_to_another_format_replaces_the_earlier_one(exported, tmp_path: Path):
    for format in ("onnx", "paddle", "onnx"):
        export_model(exported[0], tmp_path / "out", PREPROCESS, CLASSES, noise(1), format=format)
        assert {path.name for path in (tmp_path / "out").iterdir()} == {
            *FORMATS[format].files,
            "inference.yml",
        }


# ---- engines


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_gives_the_networks_probabilities_at_any_batch_size(exported, engine: str):
    net, out = exported
    predictor = Predictor(out, engine=engine)
    assert (predictor.engine, predictor.precision) == (engine, "fp32")
    for batch in (8, 3, 3, 1, 2, 4, 5, 6, 8, 1):  # more shapes than an engine keeps, some of them again
        np.testing.assert_allclose(
            predictor.probabilities(noise(batch)), softmax_of(net, noise(batch)), atol=1e-5
        )


def test_auto_is_the_fastest_engine_that_is_installed(exported, tmp_path: Path):
    assert Predictor(exported[1]).engine == ("openvino" if HAS_OPENVINO else "onnxruntime")
    export_model(exported[0], tmp_path / "out", PREPROCESS, CLASSES, noise(1))
    assert Predictor(tmp_path / "out").engine == "paddle"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "openvin"}, r"unknown engine 'openvin'.*did you mean 'openvino'"),
        ({"engine": "paddle"}, "the engine 'paddle' does not run the format 'onnx'.*--format paddle"),
        ({"precision": "int4"}, r"unknown precision 'int4': expected one of bf16, fp32, int8"),
        ({"engine": "onnxruntime", "precision": "bf16"}, "the engine 'onnxruntime' lacks bf16"),
        ({"precision": "int8"}, "has no int8 form: export with --format onnx --int8"),
    ],
)
def test_what_an_export_cannot_do_is_one_sentence(exported, options: dict[str, str], message: str):
    with pytest.raises(UserError, match=message):
        Predictor(exported[1], **options)


@pytest.mark.parametrize("options", [{"precision": "int8"}, {"precision": "bf16"}, {"engine": "openvino"}])
def test_the_paddle_format_runs_in_paddle_and_in_fp32_only(exported, tmp_path: Path, options: dict[str, str]):
    export_model(exported[0], tmp_path / "out", PREPROCESS, CLASSES, noise(1))
    with pytest.raises(UserError, match="--format onnx"):
        Predictor(tmp_path / "out", **options)


WITHOUT = """
import sys
for name in sys.argv[3].split(","):
    sys.modules[name] = None
from paddle_attn.cli import one_sentence_errors, prepare_paddle
with one_sentence_errors():
    prepare_paddle()
    from paddle_attn import Predictor
    print(Predictor(sys.argv[1], engine=sys.argv[2]).engine)
"""


@pytest.mark.parametrize(
    ("engine", "absent", "install"),
    [("openvino", "openvino", "openvino"), ("auto", "openvino,onnxruntime", "onnx")],
)
def test_a_missing_engine_is_named_with_the_command_that_installs_it(
    exported, engine: str, absent: str, install: str
):
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT, exported[1], engine, absent],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=HANG,
    )
    assert_one_sentence(result, absent.split(",")[-1], f'pip install "paddle_attn[{install}]"')


TELEMETRY = """
import sys
from paddle_attn.cli import prepare_paddle
prepare_paddle()
import numpy as np
from paddle_attn import Predictor
Predictor(sys.argv[1], engine=sys.argv[2]).probabilities(np.zeros([1, 3, 16, 16], "float32"))
import os
print(os.environ.get("ORT_DISABLE_TELEMETRY"), "openvino_telemetry" in sys.modules)
"""


@pytest.mark.parametrize("engine", ENGINES)
def test_engines_report_nothing_to_their_makers(exported, engine: str, tmp_path: Path):
    """With telemetry, both write an identifier of the machine below the home folder."""
    home = tmp_path / "home"
    home.mkdir()
    kept = {"CI", "TF_BUILD", "JENKINS_URL", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME"}  # each turns it off
    environment = {key: value for key, value in os.environ.items() if key not in kept}
    result = subprocess.run(
        [sys.executable, "-c", TELEMETRY, exported[1], engine],
        cwd=home,
        env=environment | {"HOME": str(home), "PYTHONPATH": str(ROOT), "PADDLE_ATTN_OPS": "off"},
        capture_output=True,
        text=True,
        timeout=HANG,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["1" if engine == "onnxruntime" else "None", "False"]
    assert not [path for path in tree(home) if "paddle" not in path.lower()]


@pytest.mark.parametrize("engine", ENGINES)
def test_threads_that_share_a_predictor_get_their_own_answers(exported, engine: str):
    predictor = Predictor(exported[1], engine=engine)
    images = [noise(1 + index % 3) * index for index in range(12)]
    expected = [softmax_of(exported[0], batch) for batch in images]
    with ThreadPoolExecutor(8) as pool:
        for found, one in zip(pool.map(predictor.probabilities, images * 2), expected * 2, strict=True):
            np.testing.assert_allclose(found, one, atol=1e-5)


# ---- lower precision


@pytest.fixture
def run_folder(split_data: Path, tmp_path: Path) -> tuple[Config, Path]:
    """The config and the weights of a network that tells the colours of `split_data` apart."""
    config = Config(
        model=ModelConfig(name="cifar_resnet20", attn="se", attn_kwargs={"reduction": 4}),
        data=DataConfig(root=str(split_data), size=32),
    )
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text(dump_config(config), encoding="utf-8")
    (folder / "classes.txt").write_text("blue\ngreen\nred\n", encoding="utf-8")
    paddle.seed(0)
    net = create_model("cifar_resnet20", "se", {"reduction": 4}, num_classes=3)
    save_weights(net, folder / "best.pdparams")
    return config, folder / "best.pdparams"


def test_int8_is_evaluated_and_kept_beside_fp32(run_folder: tuple[Config, Path], tmp_path: Path):
    config, weights = run_folder
    exported = export_config(config, weights, tmp_path / "out", format="onnx", calibrate=8, max_drop=100.0)
    fp32, int8 = exported.measured
    assert (fp32.precision, int8.precision, fp32.images, int8.images) == ("fp32", "int8", 6, 6)
    assert int8.megabytes < fp32.megabytes / 2 and int8.milliseconds > 0
    assert Predictor(tmp_path / "out", precision="int8").path.name == "inference.int8.onnx"
    content = (tmp_path / "out" / "inference.int8.onnx").read_bytes()
    (tmp_path / "out" / "inference.int8.onnx").write_bytes(content[:-1])
    with pytest.raises(UserError, match=r"inference\.int8\.onnx is not the exported file"):
        Predictor(tmp_path / "out")


@pytest.mark.parametrize("engine", ENGINES)
def test_int8_is_close_to_fp32(exported, engine: str, tmp_path: Path):
    net, out = exported[0], shutil.copytree(exported[1], tmp_path / "out")
    FORMATS["onnx"].quantise(out, [noise(8)])
    read_description(out).write(out)
    found = Predictor(out, engine=engine, precision="int8").probabilities(noise(8))
    np.testing.assert_allclose(found, softmax_of(net, noise(8)), atol=0.02)
    assert np.abs(found - softmax_of(net, noise(8))).max() > 1e-6  # it is another network


@pytest.mark.parametrize(
    ("flags", "expected"),
    [({"avx2"}, True), ({"avx2", "avx512f"}, True), ({"avx2", "avx_vnni"}, False), (set(), False)],
)
def test_int8_has_seven_bits_where_sums_of_products_saturate(flags: set[str], expected: bool):
    machine = dataclasses.replace(this_machine(), flags=frozenset(flags))
    assert saturates(machine) == expected


def test_int8_that_loses_too_much_is_not_kept(run_folder: tuple[Config, Path], tmp_path: Path):
    config, weights = run_folder
    with pytest.raises(
        UserError, match=r"int8 loses .* points of top-1 .* expected at most -100.*--max-drop"
    ):
        export_config(config, weights, tmp_path / "out", format="onnx", calibrate=8, max_drop=-100.0)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"inference.onnx", "inference.yml"}
    assert Predictor(tmp_path / "out").precision == "fp32"


def test_lower_precision_needs_images_of_the_same_classes(run_folder: tuple[Config, Path], tmp_path: Path):
    config, weights = run_folder
    gone = dataclasses.replace(config, data=dataclasses.replace(config.data, root=str(tmp_path / "gone")))
    with pytest.raises(UserError, match="there is no data directory"):
        export_config(gone, weights, tmp_path / "out", format="onnx", calibrate=8)


@pytest.mark.parametrize("options", [{"bf16": True}, {"calibrate": 8}])
def test_the_paddle_format_has_no_lower_precision(
    run_folder: tuple[Config, Path], tmp_path: Path, options: dict
):
    with pytest.raises(UserError, match=r"the format 'paddle' runs in fp32 only.*--format onnx"):
        export_config(*run_folder, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@needs_openvino
def test_bf16_runs_where_the_cpu_has_it_and_is_refused_elsewhere(exported):
    net, out = exported
    if not {"avx512_bf16", "amx_bf16"} & this_machine().flags:
        with pytest.raises(UserError, match="this CPU does not compute in bf16"):
            Predictor(out, precision="bf16")
        return
    found = Predictor(out, precision="bf16").probabilities(noise(3))
    np.testing.assert_allclose(found, softmax_of(net, noise(3)), atol=0.02)
    assert np.abs(found - softmax_of(net, noise(3))).max() > 1e-6  # it is not fp32


def test_the_commands_export_and_predict_in_another_engine(run_folder: tuple[Config, Path], tmp_path: Path):
    config, weights = run_folder
    out = tmp_path / "out"
    options = ("--format", "onnx", "--int8", "--calibrate", 8, "--max-drop", 100)
    result = tool("export", "--weights", weights, "--out", out, *options)
    assert result.returncode == 0 and result.stderr == "", result.stderr
    lines = result.stdout.splitlines()
    assert lines[-2].startswith("fp32: top-1 ") and lines[-1].startswith("int8: top-1 ")
    assert all("of 6 images" in line and " MB" in line for line in lines[-2:])
    image = next(Path(config.data.root).glob("eval/red/*"))
    command = ("predict", "--model", out, "--engine", "onnxruntime", "--precision", "int8", image)
    assert image.name in tool(*command).stdout
    assert_one_sentence(tool("predict", "--model", out, "--engine", "paddle", image), "--format paddle")
