"""Export: a trained network as files that Paddle Inference, PaddleX and PaddleClas' deployment read, checked before they count."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
import yaml
from paddle import Tensor, nn
from paddle.static import InputSpec

from .. import __version__
from ..data.transforms import Preprocess
from ..errors import UserError
from ..files import atomic_directory, checksum
from .predictor import DESCRIPTION, GRAPH, PARAMETERS, Predictor

TOLERANCE = 1e-4  # of a probability, between the network and the exported program


class WithSoftmax(nn.Layer):
    """A classifier that answers with probabilities: `[N, 3, H, W] -> [N, num_classes]`."""

    def __init__(self, net: nn.Layer):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return F.softmax(self.net(x))


def export_model(
    net: nn.Layer,
    out: str | Path,
    preprocess: Preprocess,
    classes: Sequence[str],
    samples: np.ndarray,
    about: dict[str, str] | None = None,
    dynamic: bool = False,
) -> float:
    """Write `inference.json`, `.pdiparams` and `.yml` to a folder, run them on samples, and keep them only when they agree.

    Args:
        net: the network.
        out: the folder; an earlier export there is replaced at the end, anything else is not touched.
        preprocess: what the network was trained with; it goes into `inference.yml`.
        classes: their names, in the network's order.
        samples: preprocessed images, float32 `[N, 3, size, size]`, to compare on.
        about: what else `inference.yml` shall say of the model.
        dynamic: any height and width, not the trained size alone. The batch is free in both cases.

    Returns: the largest difference of a probability between the network and the exported program.

    Raises: UserError when `out` holds something else or the number of classes does not fit; RuntimeError when the exported
    program does not do what the network does.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / DESCRIPTION).exists())):
        raise UserError(
            f"{out} is there already and is no export (it has no {DESCRIPTION}): choose another --out"
        )
    net.eval()
    probabilities = WithSoftmax(net)
    probabilities.eval()
    side = None if dynamic else preprocess.size
    with paddle.no_grad():
        expected = probabilities(paddle.to_tensor(samples)).numpy()
    if expected.shape[1] != len(classes):
        raise UserError(f"the network has {expected.shape[1]} classes, but {len(classes)} names were given")
    with atomic_directory(out) as aside:
        static = paddle.jit.to_static(
            probabilities, input_spec=[InputSpec([None, 3, side, side], "float32", "x")], full_graph=True
        )
        paddle.jit.save(static, str(aside / "inference"))
        described = describe(preprocess, classes, about or {}, [aside / GRAPH, aside / PARAMETERS])
        (aside / DESCRIPTION).write_text(
            yaml.safe_dump(described, sort_keys=False, allow_unicode=True), encoding="utf-8"
        )
        found = Predictor(aside).probabilities(samples)
        difference = float(np.abs(found - expected).max())
        if not difference <= TOLERANCE:
            raise RuntimeError(
                f"the exported program differs from the network by {difference:.2g}, expected at most {TOLERANCE:g}: nothing was written"
            )
    return difference


def describe(
    preprocess: Preprocess, classes: Sequence[str], about: dict[str, str], files: Sequence[Path]
) -> dict:
    """The content of `inference.yml`: preprocessing and class names as PaddleX reads them, and what the files must be."""
    return {
        "PreProcess": {"transform_ops": preprocess.to_ops()},
        "PostProcess": {"Topk": {"topk": min(5, len(classes)), "label_list": list(classes)}},
        "paddle_attn": {
            "version": __version__,
            **about,
            "files": {file.name: {"size": file.stat().st_size, "sha256": checksum(file)} for file in files},
        },
    }
