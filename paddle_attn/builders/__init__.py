"""From the config to the parts of a run: device, classes, preprocessing, data, network. What fit, evaluate and the tools share."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import paddle
from paddle import nn

from ..config import Config, load_config
from ..data.datasets import create_dataset
from ..data.loader import Loader
from ..data.transforms import Augment, Mix, Preprocess
from ..errors import UserError
from ..models import create_model, model_spec
from ..weights import load_weights

PREPROCESSING = {"size": "size", "resize": "resize_mode", "mean": "mean", "std": "std"}  # key: field


def set_device(name: str) -> str:
    """Put Paddle on a device: 'auto', 'cpu', 'gpu' or 'gpu:N'. Returns its name. Raises UserError when it is not there."""
    gpus = paddle.device.cuda.device_count() if paddle.device.is_compiled_with_cuda() else 0
    if name == "auto":
        name = "gpu" if gpus else "cpu"
    if name.startswith("gpu"):
        if not paddle.device.is_compiled_with_cuda():
            raise UserError(
                f"train.device is '{name}', but this Paddle was built for CPU alone: expected 'cpu' or 'auto', or Paddle's GPU wheel"
            )
        if int(name.partition(":")[2] or 0) >= gpus:
            raise UserError(
                f"train.device is '{name}', but Paddle sees {gpus} GPUs: expected a smaller number, 'cpu' or 'auto'"
            )
    paddle.device.set_device(name)
    return paddle.device.get_device()


def make_preprocess(config: Config) -> Preprocess:
    """The preprocessing of a config; what it leaves open comes from the model."""
    spec, data = model_spec(config.model.name), config.data
    size = data.size or spec.input_size
    if size < spec.min_size:
        raise UserError(
            f"data.size is {size}, but {config.model.name} needs images of at least {spec.min_size}x{spec.min_size} px"
        )
    return Preprocess(size, data.resize, data.mean or spec.mean, data.std or spec.std)


def make_loader(config: Config, split: str, processes=None) -> Loader:
    """The batches of 'train' (shuffled and augmented) or 'eval' (in order, unchanged); with `processes`, this process's shards."""
    train, data = split == "train", config.data
    mixup, cutmix = data.augment.mixup, data.augment.cutmix
    dataset = create_dataset(
        data.dataset,
        data.root,
        split,
        make_preprocess(config),
        augment=Augment(data.augment) if train else None,
        seed=config.train.seed,
        # half of the cache for each split; workers would each hold a copy of it
        cache=0 if data.workers else data.cache // 2,
    )
    return Loader(
        dataset,
        config.train.batch_size,
        shuffle=train,
        seed=config.train.seed,
        workers=data.workers,
        mix=Mix(mixup, cutmix) if train and (mixup or cutmix) else None,
        rank=processes.rank if processes else 0,
        world_size=processes.world_size if processes else 1,
        first_error=processes.first_error if processes else str,
    )


def make_network(config: Config, num_classes: int) -> nn.Layer:
    """The network of a config for this many classes.

    Raises: UserError when model.num_classes says another number, or something of the model does not fit.
    """
    model = config.model
    if model.num_classes not in (None, num_classes):
        raise UserError(
            f"model.num_classes is {model.num_classes}, but there are {num_classes} classes: expected the same, or null"
        )
    return create_model(
        model.name, model.attn, model.attn_kwargs, model.attn_pos, num_classes, model.pretrained
    )


def load_trained(config: Config, weights: str | Path) -> tuple[nn.Layer, list[str]]:
    """A trained network in eval mode, and the names of its classes.

    The names stand in `classes.txt` beside the weights, where training wrote it; else they are the data's folders.

    Raises: UserError when the weights are missing or damaged, do not fit, or the number of classes is another.
    """
    weights = Path(weights)
    if not weights.is_file():
        raise UserError(
            f"there is no weights file {weights}: expected one that tools/train.py wrote, such as best.pdparams"
        )
    _check_trained_so(config, weights)
    listed = weights.with_name("classes.txt")
    if listed.is_file():
        classes = listed.read_text(encoding="utf-8").splitlines()
    else:
        classes = make_loader(config, "eval").dataset.classes
    net = make_network(
        dataclasses.replace(config, model=dataclasses.replace(config.model, pretrained=False)), len(classes)
    )
    load_weights(net, weights)
    net.eval()
    return net, classes


def _check_trained_so(config: Config, weights: Path) -> None:
    """Weights alone do not tell a SimAM from no attention, nor the image size: `config.yaml`, where training left it, does."""
    trained = weights.with_name("config.yaml")
    if not trained.is_file():
        return
    before = load_config(trained)
    for key, now, then in (
        *(
            (f"model.{name}", getattr(config.model, name), getattr(before.model, name))
            for name in ("name", "attn", "attn_kwargs", "attn_pos")
        ),
        *(
            (f"data.{key}", getattr(make_preprocess(config), field), getattr(make_preprocess(before), field))
            for key, field in PREPROCESSING.items()
        ),
    ):
        if now != then:
            raise UserError(
                f"{weights} was trained with {key} {then!r}, expected the same, found {now!r}: pass -c {trained}, or -o to set it"
            )
