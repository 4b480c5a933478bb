"""The training loss."""

from __future__ import annotations

import paddle.nn.functional as F
from paddle import Tensor, nn


class ClassificationLoss(nn.Layer):
    """Mean cross entropy of logits `[N, C]` and labels `[N]`, times `loss_weight`.

    `loss_weight` averages over the images when several batches make one update: accumulated batches, or the
    shards of several processes. A mixed batch (mixup, cutmix) comes with the labels of the other images and
    `lam`, the part of the first image, both `[N]`.

    Args:
        label_smoothing: the part of the target that is spread over all classes.
    """

    def __init__(self, label_smoothing: float = 0.0):
        super().__init__()
        self.label_smoothing = label_smoothing
        self.loss_weight = 1.0

    def forward(
        self, logits: Tensor, labels: Tensor, other_labels: Tensor | None = None, lam: Tensor | None = None
    ) -> Tensor:
        if other_labels is None:
            return self.loss_weight * F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        loss, other_loss = (
            F.cross_entropy(logits, target, reduction="none", label_smoothing=self.label_smoothing).flatten()
            for target in (labels, other_labels)
        )
        return self.loss_weight * (loss * lam + other_loss * (1 - lam)).mean()
