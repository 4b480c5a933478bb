"""The benchmark: its other sides do the same work, its table is understood, and what it writes is what it measured."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from pathlib import Path

import numpy as np
import paddle
import pytest
from helpers import ROOT, assert_one_sentence, tool

from benchmarks import benchmark
from benchmarks.baselines import stock_side
from benchmarks.benchmark import PACKAGES, SECTIONS, Line, Result
from paddle_attn import create_attention, create_model, ops

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None,
    reason="PyTorch is not here: its networks are not compared with ours",
)
LINES = [line for section in SECTIONS for line in benchmark.lines(section, Path("data"), Path("scratch"))]


def test_the_notebooks_towernet_has_its_parameters_and_the_stock_networks_have_simam():
    count = sum(
        int(np.prod(parameter.shape))
        for parameter in stock_side.notebook_towernet().parameters()
        if not parameter.stop_gradient
    )
    assert count == 1_362_176
    for model, places in (("towernet", 4), ("vgg19", 5), ("resnet50", 16), ("mobilenet_v2", 17)):
        net = stock_side.network(model)
        assert sum(isinstance(layer, stock_side.SimAM) for layer in net.sublayers()) == places
        size = 256 if model == "towernet" else 64
        net.eval()
        assert net(paddle.zeros([1, 3, size, size])).shape == [1, 16]


def test_the_formula_as_written_is_our_simam():
    x = paddle.randn([2, 3, 5, 6])
    np.testing.assert_allclose(
        stock_side.SimAM()(x).numpy(), create_attention("simam", 3)(x).numpy(), rtol=1e-5, atol=1e-6
    )


def torch_twin(ours: paddle.nn.Layer, twin):
    """The PyTorch layer with the weights of ours, in eval mode; every key of one is a key of the other."""
    import torch

    linear = {
        f"{name}.weight" for name, layer in ours.named_sublayers() if isinstance(layer, paddle.nn.Linear)
    }
    state = {}
    for key, value in ours.state_dict().items():
        array = value.numpy().T if key in linear else value.numpy()
        state[key.replace("._mean", ".running_mean").replace("._variance", ".running_var")] = (
            torch.from_numpy(array.copy())
        )
    counters = {key for key in twin.state_dict() if key.endswith("num_batches_tracked")}
    assert set(state) == set(twin.state_dict()) - counters
    twin.load_state_dict(state, strict=False)
    return twin.eval()


def randomise(net: paddle.nn.Layer) -> None:
    for key, value in net.state_dict().items():
        if key.endswith(("_mean", "_variance")):
            value.set_value(paddle.uniform(value.shape, min=0.5, max=1.5))
    net.eval()


@needs_torch
@pytest.mark.parametrize(
    ("model", "size"), [("towernet", 128), ("resnet50", 64), ("vgg19", 32), ("mobilenet_v2", 64)]
)
def test_pytorchs_networks_are_ours(model: str, size: int):
    import torch

    from benchmarks.baselines import torch_side

    ours = create_model(model, "simam", num_classes=16)
    randomise(ours)
    twin = torch_twin(ours, torch_side.network(model, "simam", 16))
    images = np.random.default_rng(0).standard_normal([2, 3, size, size]).astype("float32")
    with paddle.no_grad(), torch.inference_mode():
        expected = ours(paddle.to_tensor(images)).numpy()
        np.testing.assert_allclose(
            twin(torch.from_numpy(images)).numpy(), expected, atol=1e-4 * np.abs(expected).max()
        )


@needs_torch
@pytest.mark.parametrize("name", ["simam", "se", "sge"])
def test_pytorchs_modules_are_ours(name: str):
    import torch

    from benchmarks.baselines import torch_side

    ours = create_attention(name, 64)
    twin = torch_twin(ours, torch_side.MODULES[name](64))
    x = np.random.default_rng(0).standard_normal([2, 64, 6, 5]).astype("float32")
    with paddle.no_grad(), torch.inference_mode():
        np.testing.assert_allclose(
            twin(torch.from_numpy(x)).numpy(), ours(paddle.to_tensor(x)).numpy(), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("line", LINES, ids=lambda line: f"{line.what}-{line.named}")
def test_every_line_is_understood_by_both_sides(line: Line):
    for order in (line.ours, line.baseline):
        package = PACKAGES.get(order["side"])
        if order["side"] == "itself" or (package and importlib.util.find_spec(package) is None):
            continue
        arguments = {key: value for key, value in order.items() if key not in ("side", "step")}
        step = getattr(
            importlib.import_module(f"benchmarks.baselines.{order['side']}_side"), f"{order['step']}_step"
        )
        inspect.signature(step).bind(**arguments)


def test_a_line_is_measured_in_two_processes():
    told = {"step": "module", "name": "simam", "shape": [1, 2, 4, 4], "mode": "train"}
    result = benchmark.measure(
        Line("modules", "tiny", {"side": "ours", **told}, {"side": "stock", **told}, "stock Paddle", 1.0),
        1,
        ROOT,
    )
    assert result.ours_ms > 0 and result.ratio == pytest.approx(result.baseline_ms / result.ours_ms)
    with pytest.raises(RuntimeError, match="no-such-module"):
        benchmark.measure(
            Line(
                "modules", "", {"side": "ours", **told, "name": "no-such-module"}, {"side": "itself"}, "", 1.0
            ),
            1,
            ROOT,
        )


def test_both_sides_in_one_process_take_their_own_steps():
    told = {"side": "ours", "step": "module", "name": "simam", "mode": "train"}
    small, large = {**told, "shape": [1, 1, 4, 4]}, {**told, "shape": [8, 64, 64, 64]}
    result = benchmark.measure(
        Line("modules", "tiny", small, large, "a larger map", 1.0, together=True), 1, ROOT
    )
    assert result.ratio > 5 and result.baseline_ms > result.ours_ms


def test_an_epoch_by_model_fit_and_one_by_a_bare_loop_take_the_same_batches(split_data: Path):
    from benchmarks.baselines.ours_side import epoch_step

    for how in ("fit", "fixed", "loaded"):
        assert epoch_step(str(split_data / "eval"), 128, 4, how)() >= 0


@pytest.mark.slow
def test_the_study_over_seeds_trains_both_forms(split_data: Path, tmp_path: Path):
    said: list[str] = []
    benchmark.run_seeds(split_data, 1, tmp_path / "runs", ROOT, tmp_path, said.append)
    assert len(said) == 3 and (tmp_path / "performance_seeds.csv").read_text().startswith(
        "seed,epochs,images,with_operators,without\n0,1,6,"
    )
    assert "| mean ± deviation |" in (tmp_path / "performance.md").read_text()


def test_waiting_is_counted_as_the_loop_sees_it(split_data: Path):
    told = {"step": "epoch", "root": str(split_data / "train"), "size": 128, "batch": 8, "how": "loaded"}
    result = benchmark.measure(
        Line("data", "tiny", {"side": "ours", **told}, {"side": "itself"}, "less its waiting", 0.98), 1, ROOT
    )
    assert 0 < result.baseline_ms < result.ours_ms


def test_page_chart_and_csv_tell_the_same(tmp_path: Path):
    results = [
        Result("train", "a net", 10.0, "PyTorch", 25.0, 2.5, 1.2),
        Result("modules", "a module", 3.0, "stock Paddle", 1.5, 0.5, 1.0),
    ]
    benchmark.write(results, tmp_path)
    assert sorted(benchmark.read(tmp_path / "performance.csv"), key=str) == sorted(results, key=str)
    page = (tmp_path / "performance.md").read_text(encoding="utf-8")
    assert "| a net | 10 | PyTorch | 25 | 2.50× | 1.20× |" in page and "| 0.50× | 1.00× (missed) |" in page
    assert page.index("a module") < page.index("a net")  # in the order of the sections
    assert (tmp_path / "images" / "performance.png").stat().st_size > 1000
    assert benchmark.read(tmp_path / "none.csv") == []


def test_the_committed_page_is_made_from_the_committed_figures():
    results = benchmark.read(ROOT / "docs" / "performance.csv")
    text = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    assert {result.section for result in results} == set(SECTIONS)
    smaller = [
        (ROOT / "docs" / name).read_text(encoding="utf-8")
        for name in ("performance_ops.csv", "performance_seeds.csv")
    ]
    for line in benchmark.page(results, *smaller).splitlines():
        assert line in text or line.startswith("Made by"), line  # which names the machine


def test_an_unknown_section_is_named():
    assert_one_sentence(
        tool("benchmark", "modules", "trains"), "unknown section 'trains'", "did you mean 'train'?"
    )


def test_the_portable_form_can_be_asked_for():
    from benchmarks.baselines.ours_side import module_step

    with ops.using("on" if ops.kernels(paddle.zeros([1, 1, 2, 2])) else "auto"):
        module_step("simam", [1, 2, 4, 4], "train", form="off")()


def test_towernet_trains_as_the_notebooks_does():
    """No bias in front of a batch norm, and ReLU behind the pools: the same loss and the same gradients."""
    paddle.seed(0)  # with others a ReLU on its edge may fall either way, and 1e-6 becomes 1e-3
    ours, notebook = create_model("towernet", "simam", num_classes=16), stock_side.notebook_towernet()
    theirs = [parameter for parameter in notebook.parameters() if parameter.trainable]
    stem = [4 * block + 1 for block in range(4)]  # the void biases, behind their weights
    kept = [parameter for index, parameter in enumerate(theirs) if index not in stem]
    mine = [parameter for parameter in ours.parameters() if parameter.trainable]
    for parameter, other in zip(mine, kept, strict=True):
        other.set_value(parameter)
    images = paddle.to_tensor(np.random.default_rng(0).standard_normal([2, 3, 256, 256]).astype("float32"))
    for net in (ours, notebook):
        with ops.using("off"):  # the arrangement is compared here; the operators have tests of their own
            logits = net(images)
        paddle.nn.functional.cross_entropy(logits, paddle.to_tensor([3, 7])).backward()
    scale = max(float(parameter.grad.abs().max()) for parameter in mine)
    for parameter, other in zip(mine, kept, strict=True):
        difference = float((parameter.grad - other.grad).norm())
        assert difference <= 1e-4 * float(other.grad.norm()), other.name
    assert max(float(theirs[index].grad.abs().max()) for index in stem) < 1e-5 * scale
