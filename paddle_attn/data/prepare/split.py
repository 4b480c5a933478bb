"""The 80/20 split: class folders in, `train/<class>/*` and `eval/<class>/*` out, with a record of how it was made."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.progress import track

from ...errors import UserError, unknown_name
from ...files import atomic_directory, shown
from ..images import check_class_name, list_images_and_links, is_clutter, load_image
from .sources import CALTECH_SHA1, CALTECH_URL, find_source

EVERY = 5  # one file in five goes to eval
LEVELS = np.arange(256) / 255
MAX_NAME_BYTES = 200  # bytes of a file's name, where file systems take 255
ALREADY_SPLIT = {"train", "eval", "val", "test", "valid"}


@dataclass(frozen=True)
class Split:
    """What was made: also what stands in `split.json`."""

    classes: list[str]
    counts: dict[str, dict[str, int]]  # class: {'train': n, 'eval': n}
    source: str
    rule: str
    mean: list[float]  # of R, G and B in 0..1 over the training part, every image counting the same
    std: list[float]
    left_out: dict[str, str]  # file: why

    def total(self, part: str) -> int:
        return sum(count[part] for count in self.counts.values())


def make_split(
    source: str | None = None,
    out: str | Path = "datasets/caltech101-16",
    classes: Sequence[str] | None = None,
    seed: int | None = None,
    force: bool = False,
    datasets: str | Path = "datasets",
    url: str = CALTECH_URL,
    sha1: str = CALTECH_SHA1,
) -> Split:
    """Make the split; `out` appears whole at the end, or stays as it was.

    Args:
        source, datasets, url, sha1: where the images come from, see `sources.find_source`.
        out: the folder to make.
        classes: only these; None for all (for the download: the sixteen of Caltech-101).
        seed: shuffle each class by it; None sends every fifth file of the sorted class to eval.
        force: replace an older split.

    Raises: UserError when `out` is there already, there is nothing to split, or a class has fewer than two usable images.
    """
    out = Path(out)
    if out.exists() and any(out.iterdir()):
        if not force:
            raise UserError(f"{out} is there already: pass --force to replace it, or --out for another place")
        if not (out / "split.json").exists():
            raise UserError(
                f"{out} was not made by this tool (it has no split.json), so it is not replaced: pass --out for another place"
            )
    with atomic_directory(out) as aside:
        work = aside / ".work"
        work.mkdir()
        found = find_source(source, Path(datasets), work, list(classes) if classes else None, url, sha1)
        folders = _class_folders(found.root, found.classes)
        rule = (
            f"every {EVERY}th file of each sorted class to eval"
            if seed is None
            else f"one in {EVERY} to eval, shuffled with seed {seed}"
        )
        split = _distribute(
            folders, aside, found.name, rule, seed, shutil.move if found.temporary else shutil.copyfile
        )
        shutil.rmtree(work)
        (aside / "split.json").write_text(
            json.dumps(split.__dict__, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    return split


def _class_folders(root: Path, wanted: list[str] | None) -> dict[str, Path]:
    """The folders of the classes by their names, sorted; spaces in names have become underscores."""
    folders: dict[str, Path] = {}
    for entry in sorted(root.iterdir()):
        if entry.is_dir() and not is_clutter(entry.name):
            check_class_name(entry.name, root)
            other = folders.setdefault(_name(entry.name), entry)
            if other != entry:
                raise UserError(
                    f"the folders '{other.name}' and '{entry.name}' would both become the class '{_name(entry.name)}': rename one"
                )
    if set(folders) <= ALREADY_SPLIT:
        raise UserError(
            f"{root} is split already ({', '.join(folders)}): expected class folders; set data.root to it, with train/ and eval/ inside"
        )
    if wanted is None:
        return folders
    wanted = [_name(name) for name in wanted]
    for name in wanted:
        if name not in folders:
            raise unknown_name("class", name, folders)
    return {name: folders[name] for name in sorted(wanted)}


def _distribute(
    folders: dict[str, Path], target: Path, source: str, rule: str, seed: int | None, put
) -> Split:
    """Check every image, put it where the rule says, and measure the training part."""
    counts: dict[str, dict[str, int]] = {}
    left_out: dict[str, str] = {}
    sums, squares = np.zeros(3), np.zeros(3)
    for name, folder in track(
        folders.items(), description="checking images", total=len(folders), transient=True
    ):
        usable = []
        images, links = list_images_and_links(folder)
        left_out |= {
            shown(link.relative_to(folder.parent)): "a link to a folder, which is not followed"
            for link in links
        }
        for file in images:
            try:
                histogram = np.reshape(load_image(file).histogram(), [3, 256])
            except UserError as error:
                left_out[shown(file.relative_to(folder.parent))] = str(error).partition(f"{file}: ")[2]
                continue
            shares = histogram / histogram[0].sum()
            usable.append((file, shares @ LEVELS, shares @ LEVELS**2))
        if len(usable) < 2:
            raise UserError(
                f"the class '{name}' has {len(usable)} usable images, expected at least 2, one to learn from and one to test with"
            )
        if seed is not None:
            random.Random(f"{seed} {name}").shuffle(usable)
        counts[name] = {"train": 0, "eval": 0}
        for part in ("train", "eval"):
            (target / part / name).mkdir(parents=True)
        for index, (file, mean, square) in enumerate(usable):
            part = "eval" if index % EVERY == 0 else "train"
            counts[name][part] += 1
            put(file, _free(target / part / name / _file_name(file.relative_to(folder))))
            if part == "train":
                sums, squares = sums + mean, squares + square
    images = sum(count["train"] for count in counts.values())
    mean = sums / images
    std = np.sqrt(np.maximum(squares / images - mean * mean, 0))
    return Split(
        list(counts),
        counts,
        source,
        rule,
        [round(float(m), 4) for m in mean],
        [round(float(s), 4) for s in std],
        left_out,
    )


def _name(name: str) -> str:
    """Without spaces, as UTF-8, and neither hidden nor empty."""
    name = shown(name.strip().replace(" ", "_"))
    return f"_{name}" if name.startswith(".") or not name else name


def _file_name(relative: Path) -> str:
    """One name for a file that may lie deeper in its class folder; of a very long one the end."""
    name = _name("_".join(relative.parts))
    return _name(name.encode()[-MAX_NAME_BYTES:].decode(errors="ignore"))


def _free(path: Path) -> Path:
    """The path, or with a number behind the stem where 'a b.jpg' and 'a_b.jpg' would meet."""
    free, number = path, 2
    while free.exists():
        free, number = path.with_stem(f"{path.stem}-{number}"), number + 1
    return free
