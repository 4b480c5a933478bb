"""The names that PyTorch repositories give to parameters, and ours.

The styles: torchvision; the SimAM repository (a convolution or norm becomes a Sequential that holds the attention too; CIFAR
networks of its own); PytorchInsight (`.se.`, `.sge.`, SK); attention-module (`.cbam.`, `bam1.`); ECANet (`.eca.`); SRM
(`.rclb.`); GCNet (`.context_block.`). They are told apart by the names themselves.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection

INSIDE = {  # an attention's own parameters
    "ChannelGate.mlp.1.": "channel_gate.mlp.0.",
    "ChannelGate.mlp.3.": "channel_gate.mlp.2.",
    "SpatialGate.spatial.": "spatial_gate.",
    "channel_att.gate_c.gate_c_fc_0.": "channel_gate.0.",
    "channel_att.gate_c.gate_c_bn_1.": "channel_gate.1.",
    "channel_att.gate_c.gate_c_fc_final.": "channel_gate.3.",
    "spatial_att.gate_s.gate_s_conv_reduce0.": "spatial_gate.0.",
    "spatial_att.gate_s.gate_s_bn_reduce0.": "spatial_gate.1.",
    "spatial_att.gate_s.gate_s_conv_di_0.": "spatial_gate.3.",
    "spatial_att.gate_s.gate_s_bn_di_0.": "spatial_gate.4.",
    "spatial_att.gate_s.gate_s_conv_di_1.": "spatial_gate.6.",
    "spatial_att.gate_s.gate_s_bn_di_1.": "spatial_gate.7.",
    "spatial_att.gate_s.gate_s_conv_final.": "spatial_gate.9.",
    "conv_mask.": "mask.",
    "channel_add_conv.": "transform.",
    "channel_mul_conv.": "transform.",
}
SK = {
    "conv2g": "conv_grouped",
    "bn2g": "bn_grouped",
    "conv2": "conv",
    "bn2": "bn",
    "conv_fc1": "squeeze",
    "bn_fc1": "squeeze_bn",
    "conv_fc2": "select",
}
CIFAR_MOBILENET = {"conv1": "0.0", "bn1": "0.1", "conv2": "1.0", "bn2": "1.1", "conv3": "2", "bn3": "3"}


def is_torch_style(keys: Collection[str]) -> bool:
    """Whether a state dict has PyTorch's names."""
    return any(
        key.endswith(("running_mean", "num_batches_tracked")) or key.startswith("module.") for key in keys
    )


def our_keys(keys: Collection[str], own: Collection[str]) -> dict[str, str]:
    """Ours for each of a PyTorch state dict's names; `num_batches_tracked`, which Paddle has not, is left out.

    Args:
        keys: theirs.
        own: the names that the network has: one that stands there already is kept.
    """
    plain = {
        key: _statistics(key.removeprefix("module."))
        for key in keys
        if not key.endswith("num_batches_tracked")
    }
    style = _style(plain.values())
    return {theirs: key if key in own else _inside(style(key)) for theirs, key in plain.items()}


def _style(keys: Collection[str]) -> Callable[[str], str]:
    keys = set(keys)
    if any(key.startswith("layers.0.conv1.") for key in keys):
        return _cifar_mobilenet
    if any(key.startswith("block1.layer.") for key in keys):
        return _wideresnet
    if any(key.startswith("linear.") for key in keys):
        return _cifar_preresnet if "bn.weight" in keys else _cifar_resnet
    if any(".conv2g." in key for key in keys):
        return _sk_resnet
    if any(key.startswith("features.1.conv.") for key in keys):
        return _simam_mobilenet if "features.1.conv.0.2.weight" in keys else _mobilenet
    return _resnet


def _resnet(key: str) -> str:
    key = re.sub(r"\.(bn[23]|conv[23])\.1\.", ".attn.", key)
    key = re.sub(r"\.(bn[23]|conv[23])\.0\.", r".\1.", key)
    key = re.sub(r"\.(se|sge|cbam|eca|rclb|context_block)\.", ".attn.", key)
    return re.sub(r"^bam(\d)\.", r"attn.\1.", key)


def _cifar_resnet(key: str) -> str:
    return _resnet(key).replace("linear.", "fc.").replace("shortcut.", "downsample.")


def _cifar_preresnet(key: str) -> str:
    return _resnet(key).replace("linear.", "fc.").replace("shortcut.0.", "downsample.")


def _wideresnet(key: str) -> str:
    key = re.sub(r"^bn1\.", "bn.", re.sub(r"^block(\d)\.layer\.", r"layer\1.", key))
    return _resnet(key).replace("convShortcut.", "downsample.")


def _sk_resnet(key: str) -> str:
    return re.sub(
        rf"^(layer\d\.\d+)\.({'|'.join(SK)})\.", lambda match: f"{match[1]}.unit.{SK[match[2]]}.", key
    )


def _mobilenet(key: str) -> str:
    key = re.sub(r"(features\.\d+)\.conv\.\d+\.(fc|ChannelGate|SpatialGate)\b", r"\1.attn.\2", key)
    key = re.sub(r"(features\.\d+)\.conv\.\d+\.conv\.weight$", r"\1.attn.conv.weight", key)  # ECA
    return key.replace("classifier.0.", "classifier.1.")


def _simam_mobilenet(key: str) -> str:
    # SimAM behind the depthwise convolution pushes the batch norm one place on
    return re.sub(r"^(features\.\d+\.conv\.\d)\.2\.", r"\1.1.", _mobilenet(key))


def _cifar_mobilenet(key: str) -> str:
    key = re.sub(r"^layers\.(\d+)\.", lambda match: f"features.{int(match[1]) + 1}.", key)
    for theirs, ours in {"conv1": "0.0", "bn1": "0.1", "conv2": "18.0", "bn2": "18.1"}.items():
        key = re.sub(rf"^{theirs}\.", f"features.{ours}.", key)
    key = _resnet(key).replace("shortcut.", "downsample.").replace("linear.", "classifier.1.")
    return re.sub(
        r"^(features\.\d+)\.(conv\d|bn\d)\.",
        lambda match: f"{match[1]}.conv.{CIFAR_MOBILENET[match[2]]}.",
        key,
    )


def _inside(key: str) -> str:
    for theirs, ours in INSIDE.items():
        key = key.replace(theirs, ours)
    return key


def _statistics(key: str) -> str:
    return re.sub(r"running_var$", "_variance", re.sub(r"running_mean$", "_mean", key))
