"""From an RGB image to what the network sees: the fixed preprocessing, and the random augmentation before it.

The random numbers come from the caller, drawn from seed, epoch and image, never from a global state: workers and the order of
loading change nothing.
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

from ..errors import UserError

CROP_FRACTION = 0.875  # 'crop' takes the centre `size` of a short side of `size / 0.875`: 224 of 256


@dataclass(frozen=True)
class Preprocess:
    """Resize and normalise, the same in training, evaluation, export and prediction.

    Args:
        size: side of the square that the network gets.
        resize: 'stretch' to the square, or 'crop' the centre after the short side was resized.
        mean, std: of R, G and B, for values in 0..1.
    """

    size: int
    resize: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def fit(self, image: Image.Image) -> np.ndarray:
        """The deterministic part that can be kept: RGB uint8 `[size, size, 3]`."""
        if self.resize == "stretch":
            return self.stretch(image)
        scale = self.short_side / min(image.size)
        width, height = (max(self.short_side, round(side * scale)) for side in image.size)
        left, top = (width - self.size) // 2, (height - self.size) // 2
        image = image.resize((width, height), Image.Resampling.BILINEAR).crop(
            (left, top, left + self.size, top + self.size)
        )
        return np.asarray(image)

    def stretch(self, image: Image.Image) -> np.ndarray:
        """All of the image, whatever its aspect: what `fit` does under 'stretch', and what becomes of a random crop."""
        return np.asarray(image.resize((self.size, self.size), Image.Resampling.BILINEAR))

    def normalise(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 `[H, W, 3]` to float32 `[3, H, W]`: `(value / 255 - mean) / std`."""
        scale = np.float32(1 / 255) / np.asarray(self.std, "float32")
        shift = np.asarray(self.mean, "float32") / np.asarray(self.std, "float32")
        return np.ascontiguousarray((pixels * scale - shift).transpose(2, 0, 1))

    def __call__(self, image: Image.Image) -> np.ndarray:
        return self.normalise(self.fit(image))

    @property
    def short_side(self) -> int:
        return round(self.size / CROP_FRACTION)

    def to_ops(self) -> list[dict]:
        """The `PreProcess.transform_ops` of an `inference.yml`, as PaddleClas and PaddleX read them."""
        if self.resize == "stretch":
            resize = [{"ResizeImage": {"size": self.size}}]
        else:
            resize = [{"ResizeImage": {"resize_short": self.short_side}}, {"CropImage": {"size": self.size}}]
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
        """The inverse of `to_ops`. Raises UserError when the list is not one that `to_ops` writes."""
        try:
            settings = {name: value for op in ops for name, value in op.items()}
            resize, normalise = settings["ResizeImage"], settings["NormalizeImage"]
            size = resize["size"] if "size" in resize else settings["CropImage"]["size"]
            found = cls(
                int(size),
                "stretch" if "size" in resize else "crop",
                tuple(normalise["mean"]),
                tuple(normalise["std"]),
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise UserError(
                f"the preprocessing in inference.yml cannot be read ({error!r}): expected what tools/export.py writes"
            ) from None
        if found.to_ops() != ops:
            raise UserError(
                "the preprocessing in inference.yml is not one that paddle_attn can do: expected what tools/export.py writes"
            )
        return found


@dataclass(frozen=True)
class Augment:
    """Random changes of a training image; each at its neutral value does nothing.

    Args:
        rotation: by up to ± this many degrees, the corners filled with black.
        hflip, vflip: the probability of a mirror image, of turning upside down.
        crop_scale: random-resized crop to (low, high) of the area, aspect 3:4 to 4:3; None for none.
        color_jitter: brightness, contrast and saturation by up to ± this fraction.
        pad_crop: pad by this many black pixels on each side, then crop the size at a random place, as for CIFAR.
    """

    rotation: float = 0.0
    hflip: float = 0.0
    vflip: float = 0.0
    crop_scale: tuple[float, float] | None = None
    color_jitter: float = 0.0
    pad_crop: int = 0

    def crop(self, image: Image.Image, rng: random.Random) -> Image.Image:
        """The part that must see the whole image, before it is resized."""
        if self.crop_scale is None:
            return image
        width, height = image.size
        for _ in range(10):
            area = width * height * rng.uniform(*self.crop_scale)
            aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                left, top = rng.randint(0, width - w), rng.randint(0, height - h)
                return image.crop((left, top, left + w, top + h))
        return image

    def __call__(self, image: Image.Image, rng: random.Random) -> Image.Image:
        """The part that works on the resized image."""
        if self.pad_crop:
            left, top = (rng.randint(-self.pad_crop, self.pad_crop) for _ in range(2))
            image = image.crop(
                (left, top, left + image.width, top + image.height)
            )  # Pillow fills what lies outside with black
        if rng.random() < self.hflip:
            image = F.hflip(image)
        if rng.random() < self.vflip:
            image = F.vflip(image)
        if self.rotation:
            image = F.rotate(image, rng.uniform(-self.rotation, self.rotation))
        if self.color_jitter:
            for adjust in (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation):
                image = adjust(image, 1 + rng.uniform(-self.color_jitter, self.color_jitter))
        return image


@dataclass(frozen=True)
class Mix:
    """Blends each image of a batch with the one at the mirrored place, once a batch.

    Args:
        mixup: Beta's parameter of the part that an image keeps of itself (Zhang et al., ICLR 2018, arxiv.org/abs/1710.09412); 0 for none.
        cutmix: Beta's parameter of the area that stays when a rectangle of the other is pasted (Yun et al., ICCV 2019,
            arxiv.org/abs/1905.04899); 0 for none. With both, each batch gets one of them, drawn evenly.
    """

    mixup: float = 0.0
    cutmix: float = 0.0

    def __call__(
        self, images: Tensor, labels: Tensor, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`[N, 3, H, W]` and `[N]` to the mixed images, both labels `[N]` and the part of the first, `[N]`."""
        others = images.flip([0])
        if self.cutmix and (not self.mixup or rng.random() < 0.5):
            height, width = images.shape[2:]
            side = math.sqrt(1 - rng.beta(self.cutmix, self.cutmix))
            top, left = (
                int(rng.integers(height)),
                int(rng.integers(width)),
            )  # the middle of the rectangle, which the border may cut
            rows = slice(max(0, top - int(side * height) // 2), min(height, top + int(side * height) // 2))
            columns = slice(max(0, left - int(side * width) // 2), min(width, left + int(side * width) // 2))
            kept = paddle.ones([1, 1, height, width])
            kept[:, :, rows, columns] = 0.0
            part = float(kept.mean())
            images = images * kept + others * (1 - kept)
        else:
            part = float(rng.beta(self.mixup, self.mixup))
            images = images * part + others * (1 - part)
        return images, labels, labels.flip([0]), paddle.full([len(labels)], part)
