"""The checkpoint file and the training state that it holds."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import paddle
import pytest
from helpers import disk_of
from hypothesis import given
from hypothesis import strategies as st

from paddle_attn.config import Config, OptimConfig, TrainConfig
from paddle_attn.errors import UserError
from paddle_attn.train.checkpoint import read_checkpoint, write_checkpoint
from paddle_attn.train.ema import ExponentialMovingAverage
from paddle_attn.train.optim import make_optimizer, make_schedule
from paddle_attn.train.run_folder import RunFolder
from paddle_attn.train.state import EpochMetrics, EpochProgress, TrainState

NAMES = st.text(max_size=6)
ARRAYS = st.builds(
    lambda shape, dtype: np.arange(np.prod(shape)).reshape(shape).astype(dtype),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from(["float32", "float64", "int64", "bool"]),
)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9) | ARRAYS
TREES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3)
)


def assert_equal(one: object, two: object) -> None:
    if isinstance(one, np.ndarray):
        assert one.dtype == two.dtype and one.shape == two.shape and np.array_equal(one, two)
    elif isinstance(one, dict):
        assert one.keys() == two.keys()
        for key, value in one.items():
            assert_equal(value, two[key])
    elif isinstance(one, list):
        assert len(one) == len(two)
        for first, second in zip(one, two, strict=True):
            assert_equal(first, second)
    else:
        assert type(one) is type(two) and one == two


@given(TREES)
def test_a_tree_is_read_back_with_the_same_types_and_bits(
    tmp_path_factory: pytest.TempPathFactory, tree: object
):
    path = tmp_path_factory.mktemp("tree") / "x.pdstate"
    write_checkpoint(tree, path)
    assert_equal(tree, read_checkpoint(path))


def crafted(content: bytes, change: Callable[[dict, dict], None]) -> bytes:
    """The checkpoint with a changed header of its safetensors file, whose lengths fit again.

    Args:
        change: gets the header and, inside it, what `write_checkpoint` adds, and changes them.
    """
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    change(header, header["__metadata__"])
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def sealed(metadata: dict, tree: str) -> None:
    """Put a tree into the header with the checksum that it would have with this tensor."""
    tensors = {"/weight": np.ones([3, 4], "float32")}
    digest = hashlib.sha256(tree.encode())
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tensor.shape} ".encode() + tensor.tobytes())
    metadata.update(tree=tree, sha256=digest.hexdigest())


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda header, own: own.update(sha256="0" * 64), "a wrong checksum"),
        (lambda header, own: own.pop("sha256"), "a wrong checksum"),
        (lambda header, own: own.update(format="paddle_attn checkpoint 9"), "another format"),
        (lambda header, own: header.pop("__metadata__"), "another format"),
        (lambda header, own: sealed(own, "{no JSON"), "JSONDecodeError"),
        (lambda header, own: sealed(own, 100_000 * "["), "RecursionError"),
        (lambda header, own: sealed(own, '{"x": {"$tensor": "/missing"}}'), "KeyError"),
        (lambda header, own: sealed(own, '{"x": {"$tensor": ["/weight"]}}'), "TypeError"),
        (lambda header, own: header["/weight"].update(shape=[3, 5]), "SafetensorError"),
        (lambda header, own: header["/weight"].update(shape=[2**62, 8]), "SafetensorError"),
        (lambda header, own: header["/weight"].update(data_offsets=[0, 2**60]), "SafetensorError"),
        (lambda header, own: header.pop("/weight"), "SafetensorError"),
    ],
)
def test_a_crafted_header_is_refused(tmp_path: Path, change: Callable[[dict, dict], None], found: str):
    path = tmp_path / "x.pdstate"
    write_checkpoint({"rows": [1, 2], "weight": np.ones([3, 4], "float32")}, path)
    path.write_bytes(crafted(path.read_bytes(), change))
    with pytest.raises(UserError, match=rf"x\.pdstate is damaged .*, found {found}; train without --resume"):
        read_checkpoint(path)


def test_a_checkpoint_may_be_crafted_and_still_be_whole(tmp_path: Path):
    """The tests above change what they mean to: with a fitting checksum a changed tree is read."""
    path = tmp_path / "x.pdstate"
    write_checkpoint({"weight": np.ones([3, 4], "float32")}, path)
    path.write_bytes(crafted(path.read_bytes(), lambda header, own: sealed(own, '{"rows": [3]}')))
    assert read_checkpoint(path) == {"rows": [3]}


@pytest.mark.parametrize("kept", [4, 8, 60])
def test_a_truncated_header_is_found(tmp_path: Path, kept: int):
    path = tmp_path / "x.pdstate"
    write_checkpoint({"weight": np.ones([3, 4], "float32")}, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"x\.pdstate is damaged .*, found SafetensorError"):
        read_checkpoint(path)


@pytest.mark.parametrize("length", [0, 1, 99, 2**40, 2**64 - 1])
def test_a_header_whose_length_lies_is_refused(tmp_path: Path, length: int):
    path = tmp_path / "x.pdstate"
    write_checkpoint({"weight": np.ones([3, 4], "float32")}, path)
    path.write_bytes(length.to_bytes(8, "little") + path.read_bytes()[8:])
    with pytest.raises(UserError, match=r"x\.pdstate is damaged .*, found SafetensorError"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "tree", [[], "x", {}, {"fingerprint": {}}, {"fingerprint": 3, "classes": ["a", "b"], "state": {}}]
)
def test_a_whole_checkpoint_of_something_else_is_one_sentence(tmp_path: Path, tree: object):
    folder = folder_for(tmp_path)
    write_checkpoint(tree, folder.path / "last.pdstate")
    with pytest.raises(UserError, match=r"last\.pdstate is not a checkpoint of this network \(.*--resume"):
        folder.restore(trained_state(0))


@pytest.mark.parametrize("lost", ["network", "optimizer", "ema", "scaler", "history", "progress"])
def test_a_checkpoint_without_a_part_is_refused_and_changes_no_history(tmp_path: Path, lost: str):
    folder = folder_for(tmp_path)
    folder.save_checkpoint(trained_state(1))
    tree = read_checkpoint(folder.path / "last.pdstate")
    del tree["state"][lost]
    write_checkpoint(tree, folder.path / "last.pdstate")
    restored = trained_state(0)
    with pytest.raises(UserError, match=r"is not a checkpoint of this network"):
        folder.restore(restored)
    assert restored.history == []


def test_a_full_disk_is_one_sentence_and_the_older_checkpoint_is_kept(tmp_path: Path):
    path = tmp_path / "x.pdstate"
    write_checkpoint({"weight": np.ones([64, 64])}, path)
    before = path.read_bytes()
    with disk_of(len(before) // 2), pytest.raises(UserError, match=r"cannot write .*x\.pdstate: "):
        write_checkpoint({"weight": np.zeros([64, 64])}, path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "damage", ["truncated", "flipped tensor", "flipped header", "empty", "text", "pickle"]
)
def test_every_damage_is_found(tmp_path: Path, damage: str):
    path = tmp_path / "x.pdstate"
    write_checkpoint({"rows": [1, 2], "weight": np.ones([3, 4], "float32")}, path)
    content = bytearray(path.read_bytes())
    if damage.startswith("flipped"):
        content[-7 if "tensor" in damage else content.index(b"rows") + 1] ^= 1
    else:
        content = {
            "truncated": content[:-5],
            "empty": b"",
            "text": b"not a checkpoint",
            "pickle": b"paddle_attn checkpoint, SHA-256 " + pickle.dumps({}),  # the format of version 0.1.0
        }[damage]
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"x\.pdstate is damaged or not a checkpoint of this version"):
        read_checkpoint(path)


def test_a_missing_checkpoint_is_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"cannot read the checkpoint .*x\.pdstate"):
        read_checkpoint(tmp_path / "x.pdstate")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_in_place_of_a_checkpoint_is_an_error_and_not_a_wait(tmp_path: Path):
    os.mkfifo(tmp_path / "x.pdstate")
    with pytest.raises(UserError, match=r"x\.pdstate: it is a pipe or a device, expected a regular file"):
        read_checkpoint(tmp_path / "x.pdstate")


class Scaler:
    """Stands for Paddle's GradScaler, which works only on a GPU."""

    def __init__(self, scale: float):
        self.scale = np.float32([scale])

    def state_dict(self) -> dict:
        return {"scale": self.scale, "incr_count": 3}

    def load_state_dict(self, state: dict) -> None:
        self.scale, self.incr_count = state["scale"], state["incr_count"]


def trained_state(updates: int, scale: float = 1.0) -> TrainState:
    """A network after some updates of Adam, whose state has moments and powers."""
    paddle.seed(0)
    with paddle.utils.unique_name.guard():
        network = paddle.nn.Sequential(
            paddle.nn.Linear(3, 4), paddle.nn.BatchNorm1D(4), paddle.nn.Linear(4, 2)
        )
        schedule = make_schedule(OptimConfig(name="adam"), epochs=10, steps_per_epoch=5)
        optimizer = make_optimizer(OptimConfig(name="adam"), schedule, network.parameters())
        state = TrainState(network, optimizer, ExponentialMovingAverage(network, 0.9), Scaler(scale))
    take_steps(state, updates)
    return state


def take_steps(state: TrainState, updates: int) -> None:
    x = paddle.to_tensor(np.random.default_rng(0).standard_normal([8, 3]).astype("float32"))
    with paddle.utils.unique_name.guard():  # the optimiser names its tensors at the first step
        for _ in range(updates):
            state.network(x).square().mean().backward()
            state.optimizer.step()
            state.optimizer.clear_grad()
            state.scheduler.step()
            state.ema.update()


def folder_for(
    tmp_path: Path, classes: tuple[str, ...] = ("a", "b"), images: tuple[int, int] = (24, 6), **train
) -> RunFolder:
    output = str(tmp_path / "run")
    return RunFolder(
        dataclasses.replace(Config(), train=TrainConfig(output=output, **train)), classes, images
    )


def assert_same_state(one: TrainState, two: TrainState) -> None:
    for first, second in ((one.network, two.network), (one.ema, two.ema)):
        first, second = first.state_dict(), second.state_dict()
        first, second = first.get("average", first), second.get("average", second)
        assert first.keys() == second.keys()
        for key in first:
            assert np.array_equal(first[key].numpy(), second[key].numpy()), key
    assert one.lr == two.lr and one.history == two.history and one.progress == two.progress


def test_a_restored_state_continues_bitwise(tmp_path: Path):
    state = trained_state(3, scale=7.0)
    state.history.append(EpochMetrics(1, 0.01, 1.5, 0.5, 1.0, 1.25, 0.25, 1.0, 2.0))
    state.progress = EpochProgress(lr=state.lr, step=3, images=24, loss_sum=1 / 3, top1_hits=5)
    folder = folder_for(tmp_path)
    folder.save_checkpoint(state)
    restored = trained_state(0)
    assert folder.restore(restored) == []
    assert float(restored.scaler.scale[0]) == 7.0 and restored.scaler.incr_count == 3
    assert_same_state(state, restored)
    for each in (state, restored):
        take_steps(each, 4)
    assert_same_state(state, restored)


def test_the_checkpoint_before_is_taken_when_the_newest_is_damaged(tmp_path: Path):
    folder, state = folder_for(tmp_path), trained_state(1)
    folder.save_checkpoint(state)
    take_steps(state, 1)
    folder.save_checkpoint(state)
    newest = folder.path / "last.pdstate"
    newest.write_bytes(newest.read_bytes()[:-9])
    restored = trained_state(0)
    (note,) = folder.restore(restored)
    assert f"continuing from {folder.path / 'before.pdstate'}" in note
    assert_same_state(restored, trained_state(1))


def test_the_best_weights_of_a_lost_epoch_give_way_to_those_before_them(tmp_path: Path):
    folder, state, best = folder_for(tmp_path), trained_state(1), {}
    for epoch, top1 in enumerate((0.5, 0.3, 0.9), 1):
        take_steps(state, 1)
        state.history.append(EpochMetrics(epoch, 0.01, 1.5, 0.5, 1.0, 1.25, top1, 1.0, 2.0))
        folder.save_checkpoint(state)
        folder.save_results(state)
        best[epoch] = (folder.path / "best.pdparams").read_bytes()
    assert best[1] == best[2] != best[3]
    (folder.path / "last.pdstate").write_bytes(b"damaged")
    restored = trained_state(0)
    folder.restore(restored)
    folder.restore_best(restored)
    assert restored.best.epoch == 1 and (folder.path / "best.pdparams").read_bytes() == best[1]
    assert len((folder.path / "history.csv").read_text().splitlines()) == 1 + 2


def test_results_that_are_written_again_keep_the_best_weights_before_them(tmp_path: Path):
    folder, state = folder_for(tmp_path), trained_state(1)
    for epoch, top1 in enumerate((0.5, 0.9), 1):
        take_steps(state, 1)
        state.history.append(EpochMetrics(epoch, 0.01, 1.5, 0.5, 1.0, 1.25, top1, 1.0, 2.0))
        folder.save_results(state)
    before = (folder.path / "before_best.pdparams").read_bytes()
    folder.save_results(state)  # as a resumed run does
    assert (folder.path / "before_best.pdparams").read_bytes() == before


def test_another_config_is_refused_and_the_length_may_change(tmp_path: Path):
    folder_for(tmp_path).save_checkpoint(trained_state(1))
    folder_for(tmp_path, epochs=7, ops="off", patience=3).restore(trained_state(0))
    with pytest.raises(UserError, match=r"had train\.seed 0, expected the same to resume, found 5"):
        folder_for(tmp_path, seed=5).restore(trained_state(0))


def test_other_classes_are_refused_by_name(tmp_path: Path):
    folder_for(tmp_path, ("cat", "dog")).save_checkpoint(trained_state(1))
    with pytest.raises(UserError, match=r"learned 2 classes, .*the data lacks dog, adds wolf"):
        folder_for(tmp_path, ("cat", "wolf")).restore(trained_state(0))


@pytest.mark.parametrize("step", [0, 3])
def test_other_numbers_of_images_are_reported(tmp_path: Path, step: int):
    state = trained_state(1)
    state.progress = EpochProgress(lr=state.lr, step=step, images=24) if step else None
    folder_for(tmp_path).save_checkpoint(state)
    assert folder_for(tmp_path).restore(trained_state(0)) == []
    (note,) = folder_for(tmp_path, images=(20, 7)).restore(trained_state(0))
    assert note.startswith("the data has 20 training and 7 eval images, the run had 24 and 6 until now")
    assert note.endswith("inside the epoch") == bool(step)


def test_the_weights_of_another_network_are_refused(tmp_path: Path):
    folder_for(tmp_path).save_checkpoint(trained_state(1))
    network = paddle.nn.Linear(3, 2)
    other = TrainState(
        network, make_optimizer(OptimConfig(), make_schedule(OptimConfig(), 1, 1), network.parameters())
    )
    with pytest.raises(
        UserError, match=r"is not a checkpoint of this network \(it holds the weights of another"
    ):
        folder_for(tmp_path).restore(other)
