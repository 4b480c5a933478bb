"""How the time to list, start and load grows with the number of images: python tests/soak/size.py

It writes tiny images into a thousand classes, loads each number of them in its own process, and prints
the table of docs/scaling.md. With --out docs it updates the page.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from paddle_attn.cli import prepare_paddle
from paddle_attn.files import write_text

COUNTS = (1_000, 10_000, 100_000)
CLASSES = 1000
BATCH = 32
TABLE = re.compile(r"(?<=<!-- by tests/soak/size.py -->\n).*?(?=<!-- end -->)", re.DOTALL)


def write_images(root: Path, first: int, last: int) -> None:
    """Write the images from number `first` to `last`, spread over the classes."""
    for index in range(first, last):
        folder = root / f"class_{index % CLASSES:04d}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (index % 251, index % 241, index % 239)).save(
            folder / f"image_{index:06d}.png"
        )


def measure(root: Path) -> dict[str, float]:
    """Seconds to list, to the first batch and for the epoch; bytes held. Runs in a new process."""
    prepare_paddle()
    from paddle_attn.config import AugmentConfig
    from paddle_attn.data.folder import ImageFolder
    from paddle_attn.data.loader import Loader
    from paddle_attn.data.transforms import Augment, Preprocess

    def held() -> float:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * resource.getpagesize()

    Preprocess(32, "stretch", (0.5,) * 3, (0.5,) * 3)(Image.new("RGB", (8, 8)))
    before, began = held(), time.perf_counter()
    images = ImageFolder(root, Preprocess(32, "stretch", (0.5,) * 3, (0.5,) * 3), Augment(AugmentConfig()))
    listed, listing = time.perf_counter() - began, held() - before
    loader = Loader(images, BATCH, shuffle=True)
    began = time.perf_counter()
    batches = iter(loader)
    next(batches)
    first = time.perf_counter() - began
    for _ in batches:
        pass
    return {
        "list": listed,
        "first": first,
        "epoch": time.perf_counter() - began,
        "listing": listing,
        "held": held() - before,
    }


def table(found: dict[int, dict[str, float]]) -> str:
    titles = (
        "images",
        "to list, s",
        "µs each",
        "to the first batch, s",
        "an epoch of loading, s",
        "µs each",
        "list, bytes each",
        "held, MB",
    )
    lines = ["", f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for count, each in found.items():
        listing = f"{each['list']:.2f} | {1e6 * each['list'] / count:.0f}"
        loading = f"{each['first']:.2f} | {each['epoch']:.1f} | {1e6 * each['epoch'] / count:.0f}"
        memory = f"{each['listing'] / count:.0f} | {each['held'] / 1e6:.0f}"
        lines.append(f"| {count:,} | {listing} | {loading} | {memory} |")
    return "\n".join([*lines, "", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, help="folder of scaling.md")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure)))
        return
    found, before = {}, 0
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "images"
        for count in COUNTS:
            write_images(root, before, count)
            before = count
            done = subprocess.run(
                [sys.executable, __file__, "--measure", root], stdout=subprocess.PIPE, text=True, check=True
            )
            found[count] = json.loads(done.stdout.splitlines()[-1])
            print(count, found[count], flush=True)
    text = table(found)
    print(text)
    if arguments.out:
        page = arguments.out / "scaling.md"
        write_text(page, TABLE.sub(lambda _: text, page.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
