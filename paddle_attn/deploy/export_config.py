"""Export from a config: the trained network, its preprocessing and classes, and eval images to compare on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..builders import folder_of, load_trained, make_loader, make_preprocess, set_device
from ..config import Config
from .export import export_model


def export_config(
    config: Config, weights: str | Path, out: str | Path, dynamic: bool = False
) -> tuple[str, float]:
    """Export trained weights and compare on eval images, or on noise where there is no data here.

    Returns: what it was compared on, and the largest difference of a probability.
    """
    set_device("cpu")  # where the exported program is run
    preprocess = make_preprocess(config)
    net, classes = load_trained(config, weights)
    if config.data.dataset != "folder" or folder_of(config, "eval").is_dir():
        dataset = make_loader(config, "eval").dataset
        chosen = np.linspace(0, len(dataset) - 1, min(8, len(dataset))).astype(int)
        samples, what = np.stack([dataset.load(int(index)) for index in chosen]), f"{len(chosen)} eval images"
    else:
        samples = (
            np.random.default_rng(0)
            .standard_normal([8, 3, preprocess.size, preprocess.size])
            .astype("float32")
        )
        what = f"noise, because there is no {folder_of(config, 'eval')} here"
    about = {"model": config.model.name, "attention": config.model.attn or "none"}
    return what, export_model(net, out, preprocess, classes, samples, about, dynamic)
