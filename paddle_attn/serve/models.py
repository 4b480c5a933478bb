"""An exported network that is served and, where its trained weights are given, what it looks at."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from PIL import Image

from .. import ops
from ..config import Config
from ..deploy import Predictor
from ..errors import UserError
from ..explain import attention_gates, class_maps, list_attentions, to_image_size
from ..explain.command import Trained, load_models
from ..explain.overlay import gate_picture, overlay
from ..files import as_text

TOLERANCE = 1e-2  # of a probability between the export and its weights


@dataclass(frozen=True)
class Look:
    """What a network looks at in one picture, as the network sees it.

    Attributes:
        cam: Grad-CAM of the predicted class over the picture.
        has_evidence: whether the map says anything.
        gate: the picture of an attention's gate; None without one.
        has_map: whether the gate is spatial; else it has channel weights.
        attention, layer: the attention's class and the name of its sublayer.
        limits: the smallest and the largest value of the gate.
    """

    cam: Image.Image
    has_evidence: bool
    gate: Image.Image | None = None
    has_map: bool = True
    attention: str = ""
    layer: str = ""
    limits: tuple[float, float] = (0.0, 0.0)


class Explainer:
    """Grad-CAM and the gate of a trained network. Only one thread may use it at a time."""

    def __init__(self, trained: Trained):
        self._trained = trained
        self._gated = self._choose_gate()

    def _choose_gate(self) -> str | None:
        """The last attention whose gate has more than one place, else the last one with channel weights."""
        size, with_channels = self._trained.preprocess.size, None
        for name in reversed(list_attentions(self._trained.net)):
            try:
                (gate,) = attention_gates(self._trained.net, paddle.zeros([1, 3, size, size]), [name])
            except (UserError, NotImplementedError):  # an attention without a gate, such as SK
                continue
            if gate.maps is not None and gate.maps.shape[2] * gate.maps.shape[3] > 1:
                return name
            if gate.channels is not None:
                with_channels = with_channels or name
        return with_channels

    def look(self, image: Image.Image, class_id: int) -> Look:
        """What speaks for a class in an RGB image."""
        net = self._trained.net
        pixels, inputs = self._trained.see([image])
        with ops.using(self._trained.config.train.ops):
            result = class_maps(net, inputs, class_ids=class_id)
            gates = attention_gates(net, inputs, [self._gated]) if self._gated else []
        (map_,) = to_image_size(result.maps, *pixels.shape[1:3])
        look = Look(overlay(pixels[0], map_), bool(map_.any()))
        for gate in gates:
            values = gate.channels if gate.maps is None else gate.maps
            limits = (float(values.min()), float(values.max()))
            picture = gate_picture(pixels[0], gate)
            has_map = gate.maps is not None
            look = Look(look.cam, look.has_evidence, picture, has_map, gate.attention, gate.layer, limits)
        return look

    def probabilities(self, image: Image.Image) -> np.ndarray:
        with paddle.no_grad(), ops.using(self._trained.config.train.ops):
            return paddle.nn.functional.softmax(self._trained.net(self._trained.see([image])[1])).numpy()


@dataclass(frozen=True)
class Answer:
    """What one network says about one picture.

    Attributes:
        model: the title of the network.
        labels, class_ids, scores: the best classes, the best one first; scores in 0..1.
        milliseconds: of the preprocessing and the network, without decoding.
        look: what it looks at; None without weights, or if it was not asked for.
    """

    model: str
    labels: list[str]
    class_ids: list[int]
    scores: list[float]
    milliseconds: float
    look: Look | None = None

    @property
    def as_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "labels": self.labels,
            "class_ids": self.class_ids,
            "scores": self.scores,
            "milliseconds": round(self.milliseconds, 3),
        }


@dataclass(frozen=True)
class Served:
    """One of the networks of a page."""

    title: str
    predictor: Predictor
    explainer: Explainer | None = None

    def answer(self, image: Image.Image, topk: int = 5, explain: bool = False) -> Answer:
        """The best classes of an RGB image and, if asked for and possible, what the network looks at."""
        start = time.perf_counter()
        (result,) = self.predictor.predict(image, topk)
        milliseconds = 1000 * (time.perf_counter() - start)
        look = self.explainer.look(image, result["class_ids"][0]) if explain and self.explainer else None
        return Answer(self.title, result["labels"], result["class_ids"], result["scores"], milliseconds, look)


def load_served(
    folders: Sequence[str | Path],
    trained: Sequence[tuple[Config, str]] = (),
    engine: str = "auto",
    precision: str = "fp32",
) -> list[Served]:
    """Load the networks of a page.

    Args:
        folders: exported folders; no two have the same path.
        trained: for each folder the config and the weights it was exported from, or nothing at all.
        engine, precision: see `Predictor`.

    Raises: UserError when an export or weights cannot be loaded, or do not belong together.
    """
    predictors = [Predictor(folder, engine=engine, precision=precision) for folder in folders]
    networks = load_models(*zip(*trained, strict=True)) if trained else []
    explainers = [Explainer(network) for network in networks]
    for folder, predictor, network, explainer, (_, weights) in zip(
        folders, predictors, networks, explainers, trained, strict=False
    ):
        _check_pair(folder, predictor, weights, network, explainer)
    served = [
        Served(title, predictor, explainer)
        for title, predictor, explainer in zip(
            _titles(folders), predictors, explainers or [None] * len(folders), strict=True
        )
    ]
    for model in served:  # the first run of an engine is slow: it compiles
        model.answer(Image.new("RGB", (64, 64)), topk=1, explain=True)
    return served


def _titles(folders: Sequence[str | Path]) -> list[str]:
    """The names of the folders, with those above them where two are alike."""
    paths = [Path(folder).resolve() for folder in folders]
    for parts in range(1, max(len(path.parts) for path in paths) + 1):
        titles = [as_text(Path(*path.parts[-parts:])) for path in paths]
        if len(set(titles)) == len(titles):
            return titles
    raise UserError("the same model is given twice: expected different folders")


def _check_pair(
    folder: str | Path, predictor: Predictor, weights: str, network: Trained, explainer: Explainer
) -> None:
    """Raises UserError when the export was not made from the weights."""
    differs = list(predictor.classes) != list(network.classes) or predictor.preprocess != network.preprocess
    if not differs and predictor.precision == "fp32":  # the others differ by themselves
        noise = np.random.default_rng(0).integers(0, 256, [64, 64, 3]).astype("uint8")
        image = Image.fromarray(noise).resize([network.preprocess.size] * 2)
        exported = predictor.probabilities(predictor.preprocess(image)[None])
        differs = np.abs(exported - explainer.probabilities(image)).max() > TOLERANCE
    if differs:
        raise UserError(
            f"{folder} was not exported from {weights}: expected for each model the weights that it was "
            "exported from, in the same order"
        )
