"""Whether to believe a map: deletion and insertion curves, and a check with randomised weights.

- Deletion and insertion: Petsiuk et al., "RISE: Randomized Input Sampling for Explanation of Black-box
  Models", BMVC 2018, arxiv.org/abs/1806.07421. Places are removed from the image, or put into a blurred one,
  in the order of the map. With a good map the probability of the class falls early and rises early.
- Randomisation of parameters: Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018,
  arxiv.org/abs/1810.03292. The layers lose what they learned, one after the other from the classifier down. A
  map that stays the same shows the image, not what the network learned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from .cam import to_image_size
from .recording import evaluating, list_layers, logits_of

STEPS = 20  # of a curve
BLUR = 0.1  # of the image's side: the deviation of the Gaussian that hides its content
MIN_GAIN = 0.1  # in agreement, of a trained network over random ones
BLOCK = 1 << 16  # values
ALIKE = 0.5  # a rank correlation from which two maps count as alike
DRAWS = 5  # randomised networks
SIDE = 64  # px at which two maps are compared
TRAINED = "as trained"  # the first stage
STAGES = 8  # at most so many maps on the way from the trained to the random network

Explain = Callable[[nn.Layer], np.ndarray]  # a network to the maps [N, h, w] of the images


# ---- deletion and insertion


@dataclass(frozen=True)
class Curves:
    """The probability of each image's class while its places are deleted or inserted.

    Attributes:
        fractions: of the image's places, `[S]`, from 0 to 1.
        deletion: probabilities `[N, S]`: at 0 the image, at 1 the mean colour.
        insertion: probabilities `[N, S]`: at 0 the blurred image, at 1 the image.
    """

    fractions: np.ndarray
    deletion: np.ndarray
    insertion: np.ndarray

    @property
    def deletion_area(self) -> np.ndarray:
        """The area under each image's deletion curve, `[N]`, from 0 to 1: lower is better."""
        return _area(self.deletion)

    @property
    def insertion_area(self) -> np.ndarray:
        """The area under each image's insertion curve, `[N]`, from 0 to 1: higher is better."""
        return _area(self.insertion)


def _area(curves: np.ndarray) -> np.ndarray:
    """By trapezes; the steps are equal."""
    return (curves[:, :-1] + curves[:, 1:]).mean(1) / 2


def deletion_insertion(
    net: nn.Layer, images: Tensor, maps: np.ndarray, class_ids: list[int], steps: int = STEPS
) -> Curves:
    """The deletion and insertion curves of maps.

    Args:
        net: any network `[N, 3, H, W] -> [N, num_classes]`; it is left unchanged.
        images: float32 `[N, 3, H, W]`, normalised: 0 is the mean colour.
        maps: `[N, h, w]`, of any method; they are enlarged to the images.
        class_ids: the class of each image.
        steps: of each curve; every step removes or adds the same number of places.
    """
    count, _, height, width = images.shape
    places = height * width
    saliency = to_image_size(maps, height, width).reshape([count, places])
    rank = np.empty_like(saliency, dtype="int64")  # of each place; the most important one has rank 0
    np.put_along_axis(rank, np.argsort(-saliency, axis=1, kind="stable"), np.arange(places)[None], axis=1)
    rank = rank.reshape([count, 1, height, width])
    original = images.numpy()
    blurred = blur(original, BLUR * min(height, width)).astype("float32")
    fractions = np.linspace(0, 1, steps + 1)
    deletion, insertion = [], []
    for fraction in fractions:
        chosen = rank < round(fraction * places)
        deletion.append(_probabilities(net, np.where(chosen, np.float32(0), original), class_ids))
        insertion.append(_probabilities(net, np.where(chosen, original, blurred), class_ids))
    return Curves(fractions, np.stack(deletion, 1), np.stack(insertion, 1))


def random_maps(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Maps `[count, height, width]` of random numbers: the control that a method must beat."""
    return np.random.default_rng(seed).random([count, height, width])


def _probabilities(net: nn.Layer, images: np.ndarray, class_ids: list[int]) -> np.ndarray:
    with evaluating(net), paddle.no_grad():
        probabilities = F.softmax(logits_of(net, paddle.to_tensor(images)), axis=1).numpy()
    return probabilities[np.arange(len(class_ids)), class_ids]


def blur(images: np.ndarray, deviation: float) -> np.ndarray:
    """A Gaussian blur of `[N, C, H, W]`, the deviation in pixels; the border's pixels continue outside."""
    for axis in (2, 3):
        side = images.shape[axis]
        distance = np.arange(-side, side + 1)
        kernel = np.exp(-((distance / deviation) ** 2) / 2)
        weights = np.zeros([side, side])  # of each source for each target
        targets = np.arange(side)[:, None]
        np.add.at(weights, (targets, (targets + distance).clip(0, side - 1)), kernel / kernel.sum())
        images = np.moveaxis(np.moveaxis(images, axis, -1) @ weights.T, -1, axis)
    return images


# ---- randomised parameters


@dataclass(frozen=True)
class Randomisation:
    """How the maps change while the layers lose what they learned.

    Attributes:
        layers: the layer that each stage reaches, from the classifier down; the first stage is the network as
            it is.
        correlations: Spearman's rank correlation with the original map, mean over the images, for each stage.
        similarities: structural similarity (SSIM) with the original map, likewise.
        maps: `[stages, N, h, w]`, of one cascade.
        random_correlations: the rank correlation with the maps of each network whose layers are all random.
        agreement: how alike the network answers different images, see `_agreement`.
        random_agreements: the same of each random network.
    """

    layers: list[str]
    correlations: np.ndarray
    similarities: np.ndarray
    maps: np.ndarray
    random_correlations: np.ndarray
    agreement: float
    random_agreements: np.ndarray

    @property
    def is_trained(self) -> bool:
        """Whether the network tells images apart better than random ones; else nothing is to explain."""
        margin = max(3 * float(self.random_agreements.std(ddof=1)), MIN_GAIN)
        return self.agreement < float(self.random_agreements.mean()) - margin

    @property
    def depends_on_weights(self) -> bool:
        """Whether the map needs what the network learned: false too for a network that learned nothing."""
        return self.is_trained and float(self.random_correlations.mean()) < ALIKE

    @property
    def verdict(self) -> str:
        """One sentence."""
        found = (
            f"mean rank correlation {self.random_correlations.mean():.2f} with the maps of "
            f"{len(self.random_correlations)} random networks"
        )
        if not self.is_trained and self.maps.shape[1] == 1:  # compared with nothing but its blurred copy
            return "one image does not show whether the map depends on the weights: give several classes"
        if not self.is_trained:
            return (
                "the map does not depend on learned weights: the network answers different images as alike "
                f"({self.agreement:.2f}) as with randomised weights ({self.random_agreements.mean():.2f})"
            )
        if not self.depends_on_weights:
            return f"the map does not depend on the weights: {found}, so it shows the image alone"
        return f"the map depends on the weights: {found}"


def check_randomisation(net: nn.Layer, images: Tensor, explain: Explain, seed: int = 0) -> Randomisation:
    """Compare the maps of a network with those of the same network after its weights are randomised.

    A layer is randomised by shuffling the values of each of its parameters and running statistics: the values
    stay, and what they mean is lost. Every parameter has its old value again afterwards, also after an error.
    No other thread may use the network meanwhile.

    Args:
        net: any network `[N, 3, H, W] -> [N, num_classes]`.
        images: float32 `[N, 3, H, W]`, preprocessed; more images give a firmer verdict.
        explain: computes the maps `[N, h, w]` of the images for fixed classes, such as
            `lambda net: class_maps(net, images, class_ids=class_ids).maps`.
        seed: of the shuffles.
    """
    original = explain(net)
    agreement = _agreement(net, images)
    cascade = _layers_from_the_top(net, images)
    ends = sorted({round(end) - 1 for end in np.linspace(1, len(cascade), STAGES)})
    names, maps, correlations, agreements = [TRAINED], [original], [], []
    for draw in range(DRAWS):
        rng = np.random.default_rng([seed, draw])
        with _restored(net):
            for number, (name, layer) in enumerate(cascade):
                _shuffle(layer, rng)
                if draw == 0 and number in ends:
                    names.append(name)
                    maps.append(explain(net))
            random = maps[-1] if draw == 0 else explain(net)
            correlations.append(_rank_correlations(original, random).mean())
            agreements.append(_agreement(net, images))
    return Randomisation(
        names,
        np.asarray([_rank_correlations(original, each).mean() for each in maps]),
        np.asarray([_similarities(original, each).mean() for each in maps]),
        np.stack(maps),
        np.asarray(correlations),
        agreement,
        np.asarray(agreements),
    )


def _layers_from_the_top(net: nn.Layer, images: Tensor) -> list[tuple[str, nn.Layer]]:
    """The layers with parameters of their own, those that a forward pass calls last first."""
    layers = dict(net.named_sublayers())
    called = [call.name for call in list_layers(net, images[:1])][::-1]
    rest = [name for name in layers if name not in called]
    found = [(name, layers[name]) for name in (*called, *rest)]
    return [(name, layer) for name, layer in (*found, ("the rest", net)) if _own_tensors(layer)]


def _own_tensors(layer: nn.Layer) -> list[Tensor]:
    own = [*layer.parameters(include_sublayers=False), *layer.buffers(include_sublayers=False)]
    return [tensor for tensor in own if tensor.size > 1]


def _shuffle(layer: nn.Layer, rng: np.random.Generator) -> None:
    """Shuffle each tensor; vectors of one length, such as a batch norm's four, by the same order."""
    orders: dict[int, np.ndarray] = {}
    for tensor in _own_tensors(layer):
        values = tensor.numpy()
        if values.ndim == 1:
            values = values[orders.setdefault(values.size, rng.permutation(values.size))]
        else:
            values = _shuffled(values.reshape(-1), rng).reshape(values.shape)
        tensor.set_value(values)


def _shuffled(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A vector in another order. A long one is shuffled by blocks and alike within them: 10 times faster."""
    whole = len(values) // BLOCK * BLOCK
    if not whole:
        return rng.permutation(values)
    blocks = values[:whole].reshape([-1, BLOCK])[rng.permutation(whole // BLOCK)]
    return np.concatenate([rng.permutation(values[whole:]), blocks[:, rng.permutation(BLOCK)].reshape(-1)])


@contextmanager
def _restored(net: nn.Layer) -> Iterator[None]:
    """Give every parameter and buffer its value back."""
    tensors = [*net.parameters(), *net.buffers()]
    saved = [tensor.numpy() for tensor in tensors]
    try:
        yield
    finally:
        for tensor, values in zip(tensors, saved, strict=True):
            tensor.set_value(values)


def _agreement(net: nn.Layer, images: Tensor) -> float:
    """The mean cosine between the centred logits of any two of the images and their blurred copies.

    Near 1 a network answers everything alike. The scale of the logits does not matter: that of a network with
    random weights can be anything.
    """
    blurred = paddle.to_tensor(blur(images.numpy(), BLUR * min(images.shape[2:])).astype("float32"))
    with evaluating(net), paddle.no_grad():
        logits = np.concatenate([logits_of(net, each).numpy() for each in (images, blurred)]).astype(
            "float64"
        )
    logits -= logits.mean(1, keepdims=True)
    logits /= np.linalg.norm(logits, axis=1, keepdims=True).clip(1e-30)
    count = len(logits)
    return float(((logits @ logits.T).sum() - count) / (count * (count - 1)))


# ---- how alike two maps are


def _rank_correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation of each pair of maps at `SIDE` px, `[N]`; 0 where one is constant."""
    pairs = zip(*(to_image_size(maps, SIDE, SIDE).reshape([len(maps), -1]) for maps in (a, b)), strict=True)
    return np.asarray([_correlation(_ranks(one), _ranks(other)) for one, other in pairs])


def _ranks(values: np.ndarray) -> np.ndarray:
    """The rank of each value; equal values share the mean of theirs."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[places]


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    deviations = a.std() * b.std()
    return float(((a - a.mean()) * (b - b.mean())).mean() / deviations) if deviations else 0.0


def _similarities(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The structural similarity (SSIM) of each pair of maps, scaled to 0..1 at `SIDE` px, `[N]`.

    Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity", IEEE Transactions
    on Image Processing 2004.
    """
    x, y = (to_image_size(maps, SIDE, SIDE)[:, None] for maps in (a, b))
    mean_x, mean_y = blur(x, 1.5), blur(y, 1.5)
    variance_x, variance_y = blur(x * x, 1.5) - mean_x**2, blur(y * y, 1.5) - mean_y**2
    covariance = blur(x * y, 1.5) - mean_x * mean_y
    structure = (2 * mean_x * mean_y + 1e-4) * (2 * covariance + 9e-4)
    return (structure / ((mean_x**2 + mean_y**2 + 1e-4) * (variance_x + variance_y + 9e-4))).mean((1, 2, 3))
