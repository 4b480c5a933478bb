"""Reproduce the README's numbers on the photographs: python tests/check_photos.py PHOTOS

PHOTOS is a .zip, a .tar.gz or a folder, with one folder per class. Each network trains from scratch with
its config, at a smaller size and for fewer epochs, and must reach its accuracy. It is evaluated and
exported, and the exported model must predict the network's class, with its probabilities, for every eval
image. Everything goes to output/check-photos. Run it again after an interruption: it resumes, and does not
repeat a finished training.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from paddle_attn.cli import prepare_paddle

ROOT = Path(__file__).parent.parent
WORK = Path("output") / "check-photos"
MAX_DIFFERENCE = 1e-4  # of a probability, between the network and the exported model
RUNS = {  # config: pixels, epochs, smallest top-1
    "towernet_simam": (128, 15, 0.75),
    "vgg19_simam": (64, 30, 0.65),
    "resnet50_simam": (64, 25, 0.65),
    "mobilenet_v2_simam": (96, 40, 0.75),
}


@dataclass(frozen=True)
class Agreement:
    """The exported model against the network, on the eval images."""

    images: int
    same: int  # images with the same predicted class
    classes: int  # classes predicted at all
    difference: float  # the largest of a probability

    @property
    def passed(self) -> bool:
        return self.same == self.images and self.difference <= MAX_DIFFERENCE


def run(*arguments: object) -> None:
    """Run a command of the project and print it."""
    print("$ paddle-attn", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "paddle_attn", *map(str, arguments)], cwd=ROOT, check=True)


def compare(config_path: str, overrides: list[str], weights: Path, exported: Path) -> Agreement:
    """Run the network and the exported model on all eval images."""
    import paddle.nn.functional as F

    from paddle_attn import Predictor, load_config
    from paddle_attn.builders import load_trained, make_loader

    config = load_config(config_path, overrides)
    net, classes = load_trained(config, weights)
    loader = make_loader(config, "eval")
    expected = np.concatenate([F.softmax(net(images)).numpy() for images, _ in loader])
    paths = [path for path, _ in loader.dataset.samples]
    results = Predictor(exported).predict(paths, topk=len(classes))
    found = np.stack([np.array(result["scores"])[np.argsort(result["class_ids"])] for result in results])
    predicted = expected.argmax(1)
    return Agreement(
        images=len(predicted),
        same=int((predicted == found.argmax(1)).sum()),
        classes=len(set(predicted.tolist())),
        difference=float(np.abs(expected - found).max()),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("photos", type=Path)
    photos, data = parser.parse_args().photos.resolve(), WORK / "photos"
    if not (ROOT / data / "split.json").exists():
        run("split", "--source", photos, "--out", data)
    prepare_paddle()
    rows, failed = [], []
    for name, (size, epochs, min_top1) in RUNS.items():
        output, exported = WORK / name, WORK / "inference" / name
        config, weights = f"configs/{name}.yaml", output / "best.pdparams"
        settings = {"data.root": data, "data.size": size, "train.epochs": epochs, "train.output": output}
        overrides = [f"{key}={value}" for key, value in settings.items()]
        run("train", "-c", config, "--resume", "-o", *overrides)
        run("eval", "-c", config, "--weights", weights, "-o", *overrides)
        run("export", "-c", config, "--weights", weights, "--out", exported, "-o", *overrides)
        agreement = compare(config, overrides, ROOT / weights, ROOT / exported)
        top1 = json.loads((ROOT / output / "metrics.json").read_text())["top1"]
        agrees = f"{agreement.classes} | {agreement.same} / {agreement.images} | {agreement.difference:.0e}"
        rows.append(f"| {name} | {size} | {epochs} | {100 * top1:.2f} % | {agrees} |")
        if not agreement.passed:
            failed.append(f"{name}: the exported model differs from the network")
        if top1 < min_top1:
            failed.append(f"{name} reached {100 * top1:.2f} %, expected at least {100 * min_top1:.0f} %")
    columns = (
        "config",
        "px",
        "epochs",
        "eval top-1",
        "classes predicted",
        "same class after export",
        "largest difference of a probability",
    )
    print("", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", *rows, sep="\n")
    sys.exit(f"failed: {'; '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
