"""Export: write a trained network in one of the formats, and keep it only if both compute the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from paddle.jit import not_to_static

from ..data.transforms import Preprocess
from ..errors import UserError, unknown_name
from ..files import atomic_directory
from ..weights.loading import non_finite, shortened
from .description import DESCRIPTION, Description, exported_files
from .formats import FORMATS, installed_engines
from .predictor import Predictor

TOLERANCE = 1e-4  # of a probability, between the network and the exported one


class WithSoftmax(nn.Layer):
    """A classifier followed by softmax: images `[N, 3, H, W]` to probabilities `[N, num_classes]`."""

    def __init__(self, net: nn.Layer):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return F.softmax(self.net(x))


class TracedAsItIs(WithSoftmax):
    """The same, run once by `paddle.jit.to_static` instead of translated, layer by layer, from its source."""

    @not_to_static
    def forward(self, x: Tensor) -> Tensor:
        return F.softmax(self.net(x))


def needs_translation(net: nn.Layer) -> bool:
    """Whether the network has layers that may decide by a tensor or by its shape, as those of users may.

    The zoo's and Paddle's layers do not, and translating all of them takes most of an export's time.
    """
    modules = {type(layer).__module__.partition(".")[0] for layer in net.sublayers(include_self=True)}
    zoo = type(net).__module__.startswith(f"{__package__.partition('.')[0]}.models.")
    return not zoo or not modules <= {"paddle", __package__.partition(".")[0]}


def export_model(
    net: nn.Layer,
    out: str | Path,
    preprocess: Preprocess,
    classes: Sequence[str],
    samples: np.ndarray,
    about: Mapping[str, str] | None = None,
    dynamic: bool = False,
    format: str = "paddle",
) -> float:
    """Export a network into a folder, run the exported one on samples, and keep it only if the two agree.

    Args:
        net: the network, `[N, 3, H, W]` to logits `[N, num_classes]`. It is put into eval mode.
        out: the folder. It replaces an earlier export at the end; a folder with any other file is an error.
        preprocess: the preprocessing of its training, for `inference.yml`.
        classes: the names of the classes, in the network's order.
        samples: preprocessed images to compare on, float32 `[N, 3, size, size]`.
        about: notes for `inference.yml`, such as the model's name.
        dynamic: accept images of any height and width, not only of the trained size. N is free in both cases.
        format: a key of `formats.FORMATS`: "paddle" is Paddle Inference's, "onnx" runs in other engines.

    Returns: the largest difference of a probability between the network and the exported one, in all engines
    of the format that are installed, at two shapes.

    Raises: UserError when `out` holds a file that no export wrote, the format is unknown, the number of
    classes is not the network's, or a weight is NaN or infinite; RuntimeError when the exported network
    differs from the network by more than TOLERANCE.
    """
    out = Path(out)
    if out.exists() and not _is_empty_or_export(out):
        raise UserError(f"{out} exists and is not an export (it has no {DESCRIPTION}): choose another folder")
    if format not in FORMATS:
        raise unknown_name("export format", format, FORMATS)
    if broken := non_finite(net.state_dict()):
        raise UserError(f"cannot export the network, its weights contain NaN or Inf: {shortened(broken)}")
    net.eval()
    network = WithSoftmax(net) if needs_translation(net) else TracedAsItIs(net)
    network.eval()
    comparisons = [(images, _run(network, images)) for images in (samples, _another_shape(samples, dynamic))]
    num_classes = comparisons[0][1].shape[1]
    if num_classes != len(classes):
        raise UserError(f"the network has {num_classes} classes, but {len(classes)} names were given")
    description = Description(preprocess, classes, format, about or {})
    with atomic_directory(out, exported_files) as folder:
        FORMATS[format].write(network, folder, None if dynamic else preprocess.size, description.metadata)
        description.write(folder)
        return max(_difference(folder, engine, comparisons) for engine in installed_engines(format))


def _run(network: nn.Layer, images: np.ndarray) -> np.ndarray:
    with paddle.no_grad():
        return network(paddle.to_tensor(images)).numpy()


def _another_shape(samples: np.ndarray, dynamic: bool) -> np.ndarray:
    """Samples of another height and width if these are free, otherwise a batch of another size."""
    if dynamic:
        return np.pad(samples[:1], [(0, 0), (0, 0), (0, 32), (0, 16)], mode="wrap")
    return samples[:1] if len(samples) > 1 else np.concatenate([samples, samples])


def _difference(folder: Path, engine: str, comparisons: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    """The largest difference of a probability. Raises RuntimeError when it is more than TOLERANCE."""
    predictor, largest = Predictor(folder, engine=engine), 0.0
    for images, expected in comparisons:
        difference = float(np.abs(predictor.probabilities(images) - expected).max())
        if not difference <= TOLERANCE:  # also when it is not a number
            raise RuntimeError(
                f"the exported network differs from the network by {difference:.2g}, "
                f"expected at most {TOLERANCE:g} (engine '{engine}'): nothing was written"
            )
        largest = max(largest, difference)
    return largest


def _is_empty_or_export(path: Path) -> bool:
    return path.is_dir() and ((path / DESCRIPTION).exists() or not any(path.iterdir()))
