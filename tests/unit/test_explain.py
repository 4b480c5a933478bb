"""Explanations: maps against an independent float64 computation, gates, trust in a map, pictures."""

from __future__ import annotations

import argparse
import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import paddle
import pytest
from helpers import kwargs_for
from paddle import nn
from paddle.vision import models
from PIL import Image

from paddle_attn import create_attention, create_model, insert_attention, list_attention, model_spec, ops
from paddle_attn.data.prepare.synthetic import CLASSES, draw_image
from paddle_attn.errors import UserError
from paddle_attn.explain import (
    METHODS,
    attention_gates,
    check_randomisation,
    class_maps,
    deletion_insertion,
    last_map,
    list_attentions,
    list_layers,
    random_maps,
    recording,
)
from paddle_attn.explain.command import Options, read_images
from paddle_attn.explain.figure import Overlay, gate_columns, plot_columns
from paddle_attn.explain.gates import Gate
from paddle_attn.explain.overlay import gate_picture, overlay
from paddle_attn.files import atomic_write

SIZE = 64  # px, of the images for ImageNet's networks


def network(name: str, attn: str | None = "simam") -> nn.Layer:
    """A network of the zoo, or Paddle's DenseNet with an inserted attention, in train mode."""
    paddle.seed(0)
    if name == "densenet121":
        net = models.densenet121(num_classes=5)
        insert_attention(net, "simam", after="db_conv_2.*", size=SIZE)
        return net
    return create_model(name, attn, kwargs_for(name, attn), num_classes=5)


def images_for(name: str, count: int = 2) -> paddle.Tensor:
    size = (
        SIZE
        if name == "densenet121"
        else min(model_spec(name).input_size, max(model_spec(name).min_size, SIZE))
    )
    return paddle.to_tensor(np.random.default_rng(0).standard_normal([count, 3, size, size]), "float32")


# ---- against an independent computation


def independent_map(method: str, a: np.ndarray, g: np.ndarray) -> np.ndarray:
    """The papers' formulas for one image, channel by channel: `[K, H, W]` twice to `[H, W]`."""
    total = np.zeros(a.shape[1:])
    for activation, gradient in zip(a, g, strict=True):
        if method == "layer-cam":
            total += np.maximum(gradient, 0) * activation
            continue
        if method == "grad-cam":
            weight = gradient.sum() / gradient.size
        else:
            alpha = np.zeros_like(gradient)
            some = gradient > 0  # the others' alpha is multiplied by 0
            denominator = 2 * gradient[some] ** 2 + activation.sum() * gradient[some] ** 3
            alpha[some] = gradient[some] ** 2 / denominator
            weight = (alpha * np.maximum(gradient, 0)).sum()
        total += weight * activation
    return np.maximum(total, 0)


def independent_gradients(
    net: nn.Layer, x: paddle.Tensor, layer: str, class_ids: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """The layer's output and the gradient there: float64, the reference forms, through the whole graph."""
    net.to(dtype="float64")
    net.eval()
    outputs: list[paddle.Tensor] = []
    handle = dict(net.named_sublayers())[layer].register_forward_post_hook(
        lambda layer, inputs, output: outputs.append(output)
    )
    x = x.astype("float64")
    x.stop_gradient = False
    with ops.using("off"):
        logits = net(x)
    handle.remove()
    score = sum(logits[index, number] for index, number in enumerate(class_ids))
    (gradient,) = paddle.grad(score, outputs)
    return outputs[0].numpy(), gradient.numpy()


FAST = {"cifar_resnet20": "se", "cifar_preresnet20": "simam", "resnet18": "cbam", "mobilenet_v2": "eca"}
SLOW = {
    "vgg19": "simam",
    "resnext50_32x4d": "simam",
    "cifar_wideresnet28x10": "simam",
    "cifar_mobilenetv2": "sge",
    "resnet50": "sk",
}


@pytest.mark.parametrize(
    ("name", "attn"),
    [
        *FAST.items(),
        ("towernet", "simam"),
        ("towernet", None),
        ("densenet121", "simam"),
        *(pytest.param(*pair, marks=pytest.mark.slow) for pair in SLOW.items()),
    ],
)
def test_maps_agree_with_an_independent_float64_computation(name: str, attn: str | None):
    net, x = network(name, attn), images_for(name)
    layer = last_map(net, x)
    found = {method: class_maps(net, x, method) for method in METHODS}
    ids = found["grad-cam"].class_ids
    activations, gradients = independent_gradients(net, x, layer, ids)
    for method, result in found.items():
        expected = np.stack(
            [independent_map(method, *pair) for pair in zip(activations, gradients, strict=True)]
        )
        assert result.layer == layer and result.class_ids == ids
        assert result.maps.shape == (2, *activations.shape[2:]) and expected.max() > 0
        assert np.abs(result.maps - expected).max() <= 1e-4 * expected.max(), method


def test_the_independent_gradient_is_the_difference_quotient():
    net, x = network("cifar_resnet20", "simam"), images_for("cifar_resnet20", 1)
    activations, gradients = independent_gradients(net, x, "layer3", [3])
    direction = np.random.default_rng(1).standard_normal(activations.shape)
    layer, step = net.layer3, 1e-5
    logits = []
    for sign in (1, -1):
        moved = paddle.to_tensor(activations + sign * step * direction)
        handle = layer.register_forward_post_hook(lambda layer, inputs, output, moved=moved: moved)
        logits.append(float(net(x.astype("float64"))[0, 3]))
        handle.remove()
    assert (logits[0] - logits[1]) / (2 * step) == pytest.approx((gradients * direction).sum(), rel=1e-6)


def test_grad_cam_of_a_network_that_ends_in_average_pooling_is_cam():
    """Zhou et al.'s class activation map: the classifier's weights times the last map, over its places."""
    net, x = network("resnet18", None), images_for("resnet18", 1)
    result = class_maps(net, x, class_ids=2)
    net.eval()
    last = net.forward_features(x)[-1].numpy()[0]
    cam = np.einsum("k,khw->hw", net.fc.weight.numpy()[:, 2], last) / last[0].size
    assert result.layer == "layer4" and np.allclose(result.maps[0], cam.clip(0), atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_an_image_has_the_same_map_alone_and_in_a_batch(method: str):
    net, x = network("cifar_resnet20"), images_for("cifar_resnet20", 3)
    together = class_maps(net, x, method, "layer2", [0, 1, 2]).maps
    alone = [class_maps(net, x[index : index + 1], method, "layer2", index).maps[0] for index in range(3)]
    assert np.allclose(together, alone, atol=1e-6 * together.max())


# ---- the network is left as it was


def state_of(net: nn.Layer) -> tuple:
    parameters = net.parameters()
    return (
        [layer.training for layer in net.sublayers(include_self=True)],
        [len(layer._forward_post_hooks) for layer in net.sublayers(include_self=True)],
        [parameter.stop_gradient for parameter in parameters],
        [None if parameter.grad is None else parameter.grad.numpy().tobytes() for parameter in parameters],
        [tensor.numpy().tobytes() for tensor in (*parameters, *net.buffers())],
    )


@pytest.fixture
def used() -> nn.Layer:
    """A network in the middle of a training: gradients, a frozen layer, a layer in eval mode."""
    net = network("cifar_resnet20")
    net(images_for("cifar_resnet20")).sum().backward()
    net.layer1.eval()
    net.conv1.weight.stop_gradient = True
    return net


def test_explaining_leaves_hooks_modes_gradients_and_weights_as_they_were(used: nn.Layer):
    before, x = state_of(used), images_for("cifar_resnet20")
    with paddle.no_grad():
        result = class_maps(used, x)
    list_layers(used, x)
    attention_gates(used, x)
    deletion_insertion(used, x, result.maps, result.class_ids, steps=2)
    check_randomisation(used, x, lambda net: class_maps(net, x, class_ids=result.class_ids).maps)
    assert state_of(used) == before


def test_one_image_does_not_show_that_a_network_learned_nothing():
    net = network("cifar_resnet20")
    for count, expected in ((1, "one image does not show"), (2, "does not depend on learned weights")):
        x = images_for("cifar_resnet20")[:count]
        found = check_randomisation(net, x, lambda net, x=x: class_maps(net, x).maps)
        assert expected in found.verdict


def test_a_recording_ends_with_its_block_also_after_an_error(used: nn.Layer):
    before, x = state_of(used), images_for("cifar_resnet20")
    with pytest.raises(KeyboardInterrupt), recording(used, ["layer2", "fc"]) as outputs:
        logits = used(x)
        assert not used.training and all(parameter.stop_gradient for parameter in used.parameters())
        raise KeyboardInterrupt
    assert state_of(used) == before
    assert [output.shape for output in outputs["layer2"]] == [[2, 32, 16, 16]]
    assert (outputs["fc"][0] == logits).all()
    with pytest.raises(UserError, match="unknown layer 'layer4'"), recording(used, ["layer4"]):
        pass
    assert state_of(used) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"layer": "layer4"}, ("unknown layer 'layer4'", "did you mean 'layer")),
        ({"layer": "fc"}, ("'fc' returns no spatial map", "[2, 5]")),
        ({"layer": "avgpool"}, ("'avgpool' returns no spatial map", "[2, 64, 1, 1]")),
        ({"method": "gradcam"}, ("unknown method 'gradcam'", "did you mean 'grad-cam'")),
        ({"class_ids": 5}, ("from 0 to 4", "5")),
        ({"class_ids": [1]}, ("each of the 2 images",)),
    ],
)
def test_a_wrong_argument_is_one_sentence_and_changes_nothing(
    used: nn.Layer, arguments: dict, words: tuple[str, ...]
):
    before = state_of(used)
    with pytest.raises(UserError) as error:
        class_maps(used, images_for("cifar_resnet20"), **arguments)
    assert all(word in str(error.value) for word in words), error.value
    assert state_of(used) == before


def test_an_error_in_the_network_leaves_it_as_it_was(used: nn.Layer):
    before = state_of(used)
    for explain in (
        lambda x: class_maps(used, x, layer="layer3"),
        lambda x: attention_gates(used, x),
        lambda x: check_randomisation(used, x, lambda net: class_maps(net, x).maps),
    ):
        with pytest.raises(ValueError):
            explain(paddle.zeros([1, 4, 32, 32]))
        assert state_of(used) == before


def test_an_error_while_weights_are_randomised_restores_them(used: nn.Layer):
    before, x, calls = state_of(used), images_for("cifar_resnet20"), []

    def explain(net: nn.Layer) -> np.ndarray:
        calls.append(state_of(net)[-1])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return class_maps(net, x).maps

    with pytest.raises(KeyboardInterrupt):
        check_randomisation(used, x, explain)
    assert calls[0] != calls[1] != calls[2] and state_of(used) == before


def test_a_layer_that_is_called_twice_is_refused():
    class Twice(nn.Layer):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2D(3, 3, 3, padding=1), nn.Linear(3, 2)

        def forward(self, x):
            return self.fc(self.conv(self.conv(x)).mean([2, 3]))

    with pytest.raises(UserError, match=r"calls the layer 'conv' 2 times"):
        class_maps(Twice(), paddle.ones([1, 3, 8, 8]), layer="conv")
    with pytest.raises(UserError, match="no layer of Twice returns a map"):
        class_maps(Twice(), paddle.ones([1, 3, 8, 8]))


def test_an_operation_in_place_behind_the_layer_does_not_change_the_recorded_map():
    class InPlace(nn.Layer):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2D(3, 4, 3), nn.Linear(4, 2)

        def forward(self, x):
            return self.fc(nn.functional.relu_(self.conv(x)).mean([2, 3]))

    paddle.seed(0)
    net, x = InPlace(), images_for("cifar_resnet20")
    result = class_maps(net, x, "layer-cam")
    activations, gradients = independent_gradients(net, x, "conv", result.class_ids)
    expected = [independent_map("layer-cam", *pair) for pair in zip(activations, gradients, strict=True)]
    assert np.allclose(result.maps, expected, atol=1e-6)


# ---- gates


@pytest.mark.parametrize(("attn", "model"), [("nonlocal", "cifar_resnet20"), ("sk", "resnet50")])
def test_an_attention_without_a_gate_is_one_sentence(attn: str, model: str):
    net = create_model(model, attn, num_classes=4)
    with pytest.raises(UserError, match=r"has no gate|that has a gate"):
        attention_gates(net, paddle.zeros([1, 3, 32, 32]))


@pytest.mark.parametrize("attn", [name for name in list_attention() if name not in ("nonlocal", "sk")])
def test_what_a_gate_shows_is_what_the_attention_computes(attn: str):
    net, x = network("cifar_resnet20", attn), images_for("cifar_resnet20")
    names = list(list_attentions(net))
    gate = attention_gates(net, x, names[-1:])[0]
    net.eval()
    attention, received = list_attentions(net)[names[-1]], []
    attention.register_forward_post_hook(lambda layer, inputs, output: received.append(inputs[0]))
    net(x)
    height, width = received[0].shape[2:]
    if gate.maps is not None:
        assert gate.maps.shape[0] == 2 and gate.maps.shape[2:] == (height, width)
    if attn == "gc":  # adds: its maps are the weights of an average
        assert np.allclose(gate.maps.mean((2, 3)), 1, atol=1e-5) and gate.channels is None
        return
    expected = attention.gate(received[0]).numpy()
    if expected.shape[2:] == (1, 1):  # a weight for every channel
        assert gate.maps is None and np.allclose(gate.channels, expected[:, :, 0, 0])
    elif attn == "cbam":
        assert np.allclose(gate.maps * gate.channels[:, :, None, None], expected, atol=1e-6)
    elif attn == "sge":
        assert np.allclose(np.repeat(gate.maps, 64 // attention.groups, 1), expected, atol=1e-6)
    else:  # a weight for every neuron
        assert np.allclose(gate.maps[:, 0], expected.mean(1), atol=1e-6)


def test_gates_of_an_inserted_attention_are_found_by_name():
    net = network("densenet121")
    names = list(list_attentions(net))
    assert names and all(name.startswith("db_conv_2.") for name in names)
    assert attention_gates(net, images_for("densenet121"), names[:1])[0].attention == "SimAM"


def test_a_network_without_attention_has_no_gate():
    with pytest.raises(UserError, match="no attention"):
        attention_gates(network("cifar_resnet20", None), images_for("cifar_resnet20"))
    with pytest.raises(UserError, match=r"'layer1' is not an attention: expected one of layer1\.0\.attn"):
        attention_gates(network("cifar_resnet20"), images_for("cifar_resnet20"), ["layer1"])


# ---- whether to believe a map


class Corner(nn.Layer):
    """Two classes by the brightness of the upper left quarter."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2D(3, 1, 1)

    def forward(self, x):
        bright = x[:, :, :8, :8].mean([1, 2, 3])
        return paddle.stack([bright, -bright], 1) * 5


def test_the_map_that_shows_the_cause_deletes_and_inserts_early():
    x = paddle.ones([1, 3, 16, 16])
    right = np.zeros([1, 2, 2])
    right[0, 0, 0] = 1
    good, bad = (deletion_insertion(Corner(), x, maps, [0], steps=8) for maps in (right, 1 - right))
    assert good.fractions.tolist() == np.linspace(0, 1, 9).tolist()
    assert good.deletion[0, 0] == pytest.approx(1, abs=1e-4) and good.deletion[0, -1] == pytest.approx(0.5)
    assert good.insertion[0, -1] == pytest.approx(1, abs=1e-4)
    assert good.deletion_area[0] < bad.deletion_area[0] - 0.2


def test_the_area_is_the_mean_height_of_the_curve():
    x = paddle.zeros([1, 3, 16, 16])
    curves = deletion_insertion(Corner(), x, random_maps(1, 4, 4), [0], steps=4)
    assert curves.deletion_area.tolist() == curves.insertion_area.tolist() == [0.5]


KINDS = ("checkerboard", "circle", "cross")


def synthetic(count: int, seed: int) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Images of the demo at 32 px, and their labels."""
    pairs = [(label, index) for label in range(len(KINDS)) for index in range(count)]
    pictures = [
        draw_image(CLASSES[KINDS[label]], random.Random(f"{seed} {label} {index}")).resize([32, 32])
        for label, index in pairs
    ]
    pixels = np.stack([np.asarray(picture) for picture in pictures]).transpose([0, 3, 1, 2])
    return paddle.to_tensor(pixels / 127.5 - 1, "float32"), paddle.to_tensor([label for label, _ in pairs])


def small_network() -> nn.Layer:
    widths, layers = (3, 16, 32, 32, 32), []
    for index, (before, after) in enumerate(itertools.pairwise(widths)):
        convolution = nn.Conv2D(before, after, 3, stride=2 if index < 2 else 1, padding=1, bias_attr=False)
        layers += [convolution, nn.BatchNorm2D(after, momentum=0.8), nn.ReLU()]
    layers.append(create_attention("simam", widths[-1]))
    head = [nn.AdaptiveAvgPool2D(1), nn.Flatten(), nn.Linear(widths[-1], len(KINDS))]
    return nn.Sequential(*layers, *head)


@pytest.fixture(scope="module")
def trained() -> Iterator[nn.Layer]:
    """A network that tells three kinds of the demo's images apart."""
    paddle.seed(0)
    net = small_network()
    images, labels = synthetic(40, seed=0)
    optimiser = paddle.optimizer.Adam(1e-2, parameters=net.parameters())
    for step in range(100):
        chosen = paddle.to_tensor(np.random.default_rng(step).permutation(len(labels))[:24])
        loss = nn.functional.cross_entropy(net(images[chosen]), labels[chosen])
        loss.backward()
        optimiser.step()
        optimiser.clear_grad()
    net.eval()
    return net


def test_deletion_is_below_insertion_and_beats_the_opposite_maps_in_a_trained_network(trained: nn.Layer):
    images, labels = synthetic(8, seed=1)
    right = (trained(images).argmax(1) == labels).numpy()
    assert right.mean() > 0.8
    images, ids = images[paddle.to_tensor(right.nonzero()[0])], labels.numpy()[right].tolist()
    maps = class_maps(trained, images, class_ids=ids).maps
    curves = deletion_insertion(trained, images, maps, ids)
    opposite = deletion_insertion(trained, images, maps.max() - maps, ids)
    assert curves.deletion_area.mean() < curves.insertion_area.mean()
    assert curves.deletion_area.mean() < opposite.deletion_area.mean()
    assert curves.insertion_area.mean() > opposite.insertion_area.mean()
    # this small network is only 0.01 better than random maps, as much as rounding in its training moves it
    control = deletion_insertion(trained, images, random_maps(*maps.shape), ids)
    gain, of_random = (found.insertion_area - found.deletion_area for found in (curves, control))
    assert gain.mean() > of_random.mean() - 0.02


def test_the_map_of_a_trained_network_depends_on_its_weights(trained: nn.Layer):
    images, _ = synthetic(4, seed=1)
    ids = class_maps(trained, images).class_ids
    result = check_randomisation(trained, images, lambda net: class_maps(net, images, class_ids=ids).maps)
    assert result.is_trained and result.depends_on_weights
    assert result.verdict.startswith("the map depends on the weights")
    assert result.layers[:2] == ["as trained", "15"] and result.layers[-1] == "0"
    assert result.correlations[0] == pytest.approx(1) and result.similarities[0] == pytest.approx(1)
    assert result.maps.shape[:2] == (len(result.layers), len(images))


def test_the_check_says_so_when_the_weights_are_random():
    images, _ = synthetic(4, seed=1)
    for seed in range(3):
        paddle.seed(seed)
        net = small_network()
        ids = class_maps(net, images).class_ids
        result = check_randomisation(
            net, images, lambda net, ids=ids: class_maps(net, images, class_ids=ids).maps
        )
        assert not result.depends_on_weights
        assert result.verdict.startswith("the map does not depend on learned weights")


def test_the_check_says_so_when_the_map_ignores_the_weights(trained: nn.Layer):
    images, _ = synthetic(4, seed=1)
    result = check_randomisation(trained, images, lambda net: np.abs(images.numpy()).mean(1))
    assert not result.depends_on_weights and result.random_correlations == pytest.approx(1)
    assert result.verdict.startswith("the map does not depend on the weights: mean rank correlation 1.00")


# ---- pictures


def test_any_name_and_every_kind_of_column_can_be_drawn(tmp_path: Path):
    pixels = np.random.default_rng(0).integers(0, 255, [3, 32, 32, 3]).astype("uint8")
    names, x = ["猫/照片.jpg", "$x_1$.png", "a" * 200], images_for("cifar_resnet20", 3)
    for attn, count in (("simam", 1), ("cbam", 2), ("sge", 1)):  # CBAM has a map and bars
        columns = gate_columns(pixels, attention_gates(network("cifar_resnet20", attn), x)[-1:])
        assert len(columns) == count
        plot_columns(pixels, names, columns, tmp_path / f"{attn}.png", "gates")
    maps = Overlay("", pixels, np.zeros([3, 4, 4]), ["猫 97 %", "$", ""])
    plot_columns(pixels, names, [maps], tmp_path / "maps.png")
    assert all(Image.open(tmp_path / f"{name}.png").width > 300 for name in ("simam", "cbam", "sge", "maps"))


def options_for(out: Path, **changes: object) -> Options:
    """The options of a command line with an image."""
    line = {"method": "grad-cam", "layer": None, "class_name": None, "faithfulness": False, "limit": 16}
    line |= {"out": str(out), "inputs": ["image.png"], "list_layers": False}
    return Options.of(argparse.Namespace(**line | changes), "output")


def test_a_picture_replaces_only_pictures_of_this_package(tmp_path: Path):
    pixels = np.zeros([1, 8, 8, 3], "uint8")
    columns = [Overlay("", pixels, np.ones([1, 2, 2]), ["a"])]
    ours, photo, text = tmp_path / "ours.png", tmp_path / "photo.png", tmp_path / "text.png"
    atomic_write(ours, lambda part: plot_columns(pixels, ["a"], columns, part))
    Image.fromarray(pixels[0]).save(photo)
    text.write_text("words")
    for path in (ours, tmp_path / "new.png"):
        assert options_for(path).pictures == [path]
    for path in (photo, text):
        with pytest.raises(UserError, match="was not written by this command and is not replaced"):
            options_for(path)
    (tmp_path / "new_faithfulness.png").write_bytes(photo.read_bytes())
    with pytest.raises(UserError, match=r"new_faithfulness\.png was not written by this command"):
        options_for(tmp_path / "new.png", faithfulness=True)
    with pytest.raises(UserError, match=r"ends with \.png"):
        options_for(tmp_path / "picture.jpg")


def test_unreadable_images_are_reported_and_further_ones_counted(tmp_path: Path):
    for index in range(4):
        Image.new("RGB", [8, 8]).save(tmp_path / f"{index}.png")
    (tmp_path / "1.png").write_text("no image")
    errors: list[UserError] = []
    found = read_images([str(tmp_path), "missing.jpg"], 2, errors.append)
    assert found.names == [f"{tmp_path.name}/{index}.png" for index in (0, 2)]
    assert len(found.images) == 2 and found.left_out == 1 and len(errors) == 2


def test_an_input_that_cannot_be_read_is_reported_beyond_the_limit_too(tmp_path: Path):
    for name in ("first", "second", "third"):
        Image.new("RGB", [8, 8]).save(tmp_path / f"{name}.png")
    broken = tmp_path / "broken.png"
    broken.write_text("no image")
    errors: list[UserError] = []
    inputs = [tmp_path / "first.png", broken, tmp_path / "second.png", broken, tmp_path / "third.png"]
    found = read_images(list(map(str, inputs)), 1, errors.append)
    assert len(found.images) == 1 and found.left_out == 2
    assert [str(broken) in str(error) for error in errors] == [True, True]


def test_a_limit_takes_one_image_of_each_folder_in_turn(tmp_path: Path):
    for name in ("ant", "bee"):
        for number in range(3):
            path = tmp_path / name / f"{number}.png"
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", (4, 4)).save(path)
    found = read_images([str(tmp_path)], 3, pytest.fail)
    assert found.names == ["ant/0.png", "ant/1.png", "bee/0.png"]
    assert len(found.images) == 3 and found.left_out == 3


# ---- pixels of a page


def test_an_overlay_is_brightest_where_the_map_is_largest():
    image, map_ = np.full([60, 40, 3], 128, "uint8"), np.zeros([6, 4])
    map_[1, 2] = 1
    grey = np.asarray(overlay(image, map_).convert("L")).astype(int)
    assert grey.shape == (60, 40)
    assert divmod(int(grey.argmax()), 40) == pytest.approx((15, 25), abs=1)
    assert grey.max() > grey[50, 5] + 60


@pytest.mark.parametrize("kind", ["map", "masks", "channels"])
def test_every_kind_of_gate_is_a_picture_of_the_size_of_its_image(kind: str):
    image, rng = np.full([48, 48, 3], 128, "uint8"), np.random.default_rng(0)
    maps = {"map": rng.random([2, 1, 3, 3]), "masks": rng.random([2, 8, 3, 3]), "channels": None}[kind]
    weights = np.stack([np.zeros(64), np.linspace(0, 1, 64)]) if kind == "channels" else None
    first, second = (
        np.asarray(gate_picture(image, Gate("attn", "X", maps, weights, ""), index)) for index in range(2)
    )
    assert first.shape == second.shape == image.shape and (first != second).any()
    if kind == "channels":  # each bar is as high as its weight
        heights = (second == second[-1, -1]).all(2).sum(0)
        assert (np.diff(heights) >= 0).all() and heights[[0, 24, 47]] == pytest.approx([0, 24, 48], abs=1)
