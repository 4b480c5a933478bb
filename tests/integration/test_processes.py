"""Several processes, by the command of docs/scaling.md: they train as one process with all images does."""

from __future__ import annotations

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import paddle
import pytest
from helpers import ROOT, config_for

from paddle_attn import create_model
from paddle_attn.config import OptimConfig, TrainConfig
from paddle_attn.data.folder import ImageFolder
from paddle_attn.data.loader import NO_LABEL, Loader, ShardedBatchSampler
from paddle_attn.data.transforms import Preprocess
from paddle_attn.errors import UserError
from paddle_attn.train import fit
from paddle_attn.train.optim import Accuracy, ClassificationLoss, make_schedule
from paddle_attn.train.processes import Processes
from paddle_attn.weights import read_weights

SETTINGS = [
    "train.device=cpu",
    "data.size=64",
    "train.epochs=2",
    "optim.name=sgd",
    "optim.lr=0.1",
    "optim.schedule_unit=step",
]


@pytest.fixture(scope="module")
def uneven_data(split_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """23 images to learn from, 5 to test with: two processes cannot share them evenly."""
    folder = tmp_path_factory.mktemp("uneven") / "split"
    shutil.copytree(split_data, folder)
    for part in ("train", "eval"):
        next((folder / part / "red").iterdir()).unlink()
    return folder


LAUNCHER = re.search(
    r"^python (-m paddle\.distributed\.launch --nproc_per_node 2) tools/train\.py -c ",
    (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8"),
    re.M,
)[1]


def launch(script: Path, log: Path, *arguments: object) -> subprocess.Popen:
    """The command of docs/scaling.md for two processes on one machine."""
    command = [sys.executable, *LAUNCHER.split(), "--log_dir", log, script, *arguments]
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    return subprocess.Popen(
        list(map(str, command)),
        cwd=log.parent,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(process: subprocess.Popen) -> str:
    try:
        return process.communicate(timeout=120)[0]
    finally:
        process.kill()


def rows_of(run: Path) -> list[dict[str, float]]:
    with open(run / "history.csv", newline="", encoding="utf-8") as file:
        return [
            {key: float(value) for key, value in row.items() if key != "seconds"}
            for row in csv.DictReader(file)
        ]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_learn_what_one_learns_from_the_double_batch(
    uneven_data: Path, tmp_path: Path, accumulate: int
):
    script, config = (
        ROOT / "tests" / "integration" / "launched.py",
        ROOT / "configs" / "mobilenet_v2_none.yaml",
    )
    common = [*SETTINGS, f"data.root={uneven_data}", f"optim.accumulate={accumulate}"]
    two = launch(
        script, tmp_path / "log", config, *common, "train.batch_size=5", f"train.output={tmp_path / 'two'}"
    )
    said = ended(two)
    assert two.returncode == 0 and "in 2 processes" in said, said
    assert "epoch" not in (tmp_path / "log" / "workerlog.1").read_text()  # the first one speaks, and writes
    settings = [*common, "train.batch_size=10", f"train.output={tmp_path / 'one'}"]
    subprocess.run([sys.executable, script, config, *settings], check=True, capture_output=True)
    for one, other in zip(rows_of(tmp_path / "one"), rows_of(tmp_path / "two"), strict=True):
        assert one == pytest.approx(other, rel=1e-5)
    theirs = read_weights(tmp_path / "two" / "last.pdparams")
    for key, value in read_weights(tmp_path / "one" / "last.pdparams").items():
        np.testing.assert_allclose(theirs[key], value, rtol=1e-4, atol=1e-6, err_msg=key)


def test_sigterm_stops_all_and_resuming_ends_bitwise_as_if_undisturbed(uneven_data: Path, tmp_path: Path):
    script, config = ROOT / "tools" / "train.py", ROOT / "configs" / "mobilenet_v2_se.yaml"
    settings = [
        *SETTINGS,
        f"data.root={uneven_data}",
        "train.batch_size=3",
        "train.epochs=6",
        "optim.ema_decay=0.9",
    ]
    whole = launch(
        script, tmp_path / "log", "-c", config, "-o", *settings, f"train.output={tmp_path / 'whole'}"
    )
    assert "epoch   6/6" in ended(whole)
    broken = launch(
        script, tmp_path / "log2", "-c", config, "-o", *settings, f"train.output={tmp_path / 'broken'}"
    )
    limit = time.monotonic() + 100
    while not (tmp_path / "broken" / "last.pdstate").exists() and time.monotonic() < limit:
        assert broken.poll() is None, broken.communicate()[0]
        time.sleep(0.02)
    broken.send_signal(signal.SIGTERM)
    ended(broken)  # the launcher shows no more of what its processes say
    while (
        "stopped" not in (said := (tmp_path / "log2" / "workerlog.0").read_text())
        and time.monotonic() < limit
    ):
        time.sleep(0.1)
    assert "stopped: SIGTERM after " in said and "paddle.distributed.launch … tools/train.py" in said, said
    assert len(rows_of(tmp_path / "broken")) < 6
    again = launch(script, tmp_path / "log3", "-c", tmp_path / "broken" / "config.yaml", "--resume")
    assert "going on after" in ended(again)
    assert rows_of(tmp_path / "whole") == rows_of(tmp_path / "broken")
    theirs = read_weights(tmp_path / "broken" / "best.pdparams")
    for key, value in read_weights(tmp_path / "whole" / "best.pdparams").items():
        assert np.array_equal(value, theirs[key]), key


def test_a_process_that_dies_ends_the_job_with_its_message(uneven_data: Path, tmp_path: Path):
    data = tmp_path / "data"
    shutil.copytree(uneven_data, data)
    damaged = next((data / "train" / "blue").iterdir())  # one of the two meets it
    damaged.write_bytes(damaged.read_bytes()[:200])
    job = launch(
        ROOT / "tests" / "integration" / "launched.py",
        tmp_path / "log",
        ROOT / "configs" / "mobilenet_v2_none.yaml",
        *SETTINGS,
        f"data.root={data}",
        "train.batch_size=5",
    )
    assert f"error: cannot decode the image {damaged}" in ended(job)
    assert job.returncode == 2


def shards(count: int, batch_size: int, world_size: int, shuffle: bool) -> list[list[list[int]]]:
    class Images(list):
        epoch = 3

    return [
        list(ShardedBatchSampler(Images(range(count)), batch_size, shuffle, 7, rank, world_size))
        for rank in range(world_size)
    ]


@pytest.mark.parametrize(
    ("count", "batch_size", "world_size"),
    [(23, 5, 2), (24, 4, 3), (7, 2, 3), (9, 4, 4), (10, 10, 1), (11, 4, 1)],
)
def test_shards_do_not_overlap_and_every_image_is_tested(count: int, batch_size: int, world_size: int):
    trained = shards(count, batch_size, world_size, shuffle=True)
    assert len({len(steps) for steps in trained}) == 1  # the same number of steps for each
    seen = [index for steps in trained for batch in steps for index in batch]
    assert len(seen) == len(set(seen)) > count - world_size
    assert all(batch for steps in trained for batch in steps)
    one = shards(count, batch_size * world_size, 1, shuffle=True)[0]
    for step, together in enumerate(zip(*trained, strict=True)):  # together the steps of one process
        assert {index for batch in together for index in batch} == set(one[step])
    tested = shards(count, batch_size, world_size, shuffle=False)
    assert {index for steps in tested for batch in steps for index in batch} == set(range(count))
    for together in zip(*tested, strict=True):
        assert len({len(batch) for batch in together}) == 1  # Paddle gathers tensors of one shape


def test_the_padding_of_a_shard_does_not_count(uneven_data: Path):
    images = ImageFolder(uneven_data / "eval", Preprocess(8, "stretch", (0.5,) * 3, (0.5,) * 3))
    ((_, first),), ((_, second),) = (list(Loader(images, 5, rank=rank, world_size=2)) for rank in range(2))
    assert first.numpy().tolist() == [0, 1, 2] and second.numpy().tolist() == [0, 1, NO_LABEL]
    logits = paddle.to_tensor([[9.0, 0, 0, 0, 0], [0, 9.0, 0, 0, 0], [0, 0, 9.0, 0, 0]])
    loss = ClassificationLoss()
    loss.eval()
    assert float(loss(logits, second)) == pytest.approx(float(loss(logits[:2], second[:2])))
    accuracy = Accuracy()
    accuracy.update(accuracy.compute(logits, second).numpy())
    assert accuracy.accumulate() == [1.0, 1.0] and accuracy.count == [2, 2]
    assert float(loss(logits[2:], second[2:])) == 0.0


@pytest.mark.parametrize("unit", ["epoch", "step"])
def test_the_rate_grows_with_the_processes_only_where_it_is_asked_for(unit: str):
    for scale_lr, expected in ((False, 0.1), (True, 0.4)):
        optim = OptimConfig(lr=0.1, schedule="constant", schedule_unit=unit, scale_lr=scale_lr)
        assert make_schedule(optim, 3, 10, processes=4).get_lr() == pytest.approx(expected)
        assert make_schedule(optim, 3, 10).get_lr() == pytest.approx(0.1)


def test_batch_norm_over_processes_keeps_the_names_of_the_weights():
    net = create_model("resnet18", "simam", num_classes=3)
    names = list(net.state_dict())
    assert list(paddle.nn.SyncBatchNorm.convert_sync_batchnorm(net).state_dict()) == names
    assert any(isinstance(layer, paddle.nn.SyncBatchNorm) for layer in net.sublayers())


def test_alone_the_job_is_this_process():
    alone = Processes("cpu")
    assert (alone.rank, alone.count, alone.is_first) == (0, 1, True)
    assert alone.sum([1.5, 2.0]) == [1.5, 2.0] and alone.largest(15) == 15
    alone.wait()


def test_what_does_not_fit_several_processes_is_one_sentence(
    split_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    images = ImageFolder(split_data / "eval", Preprocess(8, "stretch", (0.5,) * 3, (0.5,) * 3))
    with pytest.raises(UserError, match="6 images cannot be divided among 7 processes"):
        Loader(images, 1, world_size=7)
    with pytest.raises(UserError, match=r"train.sync_bn is True, but this run is on the cpu"):
        fit(config_for(split_data, tmp_path / "run", sync_bn=True))
    monkeypatch.setitem(os.environ, "PADDLE_TRAINERS_NUM", "2")
    with pytest.raises(UserError, match=r"train.device is 'gpu:1', but 2 processes were launched"):
        fit(config_for(split_data, tmp_path / "run", device="gpu:1"))
    assert not (tmp_path / "run").exists()
    assert TrainConfig().sync_bn is False
