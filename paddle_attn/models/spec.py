"""What the zoo knows about a model. Every family's file ends with a table of these, `MODELS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from paddle import nn

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


@dataclass(frozen=True)
class ModelSpec:
    """How to build a model, where an attention can sit in it, what it expects, and its pretrained weights."""

    build: Callable[..., nn.Layer]  # (num_classes, placements): a `Placement` for each stage
    slots: tuple[str, ...]  # the places for an attention that its code has (placement.py describes them)
    default_slot: str = "post_bn"  # for an attention whose paper uses a slot that this network lacks
    unpublished_slots: tuple[str, ...] = ()  # no paper has an attention of such a slot in this network
    stages: int = 4  # places or groups of blocks that take their own attention arguments
    input_size: int = 224  # px, of the published training
    min_size: int = 32  # px, the smallest image that the network takes
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    num_classes: int = 1000
    feature_strides: tuple[int, ...] = (4, 8, 16, 32)  # of the maps from `forward_features`
    stage_strides: tuple[int, ...] | None = None  # of the maps in each stage; None: `feature_strides`
    pretrained: tuple[str, str] | None = None  # address and MD5 of Paddle's ImageNet weights
    # instead: weights of this project, files beside weights/pretrained.py, by the attention they belong to
    packaged: Mapping[str | None, str] = field(default_factory=dict)

    def weights_source(self, attn: str | None) -> str | tuple[str, str] | None:
        """The pretrained weights for the network with this attention; None when there are none.

        An attention without weights of its own gets those of the network without attention.
        """
        return self.packaged.get(attn) or self.packaged.get(None) or self.pretrained

    @property
    def stage_sides(self) -> list[int]:
        """The side of the maps in each stage, in px, at the input size of the published training.

        A spec with fewer strides than stages has the last one in the others.
        """
        strides = self.stage_strides or self.feature_strides
        return [self.input_size // strides[min(stage, len(strides) - 1)] for stage in range(self.stages)]


CifarSpec = partial(
    ModelSpec,
    stages=3,
    input_size=32,
    mean=CIFAR_MEAN,
    std=CIFAR_STD,
    num_classes=10,
    feature_strides=(1, 2, 4),
)
