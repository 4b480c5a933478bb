"""Class activation maps: which places of a layer's map speak for a class.

Let `A[k, i, j]` be the output of a layer, `y` the network's logit of a class, and `G = dy / dA`.

- Grad-CAM: `relu(sum_k w[k] A[k])`, with `w[k]` the mean of `G[k]` over the places. Selvaraju et al.,
  "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", ICCV 2017,
  arxiv.org/abs/1610.02391
- Grad-CAM++: the same, with `w[k] = sum_ij a[k, i, j] relu(G[k, i, j])` and
  `a = G^2 / (2 G^2 + sum_ij(A) G^3)`. Chattopadhyay et al., "Grad-CAM++: Generalized Gradient-based Visual
  Explanations for Deep Convolutional Networks", WACV 2018, arxiv.org/abs/1710.11063. The paper differentiates
  `exp(y)`; that is a factor of the whole map, which its scale removes.
- Layer-CAM: `relu(sum_k relu(G[k]) A[k])`, also for earlier layers. Jiang et al., "LayerCAM: Exploring
  Hierarchical Class Activation Maps for Localization", IEEE Transactions on Image Processing 2021
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from ..errors import UserError, unknown_name
from .recording import last_map, logits_of, recording


def grad_cam(activations: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """Two float64 arrays `[N, K, H, W]` to maps `[N, H, W]`."""
    return _weighted(gradients.mean((2, 3)), activations)


def grad_cam_plus_plus(activations: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """Two float64 arrays `[N, K, H, W]` to maps `[N, H, W]`."""
    # a = 1 / (2 + sum(A) G) where G is not 0, written so that nothing overflows
    denominator = 2 + activations.sum((2, 3), keepdims=True) * gradients
    usable = (gradients != 0) & (np.abs(denominator) > 1e-12)
    alpha = np.divide(1, denominator, out=np.zeros_like(gradients), where=usable)
    return _weighted((alpha * gradients.clip(0)).sum((2, 3)), activations)


def layer_cam(activations: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """Two float64 arrays `[N, K, H, W]` to maps `[N, H, W]`."""
    return (gradients.clip(0) * activations).sum(1).clip(0)


def _weighted(weights: np.ndarray, activations: np.ndarray) -> np.ndarray:
    return np.einsum("nk,nkhw->nhw", weights, activations).clip(0)


METHODS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "grad-cam": grad_cam,
    "grad-cam++": grad_cam_plus_plus,
    "layer-cam": layer_cam,
}


@dataclass(frozen=True)
class ClassMaps:
    """The maps of a batch.

    Attributes:
        maps: float64 `[N, h, w]`, not negative, not scaled; a map of zeros means that nothing at this layer
            speaks for the class.
        class_ids: the explained class of each image.
        probabilities: of the network, float32 `[N, num_classes]`.
        layer: the name of the layer whose output was taken.
        method: the name of the method.
    """

    maps: np.ndarray
    class_ids: list[int]
    probabilities: np.ndarray
    layer: str
    method: str

    @property
    def scores(self) -> np.ndarray:
        """The probability of each image's explained class, `[N]`."""
        return self.probabilities[np.arange(len(self.class_ids)), self.class_ids]


def class_maps(
    net: nn.Layer,
    images: Tensor,
    method: str = "grad-cam",
    layer: str | None = None,
    class_ids: int | Sequence[int] | None = None,
) -> ClassMaps:
    """The class activation maps of a batch of images.

    The network computes in eval mode, with its fused operators, and only what lies above the layer is
    differentiated. Afterwards, also after an error, it is as before: no hook, every `training` and
    `stop_gradient` flag and every parameter's `.grad` as they were. While this runs, no other thread may use
    the network: the flags and the hook are the network's own.

    Args:
        net: any network `[N, 3, H, W] -> [N, num_classes]`.
        images: float32 `[N, 3, H, W]`, preprocessed.
        method: one of `METHODS`: 'grad-cam', 'grad-cam++' or 'layer-cam'.
        layer: the name of a sublayer that the forward pass calls once and that returns `[N, C, h, w]`; None
            takes the last one with a spatial map (`last_map`).
        class_ids: the class to explain, one for all images or one for each; None explains the class that the
            network names.

    Raises: UserError for an unknown method, layer or class, and for a layer without a spatial map.
    """
    if method not in METHODS:
        raise unknown_name("method", method, METHODS)
    layer = last_map(net, images[:1]) if layer is None else layer
    activations, gradients, logits, ids = _differentiate(net, images, layer, class_ids)
    maps = METHODS[method](activations.astype("float64"), gradients.astype("float64"))
    return ClassMaps(maps, ids, F.softmax(logits, axis=1).numpy(), layer, method)


def _differentiate(
    net: nn.Layer, images: Tensor, layer: str, class_ids: int | Sequence[int] | None
) -> tuple[np.ndarray, np.ndarray, Tensor, list[int]]:
    """The layer's output, the gradient of the classes' logits there, the logits, the classes."""
    with recording(net, [layer], leaves=True) as outputs, paddle.enable_grad():
        logits = logits_of(net, images)
        if len(outputs[layer]) != 1:
            raise UserError(
                f"a forward pass calls the layer '{layer}' {len(outputs[layer])} times, expected once: "
                "choose another layer"
            )
        (leaf,) = outputs[layer]
        check_map(layer, leaf)
        ids = check_class_ids(class_ids, logits)
        score = (logits * F.one_hot(paddle.to_tensor(ids), logits.shape[1]).astype(logits.dtype)).sum()
        (gradient,) = paddle.grad(score, [leaf], allow_unused=True)
    if gradient is None:
        raise UserError(f"the classes do not depend on the layer '{layer}': choose another layer")
    return leaf.numpy(), gradient.numpy(), logits.detach(), ids


def check_map(layer: str, output: object) -> None:
    """Raises UserError when a layer's output is not a map `[N, C, H, W]` of more than one place."""
    shape = list(output.shape) if isinstance(output, Tensor) else None
    if shape is None or len(shape) != 4 or shape[2] * shape[3] < 2:
        found = f"an output of shape {shape}" if shape else f"a {type(output).__name__}"
        raise UserError(
            f"the layer '{layer}' returns no spatial map: expected [N, C, H, W] of more than one place, "
            f"found {found}"
        )


def check_class_ids(class_ids: int | Sequence[int] | None, logits: Tensor) -> list[int]:
    """One class for each image; None is the one with the largest logit. Raises UserError."""
    count, classes = logits.shape
    if class_ids is None:
        return logits.argmax(1).tolist()
    ids = [class_ids] * count if isinstance(class_ids, int) else list(class_ids)
    if len(ids) != count or any(not 0 <= number < classes for number in ids):
        raise UserError(
            f"class_ids must be one number from 0 to {classes - 1}, or one for each of the {count} images, "
            f"found {class_ids!r}"
        )
    return ids


def to_image_size(maps: np.ndarray, height: int, width: int) -> np.ndarray:
    """Maps `[N, h, w]` at the size of the images, `[N, height, width]`, bilinear, each with the maximum 1.

    A map of zeros stays one.
    """
    grown = F.interpolate(paddle.to_tensor(maps[:, None]), [height, width], mode="bilinear").numpy()[:, 0]
    peak = grown.max((1, 2), keepdims=True)
    return np.divide(grown, peak, out=np.zeros_like(grown), where=peak > 0)
