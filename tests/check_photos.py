"""What README states of the real photographs: `make check-photos`, or python tests/check_photos.py PHOTOS

PHOTOS is a .zip, .tar.gz or folder of class folders. TowerNet-SimAM learns 15 epochs at 128 px; each other backbone one epoch at
64 px, is evaluated and exported, and the exported program must name the class that the network names, for every eval image, with
its probabilities (one epoch may name few classes; the probabilities tell all the same).
Everything goes to output/check-photos; a finished training is not repeated.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from paddle_attn.cli import prepare_paddle

ROOT = Path(__file__).parent.parent
WORK = Path("output") / "check-photos"
TOP1_EXPECTED = 0.75
RUNS = {  # config: size, epochs
    "towernet_simam": (128, 15),
    "vgg19_simam": (64, 1),
    "resnet50_simam": (64, 1),
    "mobilenet_v2_simam": (64, 1),
}


def run(tool: str, *arguments: object) -> None:
    print(f"$ python tools/{tool}.py", *arguments, flush=True)
    subprocess.run([sys.executable, f"tools/{tool}.py", *map(str, arguments)], cwd=ROOT, check=True)


def agreement(
    config_path: str, overrides: list[str], weights: Path, exported: Path
) -> tuple[int, int, float, int]:
    """On how many eval images the exported program names the network's class, of how many; the largest difference of a
    probability; and how many classes are named at all."""
    import paddle.nn.functional as F

    from paddle_attn import Predictor, load_config
    from paddle_attn.train import load_trained, make_loader

    config = load_config(config_path, overrides)
    net, _ = load_trained(config, weights)
    loader = make_loader(config, "eval")
    by_network = np.concatenate([F.softmax(net(images)).numpy() for images, _ in loader])
    results = Predictor(exported).predict(
        [path for path, _ in loader.dataset.samples], topk=by_network.shape[1]
    )
    by_program = np.stack([np.array(result["scores"])[np.argsort(result["class_ids"])] for result in results])
    named = by_network.argmax(1)
    return (
        int((named == by_program.argmax(1)).sum()),
        len(named),
        float(np.abs(by_network - by_program).max()),
        len(set(named.tolist())),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    data = WORK / "photos"
    photos = parser.parse_args().photos.resolve()
    if not (ROOT / data / "split.json").exists():
        run("split", "--source", photos, "--out", data)
    prepare_paddle()
    rows = []
    for name, (size, epochs) in RUNS.items():
        config, output, exported = f"configs/{name}.yaml", WORK / name, WORK / "inference" / name
        overrides = [
            f"data.root={data}",
            f"data.size={size}",
            f"train.epochs={epochs}",
            f"train.output={output}",
        ]
        run("train", "-c", config, "-o", *overrides, "train.resume=true")
        run("eval", "-c", config, "-o", *overrides, "--weights", output / "best.pdparams")
        run(
            "export", "-c", config, "-o", *overrides, "--weights", output / "best.pdparams", "--out", exported
        )
        same, images, difference, named = agreement(config, overrides, output / "best.pdparams", exported)
        top1 = json.loads((ROOT / output / "metrics.json").read_text())["top1"]
        rows.append((name, size, epochs, top1, named, same, images, difference))
    print(
        "\n| config | px | epochs | eval top-1 | classes named | exported program names the same | largest difference of a probability |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, size, epochs, top1, named, same, images, difference in rows:
        print(
            f"| {name} | {size} | {epochs} | {100 * top1:.2f} % | {named} | {same} / {images} | {difference:.0e} |"
        )
    failed = [name for name, *_, same, images, difference in rows if same != images or difference > 1e-4]
    if rows[0][3] < TOP1_EXPECTED:
        failed.append(
            f"towernet_simam reached {100 * rows[0][3]:.2f} %, expected {100 * TOP1_EXPECTED:.0f} %"
        )
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
