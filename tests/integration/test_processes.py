"""Several processes, by the command of docs/scaling.md: they train as one process with all images does."""

from __future__ import annotations

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from helpers import HANG, ROOT, config_for, wait_until

from paddle_attn import create_model, ops
from paddle_attn.data.folder import ImageFolder
from paddle_attn.data.loader import Loader, ShardedBatchSampler
from paddle_attn.data.transforms import Preprocess
from paddle_attn.errors import UserError
from paddle_attn.train import evaluate, fit
from paddle_attn.train.distributed import ProcessGroup
from paddle_attn.weights import read_weights

LAUNCHED = ROOT / "tests" / "integration" / "launched.py"
CONFIGS = ROOT / "configs"
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
    """23 training and 5 eval images: two processes cannot divide them evenly."""
    folder = tmp_path_factory.mktemp("uneven") / "split"
    shutil.copytree(split_data, folder)
    for split in ("train", "eval"):
        next((folder / split / "red").iterdir()).unlink()
    return folder


LAUNCHER = re.search(
    r"^python (-m paddle\.distributed\.launch --nproc_per_node 2) paddle-attn train -c ",
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


def output_of(process: subprocess.Popen) -> str:
    """What the launcher prints until it ends."""
    try:
        return process.communicate(timeout=HANG)[0]
    finally:
        process.kill()


def history_of(run: Path) -> list[dict[str, float]]:
    with open(run / "history.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [{key: float(value) for key, value in row.items() if key != "seconds"} for row in rows]


@pytest.mark.parametrize(
    ("accumulate", "amp"),
    [
        (1, "null"),
        (2, "null"),
        pytest.param(
            1, "O1", marks=pytest.mark.skipif(bool(ops.bfloat16_problem()), reason="needs bfloat16")
        ),
    ],
)
def test_two_processes_train_as_one_with_the_double_batch(
    uneven_data: Path, tmp_path: Path, accumulate: int, amp: str
):
    config = CONFIGS / "mobilenet_v2_none.yaml"
    common = [*SETTINGS, f"data.root={uneven_data}", f"optim.accumulate={accumulate}", f"train.amp={amp}"]
    two = [*common, "train.batch_size=5", f"train.output={tmp_path / 'two'}"]
    job = launch(LAUNCHED, tmp_path / "log", config, *two)
    output = output_of(job)
    assert job.returncode == 0 and "in 2 processes" in output, output
    assert "epoch" not in (tmp_path / "log" / "workerlog.1").read_text()  # only the main process prints
    one = [*common, "train.batch_size=10", f"train.output={tmp_path / 'one'}"]
    subprocess.run([sys.executable, LAUNCHED, config, *one], check=True, capture_output=True)
    for expected, found in zip(history_of(tmp_path / "one"), history_of(tmp_path / "two"), strict=True):
        assert found == pytest.approx(expected, rel=1e-5 if amp == "null" else 1e-2)
    rtol = 1e-4 if amp == "null" else 1e-2  # rounding to bfloat16 can differ where a sum does
    weights = read_weights(tmp_path / "two" / "last.pdparams")
    for key, value in read_weights(tmp_path / "one" / "last.pdparams").items():
        np.testing.assert_allclose(weights[key], value, rtol=rtol, atol=rtol / 100, err_msg=key)


def test_sigterm_stops_all_processes_and_the_resumed_run_is_bitwise_the_same(
    uneven_data: Path, tmp_path: Path
):
    config = CONFIGS / "mobilenet_v2_se.yaml"
    script = tmp_path / "paddle-attn"  # as an installation writes it
    script.write_text(f"#!{sys.executable}\nfrom paddle_attn.commands import main\nmain()\n")
    script.chmod(0o755)
    settings = [*SETTINGS, f"data.root={uneven_data}", "train.batch_size=3", "optim.ema_decay=0.9"]
    settings += ["optim.schedule=constant"]  # so that the rates do not depend on train.epochs
    broken, whole = (f"train.output={tmp_path / name}" for name in ("broken", "whole"))
    job = launch(
        script, tmp_path / "log", "train", "-c", config, "-o", *settings, broken, "train.epochs=1000"
    )
    wait_until((tmp_path / "broken" / "last.pdstate").exists, job)
    job.send_signal(signal.SIGTERM)
    output_of(job)  # the launcher does not show what its processes print while they stop
    log = tmp_path / "log" / "workerlog.0"
    assert "stopped: SIGTERM after " in log.read_text()
    assert "continue with: python -m paddle.distributed.launch … paddle-attn train -c " in log.read_text()
    epochs = len(history_of(tmp_path / "broken")) + 2
    resumed = ["-c", tmp_path / "broken" / "config.yaml", "--resume", "-o", f"train.epochs={epochs}"]
    assert "resuming after" in output_of(launch(script, tmp_path / "log2", "train", *resumed))
    undisturbed = ["-c", config, "-o", *settings, whole, f"train.epochs={epochs}"]
    output_of(launch(script, tmp_path / "log3", "train", *undisturbed))
    assert len(history_of(tmp_path / "whole")) == epochs
    assert history_of(tmp_path / "whole") == history_of(tmp_path / "broken")
    weights = read_weights(tmp_path / "broken" / "last.pdparams")
    for key, value in read_weights(tmp_path / "whole" / "last.pdparams").items():
        assert np.array_equal(value, weights[key]), key


def test_an_error_in_one_process_ends_all_with_its_message(uneven_data: Path, tmp_path: Path):
    data = tmp_path / "data"
    shutil.copytree(uneven_data, data)
    damaged = next((data / "train" / "blue").iterdir())  # one of the two processes loads it
    damaged.write_bytes(damaged.read_bytes()[:200])
    config, settings = CONFIGS / "mobilenet_v2_none.yaml", [*SETTINGS, f"data.root={data}"]
    job = launch(LAUNCHED, tmp_path / "log", config, *settings, "train.batch_size=5")
    assert f"error: cannot decode the image {damaged}" in output_of(job)
    # Paddle's launcher reports the first failed process that it sees: this one, or one that it ended itself
    assert job.returncode in (2, 256 - signal.SIGTERM)


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
        assert len({len(batch) for batch in together}) == 1  # padded to the same length


class FirstChannel(paddle.nn.Layer):
    """Logits that depend on the image and on nothing else."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return x.mean([2, 3])


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_the_shards_of_an_evaluation_add_up_to_the_whole(uneven_data: Path, world_size: int):
    images = ImageFolder(uneven_data / "eval", Preprocess(8, "stretch", (0.5,) * 3, (0.5,) * 3))
    whole = evaluate(FirstChannel(), Loader(images, 5), images.classes)
    shards = [
        evaluate(FirstChannel(), Loader(images, 2, rank=rank, world_size=world_size), images.classes)
        for rank in range(world_size)
    ]
    assert sum(shard.confusion for shard in shards).tolist() == whole.confusion.tolist()
    loss = sum(shard.loss * shard.confusion.sum() for shard in shards) / len(images)
    assert loss == pytest.approx(whole.loss, rel=1e-5)


def test_sync_batch_norm_keeps_the_names_of_the_weights():
    net = create_model("resnet18", "simam", num_classes=3)
    names = list(net.state_dict())
    assert list(paddle.nn.SyncBatchNorm.convert_sync_batchnorm(net).state_dict()) == names
    assert any(isinstance(layer, paddle.nn.SyncBatchNorm) for layer in net.sublayers())


def test_a_single_process_is_the_main_one_and_reduces_to_itself():
    alone = ProcessGroup("cpu")
    assert (alone.rank, alone.world_size, alone.is_main) == (0, 1, True)
    assert alone.all_reduce_sum([1.5, 2.0]) == [1.5, 2.0] and alone.all_reduce_max(15) == 15
    assert alone.first_error("message") == "message" and alone.all_equal(3)


def test_fewer_images_than_processes_is_one_sentence(split_data: Path):
    images = ImageFolder(split_data / "eval", Preprocess(8, "stretch", (0.5,) * 3, (0.5,) * 3))
    with pytest.raises(UserError, match="6 images cannot be divided among 7 processes"):
        Loader(images, 1, world_size=7)


def test_sync_batch_norm_on_a_cpu_is_refused(split_data: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"train.sync_bn is True, but this run is on the cpu"):
        fit(config_for(split_data, tmp_path / "run", sync_bn=True))
    assert not (tmp_path / "run").exists()


def test_one_gpu_for_two_processes_is_refused(
    split_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "2")
    with pytest.raises(UserError, match=r"train.device is 'gpu:1', but 2 processes were launched"):
        fit(config_for(split_data, tmp_path / "run", device="gpu:1"))
    assert not (tmp_path / "run").exists()
