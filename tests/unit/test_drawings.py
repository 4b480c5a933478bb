"""The drawings of the attention modules: they show every parameter, true shapes, and are up to date."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree

import paddle
import pytest
from helpers import ROOT

from paddle_attn import create_attention, list_attention, ops
from paddle_attn.attention import ATTENTION
from paddle_attn.errors import UserError
from paddle_attn.plotting.flow import draw, parse

SIZES = {"C": 128, "H": 6, "W": 10}  # as wide as the defaults of every module need


@pytest.mark.parametrize("name", list_attention())
def test_the_drawing_in_the_repository_is_what_the_command_makes(name: str):
    drawn = draw(f"{name}: {ATTENTION[name].__name__}", ATTENTION[name].flow)
    file = ROOT / "docs" / "images" / "attention" / f"{name}.svg"
    assert file.read_text(encoding="utf-8") == drawn, "make it again: python tools/drawings.py"
    ElementTree.fromstring(drawn)  # raises an error for what is no XML


@pytest.mark.parametrize("name", list_attention())
def test_the_drawing_shows_every_parameter(name: str):
    shown = {step.layer for chain in parse(ATTENTION[name].flow) for step in chain.steps if step.layer}
    attn = create_attention(name, SIZES["C"])
    own = {key for key, value in attn.named_parameters() if not value.stop_gradient}
    assert {key if key in shown else key.rpartition(".")[0] for key in own} == shown


def side(expression: str, sizes: dict[str, int]) -> int | None:
    """The value of a side such as `C/16`, `2C` or `H+W`; None when it has a letter without a size."""
    total = 0
    for term in expression.split("+"):
        factors = [re.findall(r"\d+|[A-Za-z]", part) for part in term.split("/")]
        if any(not factor.isdigit() and factor not in sizes for part in factors for factor in part):
            return None
        values = [math.prod(int(f) if f.isdigit() else sizes[f] for f in part) for part in factors]
        total += values[0] // math.prod(values[1:])
    return total


@pytest.mark.parametrize("name", list_attention())
def test_the_shapes_are_those_of_the_layers(name: str):
    stated = {
        step.layer: step.shape for chain in parse(ATTENTION[name].flow) for step in chain.steps if step.shape
    }
    attn = create_attention(name, SIZES["C"])
    attn.eval()
    found: dict[str, list[int]] = {}
    names = {id(layer): path for path, layer in attn.named_sublayers() if path in stated}

    def record(layer: paddle.nn.Layer, inputs: tuple, output: paddle.Tensor) -> None:
        found[names[id(layer)]] = output.shape[1:]

    for layer in attn.sublayers():
        if id(layer) in names:
            layer.register_forward_post_hook(record)
    with ops.using("off"):  # a fused form may not call the layers
        attn(paddle.randn([2, SIZES["C"], SIZES["H"], SIZES["W"]]))
    sizes = SIZES | {"G": getattr(attn, "groups", 1)}
    for path, shape in found.items():
        for expression, number in zip(stated[path], shape, strict=True):
            assert side(expression, sizes) in (number, None), f"{path}: {shape}"


@pytest.mark.parametrize(
    "line", ["y = z -> ReLU", "x -> ReLU", "y = x", "y = x -> conv [C", "y = x -> a\ny = x -> b", "y = x -> "]
)
def test_a_line_that_is_no_step_is_one_sentence(line: str):
    with pytest.raises(UserError, match="expected 'name = input, … -> step -> …' with known inputs, found"):
        parse(line)


def test_a_dot_tells_lines_that_part_from_lines_that_cross():
    """x goes to a, b and y; a and b part once each, and their lines to c cross without a dot."""
    drawn = draw(
        "example", "a = x -> f\nb = x -> g\nc = a, b -> +\np = a, c -> ×\nq = b, c -> ×\ny = p, q -> +"
    )
    dots = re.findall(r'<circle cx="([\d.]+)" cy="[\d.]+" r="2.5"', drawn)
    assert len(dots) == 4  # behind x, a, b and c


def test_two_lines_that_reach_a_step_from_one_side_are_apart():
    drawn = draw("example", "a = x -> f\nb = x -> g\nc = x -> h\ny = a, b, c -> +")
    ends = re.findall(r'<polyline points="[^"]* [\d.]+,([\d.]+)" ', drawn)
    assert len(ends) == len(set(ends)) + 2  # the three lines from x end at one height, all others elsewhere
