"""From an RGB image to the input of a network: fixed preprocessing, random augmentation, mixing of batches.

The caller passes the random generator, seeded by epoch and image: workers and loading order change nothing.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np
import paddle
from paddle import Tensor
from paddle.vision.transforms import functional as F
from PIL import Image

from ..config import AugmentConfig
from ..errors import UserError

CROP_FRACTION = 0.875  # 'crop' resizes the short side to size / 0.875 first: 256 for 224
MAX_ASPECT = 32  # long side by short side; 'crop' resizes only the middle of a longer strip, to bound memory
PILLOW = {"backend": "pil", "interpolation": "bilinear"}  # for other readers of `inference.yml`


@dataclass(frozen=True)
class Preprocess:
    """Resize and normalise, the same in training, evaluation, export and prediction.

    Args:
        size: the side of the square input in pixels.
        resize_mode: 'stretch' resizes to the square; 'crop' resizes the short side and takes the centre.
        mean, std: of R, G and B, for values in 0..1.
    """

    size: int
    resize_mode: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def resize(self, image: Image.Image) -> np.ndarray:
        """The image as uint8 `[size, size, 3]`, by the `resize_mode`."""
        if self.resize_mode == "stretch":
            return self.stretch(image)
        image = _middle(image)
        scale = self.short_side / min(image.size)
        width, height = (max(self.short_side, round(side * scale)) for side in image.size)
        left, top = (width - self.size) // 2, (height - self.size) // 2
        resized = image.resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(resized.crop((left, top, left + self.size, top + self.size)))

    def stretch(self, image: Image.Image) -> np.ndarray:
        """The whole image as uint8 `[size, size, 3]`, whatever its aspect ratio."""
        return np.asarray(image.resize((self.size, self.size), Image.Resampling.BILINEAR))

    def normalise(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 `[H, W, 3]` to float32 `[3, H, W]`: `(value / 255 - mean) / std`."""
        scale = np.float32(1 / 255) / np.asarray(self.std, "float32")
        shift = np.asarray(self.mean, "float32") / np.asarray(self.std, "float32")
        return np.ascontiguousarray((pixels * scale - shift).transpose(2, 0, 1))

    def __call__(self, image: Image.Image) -> np.ndarray:
        """The image as float32 `[3, size, size]`."""
        return self.normalise(self.resize(image))

    @property
    def short_side(self) -> int:
        """The length of the short side before the crop, in pixels."""
        return round(self.size / CROP_FRACTION)

    def to_ops(self) -> list[dict]:
        """The `PreProcess.transform_ops` of an `inference.yml`, as PaddleClas and PaddleX read them.

        Both resize with OpenCV unless it names Pillow, whose bilinear filter averages where it shrinks.
        """
        if self.resize_mode == "stretch":
            resize = [{"ResizeImage": {"size": self.size, **PILLOW}}]
        else:
            resize = [
                {"ResizeImage": {"resize_short": self.short_side, **PILLOW}},
                {"CropImage": {"size": self.size}},
            ]
        normalise = {
            "channel_num": 3,
            "mean": list(self.mean),
            "std": list(self.std),
            "order": "",
            "scale": 0.00392156862745098,
        }
        return [*resize, {"NormalizeImage": normalise}, {"ToCHWImage": None}]

    @classmethod
    def from_ops(cls, ops: list[dict]) -> Preprocess:
        """The inverse of `to_ops`. Raises UserError for a list that `to_ops` does not write."""
        try:
            settings = {name: value for op in ops for name, value in op.items()}
            resize, normalise = settings["ResizeImage"], settings["NormalizeImage"]
            stretch = "size" in resize
            size = int(resize["size"] if stretch else settings["CropImage"]["size"])
            mode = "stretch" if stretch else "crop"
            preprocess = cls(size, mode, tuple(normalise["mean"]), tuple(normalise["std"]))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise UserError(
                f"cannot read the preprocessing in inference.yml ({error!r}): "
                "expected the one that paddle-attn export writes"
            ) from None
        current = [{"ResizeImage": PILLOW | resize} if op == {"ResizeImage": resize} else op for op in ops]
        if preprocess.to_ops() != current:  # the first exports did not name Pillow
            raise UserError(
                "paddle_attn does not support the preprocessing in inference.yml: "
                "expected the one that paddle-attn export writes"
            )
        return preprocess


def _middle(image: Image.Image) -> Image.Image:
    """The image without the ends of a strip that is longer than `MAX_ASPECT` times its short side."""
    longest = MAX_ASPECT * min(image.size)
    if max(image.size) <= longest:
        return image
    left, top = (max(0, side - longest) // 2 for side in image.size)
    return image.crop((left, top, image.width - left, image.height - top))


@dataclass(frozen=True)
class Augment:
    """The random changes of single training images, in the order in which the methods are called.

    Args:
        options: the `data.augment` section; the mixing of whole batches is done by Mix.
    """

    options: AugmentConfig

    @property
    def crops(self) -> bool:
        """Whether `crop` must see the image before it is resized."""
        return self.options.crop_scale is not None

    def crop(self, image: Image.Image, rng: random.Random) -> Image.Image:
        """A random part of the original image, its aspect ratio 3:4 to 4:3; all of it when none fits."""
        width, height = image.size
        for _ in range(10):
            area = width * height * rng.uniform(*self.options.crop_scale)
            aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                left, top = rng.randint(0, width - w), rng.randint(0, height - h)
                return image.crop((left, top, left + w, top + h))
        return image

    def __call__(self, image: Image.Image, rng: random.Random) -> Image.Image:
        """The changes of the resized image; its size stays."""
        options = self.options
        if padding := options.pad_crop:
            left, top = rng.randint(-padding, padding), rng.randint(-padding, padding)
            image = image.crop((left, top, left + image.width, top + image.height))  # Pillow pads with black
        if rng.random() < options.hflip:
            image = F.hflip(image)
        if rng.random() < options.vflip:
            image = F.vflip(image)
        if options.rotation:
            image = F.rotate(image, rng.uniform(-options.rotation, options.rotation))
        if options.color_jitter:
            for adjust in (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation):
                image = adjust(image, 1 + rng.uniform(-options.color_jitter, options.color_jitter))
        return image


@dataclass(frozen=True)
class Mix:
    """Blends each image of a batch with the one at the mirrored position of the batch.

    One `lam` per batch is drawn from a Beta distribution: an image keeps this fraction of itself.

    Args:
        mixup: the Beta parameter of mixup, which averages the two images; 0 for none.
            Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018, arxiv.org/abs/1710.09412.
        cutmix: the Beta parameter of CutMix, which pastes a rectangle of the other image; 0 for none.
            Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable
            Features", ICCV 2019, arxiv.org/abs/1905.04899.

    With both, each batch gets one of them with equal probability.
    """

    mixup: float = 0.0
    cutmix: float = 0.0

    def __call__(
        self, images: Tensor, labels: Tensor, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`images` `[N, 3, H, W]` and `labels` `[N]` to `(mixed images, labels, others' labels, lam [N])`."""
        others = images.flip([0])
        if self.cutmix and (not self.mixup or rng.random() < 0.5):
            keep = _cutmix_mask(*images.shape[2:], rng.beta(self.cutmix, self.cutmix), rng)
            lam = float(keep.mean())
            images = images * keep + others * (1 - keep)
        else:
            lam = float(rng.beta(self.mixup, self.mixup))
            images = images * lam + others * (1 - lam)
        return images, labels, labels.flip([0]), paddle.full([len(labels)], lam)


def _cutmix_mask(height: int, width: int, lam: float, rng: np.random.Generator) -> Tensor:
    """`[1, 1, H, W]`: 0 in a random rectangle of the area `1 - lam`, cut at the border; 1 elsewhere."""
    side = math.sqrt(1 - lam)
    y, x = int(rng.integers(height)), int(rng.integers(width))
    half_height, half_width = int(side * height) // 2, int(side * width) // 2
    mask = paddle.ones([1, 1, height, width])
    rows = slice(max(0, y - half_height), min(height, y + half_height))
    columns = slice(max(0, x - half_width), min(width, x + half_width))
    mask[:, :, rows, columns] = 0.0
    return mask
