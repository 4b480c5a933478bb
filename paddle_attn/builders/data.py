"""The preprocessing and the batches of a config."""

from __future__ import annotations

from collections.abc import Callable

from ..config import Config
from ..data.datasets import create_dataset
from ..data.loader import Loader
from ..data.subset import Subset
from ..data.transforms import Augment, Mix, Preprocess
from ..errors import UserError
from ..models import model_spec


def make_preprocess(config: Config) -> Preprocess:
    """The preprocessing of a config; the model's own size and statistics where the config has none."""
    spec, data = model_spec(config.model.name), config.data
    size = data.size or spec.input_size
    if size < spec.min_size:
        raise UserError(
            f"data.size is {size}, but {config.model.name} needs images of at least "
            f"{spec.min_size}x{spec.min_size} px"
        )
    return Preprocess(size, data.resize, data.mean or spec.mean, data.std or spec.std)


def make_loader(
    config: Config,
    split: str,
    rank: int = 0,
    world_size: int = 1,
    first_error: Callable[[str], str] = str,
) -> Loader:
    """The batches of 'train' (shuffled, augmented, of `data.per_class` images of each class) or of 'eval' (in
    order, unchanged).

    With several processes, this process's shards; see Loader for `rank`, `world_size` and `first_error`.
    """
    train, data = split == "train", config.data
    mixup, cutmix = data.augment.mixup, data.augment.cutmix
    # half of the cache for each split; workers would each hold a copy of it
    cache = 0 if data.workers else data.cache // 2
    dataset = create_dataset(
        data.dataset,
        data.root,
        split,
        make_preprocess(config),
        augment=Augment(data.augment) if train else None,
        seed=config.train.seed,
        cache=cache,
    )
    if train and data.per_class:
        dataset = Subset(dataset, data.per_class, cache)
    return Loader(
        dataset,
        config.train.batch_size,
        shuffle=train,
        seed=config.train.seed,
        workers=data.workers,
        mix=Mix(mixup, cutmix) if train and (mixup or cutmix) else None,
        rank=rank,
        world_size=world_size,
        first_error=first_error,
    )
