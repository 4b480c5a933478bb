"""What README states of the real photographs: `make check-photos`, or python tests/check_photos.py PHOTOS

PHOTOS is a .zip, .tar.gz or folder of class folders. TowerNet-SimAM learns 15 epochs at 128 px; each other backbone one epoch at
64 px, is evaluated and exported, and the exported program must name the class that the network names, for every eval image.
Everything goes to output/check-photos; a finished training is not repeated.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

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


def same_classes(config_path: str, overrides: list[str], weights: Path, exported: Path) -> tuple[int, int]:
    """On how many eval images the exported program names the network's class, and how many there are."""
    from paddle_attn import Predictor, load_config
    from paddle_attn.engine import load_trained, make_loader

    config = load_config(config_path, overrides)
    net, _ = load_trained(config, weights)
    loader = make_loader(config, "eval")
    by_network = [int(label) for images, _ in loader for label in net(images).argmax(1)]
    paths = [path for path, _ in loader.dataset.samples]
    by_program = [result["class_ids"][0] for result in Predictor(exported).predict(paths, topk=1)]
    return sum(one == two for one, two in zip(by_network, by_program, strict=True)), len(paths)


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
        overrides = [f"data.root={data}", f"data.size={size}", f"train.epochs={epochs}", f"train.output={output}"]
        run("train", "-c", config, "-o", *overrides, "train.resume=true")
        run("eval", "-c", config, "-o", *overrides, "--weights", output / "best.pdparams")
        run("export", "-c", config, "-o", *overrides, "--weights", output / "best.pdparams", "--out", exported)
        same, images = same_classes(config, overrides, output / "best.pdparams", exported)
        top1 = json.loads((ROOT / output / "metrics.json").read_text())["top1"]
        rows.append((name, size, epochs, top1, same, images))
    print("\n| config | px | epochs | eval top-1 | exported program names the same class |\n|---|---|---|---|---|")
    for name, size, epochs, top1, same, images in rows:
        print(f"| {name} | {size} | {epochs} | {100 * top1:.2f} % | {same} / {images} |")
    failed = [name for name, *_, same, images in rows if same != images]
    if rows[0][3] < TOP1_EXPECTED:
        failed.append(f"towernet_simam reached {100 * rows[0][3]:.2f} %, expected {100 * TOP1_EXPECTED:.0f} %")
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
