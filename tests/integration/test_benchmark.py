"""The benchmark: its baselines do the same work as ours, and the page shows what was measured."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
from pathlib import Path

import numpy as np
import paddle
import pytest
from helpers import ROOT, assert_one_sentence, tool

from benchmarks import breakdown, measure, page
from benchmarks.baselines import ours, stock_paddle
from benchmarks.lines import (
    BFLOAT16,
    NEWER,
    PACKAGES,
    PYTORCH,
    SECTIONS,
    SHARES,
    TRAINED,
    Line,
    Result,
    lines,
)
from benchmarks.seeds import run_seeds
from benchmarks.step_time import run_time
from paddle_attn import create_attention, create_model, ops, profile, runtime

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="needs PyTorch: pip install -e .[bench]"
)
LINES = [line for section in SECTIONS for line in lines(section, Path("data"), Path("scratch"))]
SIMAM = {"step": "module", "name": "simam", "shape": [1, 2, 4, 4], "mode": "train"}
OURS = {"side": "ours", "form": "off", **SIMAM}


# ---- the baselines do the same work


def test_the_notebooks_towernet_has_its_parameters():
    trainable = [p for p in stock_paddle.notebook_towernet().parameters() if not p.stop_gradient]
    assert sum(int(np.prod(parameter.shape)) for parameter in trainable) == 1_362_176


@pytest.mark.parametrize(
    ("model", "size", "places"),
    [("towernet", 256, 4), ("vgg19", 64, 5), ("resnet50", 64, 16), ("mobilenet_v2", 64, 17)],
)
def test_the_stock_networks_have_simam_at_our_places(model: str, size: int, places: int):
    net = stock_paddle.network(model)
    net.eval()
    assert sum(isinstance(layer, stock_paddle.SimAM) for layer in net.sublayers()) == places
    assert net(paddle.zeros([1, 3, size, size])).shape == [1, 16]


def test_the_published_formula_is_our_simam():
    x = paddle.randn([2, 3, 5, 6])
    found, expected = stock_paddle.SimAM()(x).numpy(), create_attention("simam", 3)(x).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_towernet_trains_as_the_notebooks_does():
    """Ours has no bias before a batch norm and pools before ReLU: the same loss and the same gradients."""
    paddle.seed(0)  # others can put a ReLU's input so close to 0 that rounding decides its gradient
    net, notebook = create_model("towernet", "simam", num_classes=16), stock_paddle.notebook_towernet()
    theirs = [parameter for parameter in notebook.parameters() if parameter.trainable]
    void = [4 * block + 1 for block in range(4)]  # the biases before the batch norms, after their weights
    kept = [parameter for index, parameter in enumerate(theirs) if index not in void]
    mine = [parameter for parameter in net.parameters() if parameter.trainable]
    for parameter, other in zip(mine, kept, strict=True):
        other.set_value(parameter)
    images = paddle.to_tensor(np.random.default_rng(0).standard_normal([2, 3, 256, 256]).astype("float32"))
    for network in (net, notebook):
        with ops.using("off"):  # the fused operators have their own tests
            logits = network(images)
        paddle.nn.functional.cross_entropy(logits, paddle.to_tensor([3, 7])).backward()
    scale = max(float(parameter.grad.abs().max()) for parameter in mine)
    for parameter, other in zip(mine, kept, strict=True):
        difference = float((parameter.grad - other.grad).norm())
        assert difference <= 1e-4 * float(other.grad.norm()), other.name
    assert max(float(theirs[index].grad.abs().max()) for index in void) < 1e-5 * scale


def torch_twin(net: paddle.nn.Layer, twin):
    """The PyTorch module with the weights of a Paddle layer, in eval mode. Both have the same keys."""
    import torch

    linear = {
        f"{name}.weight" for name, layer in net.named_sublayers() if isinstance(layer, paddle.nn.Linear)
    }
    state = {}
    for key, value in net.state_dict().items():
        array = value.numpy().T if key in linear else value.numpy()
        key = key.replace("._mean", ".running_mean").replace("._variance", ".running_var")
        state[key] = torch.from_numpy(array.copy())
    counters = {key for key in twin.state_dict() if key.endswith("num_batches_tracked")}
    assert set(state) == set(twin.state_dict()) - counters
    twin.load_state_dict(state, strict=False)
    return twin.eval()


@needs_torch
@pytest.mark.parametrize(
    ("model", "size"),
    [
        ("towernet", 128),
        ("resnet18", 64),
        ("resnet50", 64),
        ("vgg19", 32),
        ("mobilenet_v2", 64),
        ("cifar_resnet20", 8),
        ("cifar_resnet56", 8),
    ],
)
def test_the_networks_in_pytorch_are_ours(model: str, size: int):
    import torch

    from benchmarks.baselines import pytorch

    net = create_model(model, "simam", num_classes=16)
    for key, value in net.state_dict().items():
        if key.endswith(("_mean", "_variance")):
            value.set_value(paddle.uniform(value.shape, min=0.5, max=1.5))
    net.eval()
    twin = torch_twin(net, pytorch.network(model, "simam", 16))  # so both have the same parameters
    images = np.random.default_rng(0).standard_normal([2, 3, size, size]).astype("float32")
    with paddle.no_grad(), torch.inference_mode():
        expected = net(paddle.to_tensor(images)).numpy()
        found = twin(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@needs_torch
@pytest.mark.parametrize("name", ["simam", "se", "sge", *NEWER])
def test_the_modules_in_pytorch_are_ours(name: str):
    import torch

    from benchmarks.baselines import pytorch

    attn = create_attention(name, 128)
    paddle.seed(0)
    for key, value in attn.state_dict().items():  # also what starts at 0, and running statistics
        positive = key.endswith("_variance")
        value.set_value(
            paddle.uniform(value.shape, min=0.5 if positive else -0.5, max=1.5 if positive else 0.5)
        )
    attn.eval()
    twin = torch_twin(attn, pytorch.MODULES[name](128))
    x = np.random.default_rng(0).standard_normal([2, 128, 9, 10]).astype("float32")
    with paddle.no_grad(), torch.inference_mode():
        expected, found = attn(paddle.to_tensor(x)).numpy(), twin(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("how", ["loaded", "bare", "loop"])
def test_every_kind_of_epoch_runs_again_and_again(split_data: Path, how: str):
    epoch = ours.epoch_step(str(split_data / "train"), 128, 8, how)
    assert [type(epoch()) for _ in range(2)] == [float, float]


# ---- the lines and their measurement


@pytest.mark.parametrize("line", LINES, ids=lambda line: f"{line.what}-{next(iter(line.baselines))}")
def test_all_sides_accept_the_arguments_of_every_line(line: Line):
    for order in (line.ours, *line.baselines.values()):
        package = PACKAGES.get(order["side"])
        if order["side"] == "itself" or (package and importlib.util.find_spec(package) is None):
            continue
        arguments = {
            key: value for key, value in order.items() if key not in ("side", "step", *measure.SETTINGS)
        }
        side = importlib.import_module(f"benchmarks.baselines.{order['side']}")
        inspect.signature(getattr(side, f"{order['step']}_step")).bind(**arguments)


def test_a_line_is_measured_in_two_processes():
    line = Line("modules", "tiny", OURS, {"stock": {"side": "stock_paddle", **SIMAM}}, 1.0)
    result = measure.measure(line, rounds=1)
    assert result.ours_ms > 0 and result.ratio == pytest.approx(result.baseline_ms / result.ours_ms)
    assert result.baseline == "stock" and (result.ours_mb, result.baseline_mb) == (0, 0)


BROKEN = {"side": "no_such_side", **SIMAM}


def test_the_fastest_of_several_baselines_counts_and_one_that_does_not_start_is_named():
    small, large = (
        {"side": "stock_paddle", **SIMAM, "shape": shape} for shape in ([1, 2, 4, 4], [4, 64, 32, 32])
    )
    baselines, reported = {"large": large, "small": small, "broken": BROKEN}, []
    result = measure.measure(Line("modules", "tiny", OURS, baselines, 1.0), 1, reported.append)
    assert result.baseline == "small"
    missing = "ModuleNotFoundError: No module named 'benchmarks.baselines.no_such_side'"
    assert reported == [f"tiny: broken skipped: {missing}"]


def test_lines_in_bfloat16_are_skipped_where_the_processor_has_none(monkeypatch):
    monkeypatch.setattr(measure, "HAS_BFLOAT16", False)
    skipped = [line.what for line in LINES if "no AVX512-BF16" in measure.why_not_here(line)]
    assert len(skipped) == 2 * len(BFLOAT16) + 1
    assert all("bfloat16" in what or "bf16" in what for what in skipped)


def test_a_line_without_any_baseline_is_an_error():
    with pytest.raises(RuntimeError, match="tiny: no baseline starts"):
        measure.measure(Line("modules", "tiny", OURS, {"one": BROKEN, "other": BROKEN}, 1.0), 1)


def test_every_baseline_of_pytorch_runs_with_the_tuned_allocator_in_modules_and_training():
    """All configurations of the table take part, and none is left with an allocator as it comes."""
    lines_ = [line for line in LINES if line.sides == {"pytorch"} and line.section != "infer"]
    assert len(lines_) == 3 * 4 + 2 + len(NEWER) + 8 + 3 + len(BFLOAT16)
    for line in lines_:
        pages = {order.get("huge_pages", False) for order in line.baselines.values()}
        assert list(line.baselines) == [name + " + huge pages" * max(pages) for name in PYTORCH]
        assert all(order["tuned"] for order in line.baselines.values()) and len(pages) == 1


def test_a_tuned_process_has_the_allocator_and_the_threads_of_ours():
    with measure.Worker([{"side": "stock_paddle", "tuned": True, "huge_pages": True, **SIMAM}]) as worker:
        environment = Path(f"/proc/{worker.process.pid}/environ")
        if not environment.exists():
            pytest.skip("needs Linux")
        found = dict(item.split("=", 1) for item in environment.read_text().split("\0") if item)
    threads = str(runtime.default_threads(runtime.this_machine(), os.environ))
    assert found | measure.ALLOCATOR | measure.HUGE_PAGES | {"OMP_NUM_THREADS": threads} == found


def test_a_training_step_reports_its_peak_memory():
    """That of its maps and weights, without that of the imports."""
    step = {"side": "ours", "step": "train", "form": "off", "attn": None}
    with measure.Worker([step | {"model": "cifar_resnet20", "size": 32, "batch": 16}]) as worker:
        megabytes = worker.memory()
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("needs Linux")
    assert 10 < megabytes < 200


@needs_torch
@pytest.mark.slow
@pytest.mark.parametrize("label", PYTORCH)
def test_every_configuration_of_pytorch_takes_the_same_step(label: str):
    """The loss of the first step, from the same weights and images, does not depend on it."""
    import torch

    from benchmarks.baselines import pytorch

    losses = []
    for configuration in ({}, PYTORCH[label]):
        torch.manual_seed(0)
        losses.append(pytorch.train_step("cifar_resnet20", "simam", 8, 2, **configuration)())
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_the_error_of_a_side_is_reported():
    line = Line("modules", "", OURS | {"name": "no-such-module"}, {"": {"side": "itself"}}, 1.0)
    with pytest.raises(RuntimeError, match="unknown attention 'no-such-module'"):
        measure.measure(line, rounds=1)


def test_two_sides_in_one_process_take_their_own_steps(split_data: Path):
    """Only the epoch waits for data."""
    data = str(split_data / "train")
    epoch = {"side": "ours", "step": "epoch", "root": data, "size": 128, "batch": 8, "how": "loaded"}
    with measure.Worker([OURS, epoch]) as worker:
        (module, module_waited), (whole, waited) = worker.turn(0), worker.turn(1)
    assert module > 0 and module_waited == 0 and 0 < waited < whole


def test_waiting_for_data_is_the_difference_to_the_time_without(split_data: Path):
    data = str(split_data / "train")
    epoch = {"side": "ours", "step": "epoch", "root": data, "size": 128, "batch": 8, "how": "loaded"}
    result = measure.measure(Line("data", "tiny", epoch, {"no waiting": {"side": "itself"}}, 0.98), 1)
    assert 0 < result.baseline_ms < result.ours_ms


def test_an_unknown_section_is_one_sentence():
    result = tool("benchmark", "modules", "trains")
    assert_one_sentence(result, "unknown section 'trains'", "did you mean 'train'?")


# ---- where the time of a step goes


@pytest.fixture(scope="module")
def tiny_breakdown() -> dict:
    """Of a step at a size at which the tests are fast; the shares say nothing there."""
    found = breakdown.breakdown("cifar_resnet20", 8, 2, steps=2)
    return found | {"peak_gflops": 100.0, "peak_gbs": 10.0}


def test_the_operators_of_a_step_are_counted(tiny_breakdown: dict):
    """ResNet-20: 19 convolutions and 2 of the shortcuts, each with a batch norm; 9 blocks.

    The fused batch norm contains the additions and ReLUs.
    """
    calls = {kind: row[0] for kind, *row in tiny_breakdown["rows"]}
    expected = {"first convolution": 1, "1×1 convolution": 2, "3×3 convolution": 18, "batch norm": 21}
    expected |= {"attention": 9, "pool": 1, "linear": 1}
    if not ops.available("batch_norm"):
        expected |= {"ReLU": 19, "addition": 9}
    assert expected.items() <= calls.items() and set(calls) <= set(SHARES)


def test_a_step_has_as_many_operations_as_the_network(tiny_breakdown: dict):
    """Backward has twice those of forward, but the images need no gradient."""
    macs = profile(create_model("cifar_resnet20", num_classes=16), size=8).macs
    first = 8 * 8 * 16 * 27
    expected = 2 * 2 * (3 * macs - first)  # two operations for a multiplication, two images
    assert sum(row[4] for row in tiny_breakdown["rows"]) * 1e9 == pytest.approx(expected, rel=0.02)


def test_the_parts_of_a_step_are_no_longer_than_the_step(tiny_breakdown: dict):
    explained = sum(row[2] + row[3] for row in tiny_breakdown["rows"])
    assert 0 < explained <= tiny_breakdown["profiled_ms"]
    for kind, _, forward, backward, *_ in tiny_breakdown["rows"]:
        assert forward > 0, kind
        assert backward > 0 or kind in ("optimiser", "other operators"), kind


def test_the_breakdown_leaves_paddle_as_it_was(tiny_breakdown: dict):
    x = paddle.ones([2])
    assert paddle.nn.functional.relu(x).sum().item() == 2
    assert not hasattr(paddle._C_ops.relu, "__wrapped__")


def test_the_time_of_a_step_is_a_table(tiny_breakdown: dict):
    """A row for each kind, the slowest first, and the rest."""
    head, _, *rows = [line for line in page.time_table(tiny_breakdown) if line.startswith("|")]
    assert head == "| what | calls | forward, ms | backward, ms | share | achieved | of the peak |"
    shares = [float(row.split("|")[5].removesuffix(" % ")) for row in rows]
    assert len(rows) == len(tiny_breakdown["rows"]) + 1 and rows[-1].startswith("| rest: ")
    assert sum(shares) == pytest.approx(100, abs=1) and shares[:-1] == sorted(shares[:-1], reverse=True)


def test_an_operator_is_compared_with_the_nearer_peak():
    found = {"step_ms": 90.0, "profiled_ms": 100.0, "peak_gflops": 100.0, "peak_gbs": 10.0}
    found["rows"] = [
        ["1×1 convolution", 3.0, 10.0, 30.0, 2.0, 0.1],  # 50 GFLOP/s, half of the peak; 2.5 GB/s
        ["depthwise convolution", 3.0, 5.0, 15.0, 0.1, 0.15],  # 5 GFLOP/s; 7.5 GB/s, three quarters
    ]
    assert page.time_table(found)[2:] == [
        "| 1×1 convolution | 3 | 10 | 30 | 40.0 % | 50 GFLOP/s | 50 % |",
        "| depthwise convolution | 3 | 5 | 15 | 20.0 % | 7.5 GB/s | 75 % |",
        "| rest: Python, the framework | – | – | – | 40.0 % | – | – |",
        "",
        "A step takes 90 ms, with the profiler 100 ms: the operators explain 67 % and 60 %.",
        "Peaks: 100 GFLOP/s and 10 GB/s.",
        "",
    ]


def test_the_peaks_are_of_this_machine():
    assert breakdown.matrix_product_peak(64, turns=1) > 0 and breakdown.copy_peak(1, turns=1) > 0


@pytest.mark.slow
def test_the_tables_of_a_networks_time_are_kept_until_they_are_measured_again(tmp_path: Path):
    reported: list[str] = []
    for _ in range(2):
        run_time({"cifar_resnet20": (8, 2)}, 1, tmp_path, reported.append, keep=True)
    assert [text.splitlines()[0] for text in reported] == ["cifar_resnet20-simam, 8 px, batch 2"]
    assert set(reported[0].splitlines()[1:]) < set((tmp_path / "performance.md").read_text().splitlines())


def test_every_network_with_a_line_of_training_has_a_table_of_its_time():
    lines_ = [line for line in LINES if line.section == "train"]
    assert {line.ours["model"] for line in lines_} == set(TRAINED)


def test_an_unknown_network_is_one_sentence():
    result = tool("benchmark", "time", "--model", "resnet5O")
    assert_one_sentence(result, "unknown network 'resnet5O'", "did you mean 'resnet50'?")


@pytest.mark.slow
def test_the_study_over_seeds_trains_all_forms(split_data: Path, tmp_path: Path):
    reported: list[str] = []
    run_seeds(split_data, 1, tmp_path / "runs", tmp_path, reported.append)
    table = (tmp_path / "performance_seeds.csv").read_text()
    assert len(reported) == 3 and table.startswith("seed,epochs,images,fused,reference")
    assert table.splitlines()[1].startswith("0,1,6,")
    assert "| mean ± deviation |" in (tmp_path / "performance.md").read_text()


# ---- the page


def test_csv_page_and_chart_show_the_results(tmp_path: Path):
    results = [
        Result("train", "a net", 10.0, "PyTorch", 25.0, 2.5, 1.2, 100.0, 1500.0),
        Result("train", "a net of another day", 10.0, "PyTorch", 25.0, 2.5, 1.2),
        Result("modules", "a module", 3.0, "stock Paddle", 1.5, 0.5, 1.0),
    ]
    page.write(results, tmp_path)
    in_order = [results[2], *results[:2]]  # of the sections
    assert page.read(tmp_path / "performance.csv") == in_order
    rows = [line for line in (tmp_path / "performance.md").read_text("utf-8").splitlines() if "×" in line]
    assert [row for row in rows if row.startswith("| a ")] == [
        "| a module | 3 | stock Paddle | 1.5 | 0.50× | 1.00× (missed) |",
        "| a net | 10 | PyTorch | 25 | 2.50× | 1.20× | 100 | 1,500 |",
        "| a net of another day | 10 | PyTorch | 25 | 2.50× | 1.20× | – | – |",
    ]
    text = (tmp_path / "performance.md").read_text("utf-8")
    pictures = {path.name for path in (tmp_path / "images").iterdir()}
    assert pictures == {"performance_modules.png", "performance_train.png"}
    assert all(f"(images/{name})" in text for name in pictures)


@pytest.mark.parametrize(
    ("ratio", "aim", "shown"),
    [
        (0.9612, 0.9615, ("0.961×", "0.962×")),
        (0.9802, 0.98, ("0.9802×", "0.9800×")),
        (1.5, 1.5, ("1.50×", "1.50×")),
        (0.84, 0.85, ("0.84×", "0.85×")),
    ],
)
def test_a_ratio_and_an_aim_that_differ_look_different(ratio: float, aim: float, shown: tuple[str, str]):
    assert page.ratio_and_aim(Result("train", "a net", 10.0, "PyTorch", 25.0, ratio, aim)) == shown


def test_the_bars_start_at_the_speed_of_the_baseline():
    """At 1×, with the faster ones to the right and the slower ones to the left."""
    results = [Result("train", "a net", 10.0, "PyTorch", 25.0, ratio, 1.2) for ratio in (0.5, 1.25, 40.0)]
    (axes,) = page.ratio_figure(results, "a title").axes
    assert [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in axes.patches] == [
        (1.0, pytest.approx(result.ratio)) for result in results
    ]
    left, right = axes.get_xlim()
    assert left < 0.5 and right > 40


def test_there_are_no_results_without_a_table(tmp_path: Path):
    assert page.read(tmp_path / "performance.csv") == []


def test_the_committed_page_is_made_from_the_committed_results():
    docs = ROOT / "docs"
    results = page.read(docs / "performance.csv")
    committed = docs / "performance.md"
    made = page.page(results, page.read_tables(docs))
    assert made == committed.read_text("utf-8")


def test_every_result_is_of_a_line_that_can_be_measured_again():
    aims = {(line.section, line.what, label): line.aim for line in LINES for label in line.baselines}
    results = page.read(ROOT / "docs" / "performance.csv")
    assert len(results) >= 30
    for result in results:
        assert result.aim == pytest.approx(aims[result.section, result.what, result.baseline], rel=1e-3)
