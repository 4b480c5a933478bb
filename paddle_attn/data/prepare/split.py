"""The 80/20 split: from class folders to `train/<class>/*`, `eval/<class>/*` and a record, `split.json`."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import UserError, unknown_name
from ...files import atomic_directory, files_below, is_inside, read_regular, shown
from ...plotting.bar import track
from ..images import ImageError, check_class_name, is_clutter, list_images, list_images_and_links, load_image
from .duplicates import thumbnail
from .report import SplitImage, near_duplicates, write_report
from .sources import (
    ARCHIVES,
    CALTECH_16,
    CALTECH_SHA1,
    CALTECH_URL,
    class_names,
    find_source,
    locate,
    photographs,
)

EVERY = 5  # one image in five goes to eval, so there are five folds
LEVELS = np.arange(256) / 255  # the values of the 256 bins of a histogram
MAX_NAME_BYTES = 200  # of a file; file systems support 255
RECORD = "split.json"
ALREADY_SPLIT = {"train", "eval", "val", "test", "valid"}


@dataclass(frozen=True)
class Split:
    """The result of a split, as `split.json` holds it."""

    classes: list[str]
    counts: dict[str, dict[str, int]]  # class: {'train': n, 'eval': n}
    source: str
    rule: str
    fold: int  # 0 to 4: which fifth of each class went to eval
    mean: list[float]  # of R, G and B in 0..1 over the training images; every image has the same weight
    std: list[float]
    skipped: dict[str, str]  # file: reason
    files: list[str]  # all files of the split, relative to it; a later split replaces only these
    near_duplicates: int | None  # eval images that have one in train; None when they were not looked for

    def total(self, part: str) -> int:
        """The number of images in 'train' or 'eval'."""
        return sum(count[part] for count in self.counts.values())


@dataclass(frozen=True)
class _Checked:
    """An image that decodes, with the mean of its R, G and B and of their squares."""

    file: Path
    mean: np.ndarray
    mean_square: np.ndarray
    size: tuple[int, int]
    thumbnail: np.ndarray | None


def default_folder(
    source: str | None,
    datasets: str | Path = "datasets",
    fold: int = 0,
    classes: Sequence[str] | None = None,
) -> Path:
    """The folder of a split: named after the source, but `caltech101-16` for the photographs of the notebook.

    Those are its sixteen classes, from the download or from `Images.zip` or `Images/` in `datasets`. Configs
    expect them there. The name ends in `-foldK` for the folds 1 to 4.

    Raises: UserError when `source` does not exist.
    """
    folder = _folder_of_fold_0(source, Path(datasets), classes)
    return folder.with_name(f"{folder.name}-fold{fold}") if fold else folder


def _folder_of_fold_0(source: str | None, datasets: Path, classes: Sequence[str] | None) -> Path:
    path = locate(source, datasets)
    if path is None:
        return datasets / "demo"
    places = [_real(place) for place in photographs(datasets)]
    if _real(path) in places:
        found = {_clean(name) for name in class_names(path) if not is_clutter(name)}
    else:
        found = set() if source else set(CALTECH_16)
    if found == set(CALTECH_16) and set(classes or found) == found:
        return datasets / "caltech101-16"
    name = _real(path).name
    if not path.is_dir():
        name = next((name[: -len(end)] for end in ARCHIVES if name.lower().endswith(end)), name)
    folder = datasets / _file_name(Path(name))
    if _real(folder) in places or _contain_one_another(path, folder):
        return folder.with_name(f"{folder.name}-split")
    return folder


def make_split(
    source: str | None = None,
    out: str | Path | None = None,
    classes: Sequence[str] | None = None,
    seed: int | None = None,
    force: bool = False,
    datasets: str | Path = "datasets",
    url: str = CALTECH_URL,
    sha1: str = CALTECH_SHA1,
    fold: int = 0,
    report: bool = True,
) -> Split:
    """Make the split. `out` appears complete at the end; after an error it is as before. A link is followed.

    Args:
        source, datasets, url, sha1: where the images come from, see `sources.find_source`.
        out: the folder to make; None for `default_folder`.
        classes: the classes to use; None for all, or for the sixteen of the download.
        seed: shuffles each class; None sends every fifth file of the sorted class to eval.
        force: replace an earlier split.
        fold: 0 to 4, the first file of each class that goes to eval, before every fifth after it. The eval
            parts of the five folds hold every image once.
        report: look for near-duplicates and write `report.html`, the page of the data set.

    Raises: UserError when `out` exists, or with `force` holds a file that no split wrote, when source and
    `out` contain one another, when there are no images, or when too few of a class decode for one in each
    part.
    """
    if fold not in range(EVERY):
        raise UserError(f"the fold must be at least 0 and at most {EVERY - 1}, found {fold}")
    out = default_folder(source, datasets, fold, classes) if out is None else Path(out)
    if path := locate(source, Path(datasets)):
        _check_apart(path, out)
    if not force and out.is_dir() and any(out.iterdir()):
        raise UserError(f"{out} exists: pass --force to replace it, or --out for another folder")
    rule = f"one in {EVERY} to eval, shuffled with seed {seed}"
    if seed is None:
        rule = f"every {EVERY}th file of each sorted class to eval"
    if fold:
        rule += f", beginning with file {fold + 1}"
    with atomic_directory(out, _recorded_files) as target:
        work = target / ".work"
        work.mkdir()
        found = find_source(source, Path(datasets), work, list(classes) if classes else None, url, sha1)
        folders = _class_folders(found.root, found.classes)
        for folder in folders.values():
            for path in (folder, *list_images(folder)):
                if path.is_symlink():
                    _check_apart(path, out)
        put = shutil.move if found.temporary else shutil.copyfile
        counts, skipped, mean, std, images = _distribute(folders, target, seed, fold, put, report)
        shutil.rmtree(work)
        duplicates = None
        if report:
            duplicates = near_duplicates(images)
            description = f"{found.name}: {rule}."
            write_report(
                target, f"The data set {Path(found.name).name}", description, images, duplicates, skipped
            )
        split = Split(
            list(counts),
            counts,
            found.name,
            rule,
            fold,
            mean,
            std,
            skipped,
            [*files_below(target), RECORD],
            None if duplicates is None else len(duplicates),
        )
        record = json.dumps(dataclasses.asdict(split), indent=2, ensure_ascii=False)
        # a file name that is not text becomes \udcNN, which JSON reads as the same name
        (target / RECORD).write_bytes(f"{record}\n".encode("utf-8", "backslashreplace"))
    return split


def _check_apart(source: Path, out: Path) -> None:
    """Raises UserError when replacing `out` would remove `source`, or when `source` holds `out`."""
    if _contain_one_another(source, out):
        raise UserError(
            f"the source {source} and the folder of the split, {out}, are the same or contain one another: "
            "pass --out for another folder"
        )


def _contain_one_another(first: Path, second: Path) -> bool:
    return is_inside(first, second) or is_inside(second, first)


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # Path.resolve raises for links in a circle


def _recorded_files(out: Path) -> list[str]:
    """The files of the split in `out`, from its record."""
    try:
        return [str(name) for name in json.loads(read_regular(out / RECORD))["files"]]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        raise UserError(
            f"{out} is not replaced, as it has no {RECORD} that lists the files of a split: "
            "pass --out for another folder"
        ) from None


def _class_folders(root: Path, wanted: list[str] | None) -> dict[str, Path]:
    """The folder of each class, sorted by class; spaces in the names become underscores."""
    folders: dict[str, Path] = {}
    for entry in sorted(root.iterdir()):
        if entry.is_dir() and not is_clutter(entry.name):
            check_class_name(entry.name, root)
            name = _clean(entry.name)
            other = folders.setdefault(name, entry)
            if other != entry:
                raise UserError(
                    f"the folders '{other.name}' and '{entry.name}' would both become the class '{name}': "
                    "rename one"
                )
    if set(folders) <= ALREADY_SPLIT:
        raise UserError(
            f"{root} is split already ({', '.join(folders)}), expected class folders: "
            "train on it as it is, with data.root"
        )
    if wanted is None:
        return folders
    wanted = [_clean(name) for name in wanted]
    for name in wanted:
        if name not in folders:
            raise unknown_name("class", name, folders)
    return {name: folders[name] for name in sorted(wanted)}


def _distribute(
    folders: dict[str, Path],
    target: Path,
    seed: int | None,
    fold: int,
    put: Callable[[Path, Path], object],
    report: bool,
) -> tuple[dict[str, dict[str, int]], dict[str, str], list[float], list[float], list[SplitImage]]:
    """Check every image and `put` it into train/ or eval/.

    Returns: the counts, the skipped files, the mean and standard deviation of the training images, and with
    `report` what its page needs of every image.
    """
    placed: list[SplitImage] = []
    counts: dict[str, dict[str, int]] = {}
    skipped: dict[str, str] = {}
    sums, squares = np.zeros(3), np.zeros(3)
    for name, folder in track(folders.items(), "checking images"):
        images, reasons = _check_images(folder, report)
        skipped |= reasons
        if len(images) < max(2, fold + 1):
            of_fold = f" of fold {fold}" if fold else ""
            raise UserError(
                f"the class '{name}' has {len(images)} usable images, expected at least {max(2, fold + 1)}, "
                f"one for training and one for eval{of_fold}"
            )
        if seed is not None:
            random.Random(f"{seed} {name}").shuffle(images)
        counts[name] = {"train": 0, "eval": 0}
        for part in ("train", "eval"):
            (target / part / name).mkdir(parents=True)
        for index, image in enumerate(images):
            part = "eval" if index % EVERY == fold else "train"
            counts[name][part] += 1
            path = _unused(target / part / name / _file_name(image.file.relative_to(folder)))
            put(image.file, path)
            if report:
                relative = path.relative_to(target).as_posix()
                placed.append(SplitImage(relative, part, name, image.size, image.thumbnail))
            if part == "train":
                sums, squares = sums + image.mean, squares + image.mean_square
    total = sum(count["train"] for count in counts.values())
    mean = sums / total
    std = np.sqrt(np.maximum(squares / total - mean * mean, 0))
    return counts, skipped, [round(float(m), 4) for m in mean], [round(float(s), 4) for s in std], placed


def _check_images(folder: Path, thumbnails: bool) -> tuple[list[_Checked], dict[str, str]]:
    """The images of a class that decode, sorted by path, and the reason for each file that is skipped."""
    checked: list[_Checked] = []
    files, links = list_images_and_links(folder)
    skipped = dict.fromkeys(links, "a link to a folder, which is not followed")
    for file in files:
        try:
            image = load_image(file)
        except ImageError as error:
            skipped[file] = error.reason
            continue
        histogram = np.reshape(image.histogram(), [3, 256])
        frequencies = histogram / histogram[0].sum()
        small = thumbnail(image) if thumbnails else None
        checked.append(_Checked(file, frequencies @ LEVELS, frequencies @ LEVELS**2, image.size, small))
    return checked, {shown(file.relative_to(folder.parent)): reason for file, reason in skipped.items()}


def _clean(name: str) -> str:
    """A name without spaces, in UTF-8 on any file system, neither hidden nor empty."""
    name = os.fsdecode(shown(name.strip().replace(" ", "_")).encode())
    return f"_{name}" if name.startswith(".") or not name else name


def _file_name(relative: Path) -> str:
    """The name of a file from its path inside the class folder; of a very long name the end."""
    name = _clean("_".join(relative.parts))
    return _clean(os.fsencode(name)[-MAX_NAME_BYTES:].decode(errors="ignore"))


def _unused(path: Path) -> Path:
    """The path, with a number after the stem when it exists: 'a b.jpg' and 'a_b.jpg' get the same name."""
    unused, number = path, 2
    while unused.exists():
        unused, number = path.with_stem(f"{path.stem}-{number}"), number + 1
    return unused
