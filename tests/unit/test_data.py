"""Images: decoding, preprocessing, augmentation, data sets, the loader, synthetic images."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import paddle
import pytest
from helpers import COLOURS, HANG, ROOT, make_images, picture, write_cifar
from hypothesis import given
from hypothesis import strategies as st
from paddle.vision.datasets import DatasetFolder
from PIL import Image

from paddle_attn.builders import make_loader, make_preprocess
from paddle_attn.config import AugmentConfig, load_config
from paddle_attn.data.base import DataNotFoundError, ImageDataset
from paddle_attn.data.datasets import create_dataset
from paddle_attn.data.folder import ImageFolder
from paddle_attn.data.images import in_turn, is_image_name, load_image
from paddle_attn.data.loader import Loader
from paddle_attn.data.prepare.synthetic import CLASSES, write_synthetic
from paddle_attn.data.subset import Subset
from paddle_attn.data.transforms import MAX_ASPECT, Augment, Mix, Preprocess
from paddle_attn.errors import UserError

PREPROCESS = Preprocess(32, "stretch", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


# ---- decoding


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK", "I;16", "I", "F"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str):
    source = picture((200, 100, 50))
    if mode.startswith("I"):
        values = np.asarray(source.convert("L")).astype("uint16") * 257
        image = Image.fromarray(values.astype("uint16" if mode == "I;16" else "int32"))
    else:
        image = source.convert(mode)
    path = tmp_path / ("x.tif" if mode in ("CMYK", "F", "I") else "x.png")
    image.save(path)
    found = load_image(path)
    assert found.mode == "RGB" and found.size == (40, 40)
    expected = source if mode in ("P", "RGBA", "CMYK") else source.convert("L").convert("RGB")
    change = np.abs(np.asarray(found, "float").mean((0, 1)) - np.asarray(expected, "float").mean((0, 1)))
    assert change.max() < 40  # of 255: palettes and CMYK are coarse


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_applied(tmp_path: Path, orientation: int):
    upright = Image.new("RGB", (30, 20), "black")
    upright.paste("white", (0, 0, 15, 10))  # the upper left quarter
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright if orientation == 1 else upright.transpose(undo[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "x.png", exif=exif)
    assert np.array_equal(np.asarray(load_image(tmp_path / "x.png")), np.asarray(upright))


@pytest.mark.parametrize("damage", ["truncated", "text", "empty", "missing", "directory"])
def test_a_file_that_cannot_be_decoded_is_an_error_with_its_name(tmp_path: Path, damage: str):
    path = tmp_path / "x.jpg"
    picture((9, 9, 9)).save(path)
    content = path.read_bytes()
    path.unlink()
    if damage == "directory":
        path.mkdir()
    elif damage != "missing":
        path.write_bytes({"truncated": content[: len(content) // 2], "text": b"hello", "empty": b""}[damage])
    with pytest.raises(UserError, match=r"cannot decode the image .*x\.jpg: "):
        load_image(path)


@pytest.mark.parametrize("width", [9500, 15_000])  # Pillow itself refuses the second
def test_an_image_of_too_many_pixels_is_refused(tmp_path: Path, width: int):
    Image.new("1", (width, 9500)).save(tmp_path / "x.png")
    with pytest.raises(UserError, match=r"cannot decode the image .*x\.png: .*pixels"):
        load_image(tmp_path / "x.png")


def test_a_pipe_and_a_dangling_link_are_errors(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "gone.jpg").symlink_to("nowhere")
    for name, reason in (("pipe.jpg", "it is not a regular file"), ("gone.jpg", "No such file")):
        with pytest.raises(UserError, match=f"cannot decode the image .*{name}: {reason}"):
            load_image(tmp_path / name)


def test_images_are_recognised_by_their_extension():
    names = [".a.jpg", "a.txt", "a", "a.JPG", "b.jpeg", "c.webp"]
    assert [name for name in names if is_image_name(name)] == ["a.JPG", "b.jpeg", "c.webp"]


# ---- preprocessing and augmentation


@given(
    width=st.integers(1, 300),
    height=st.integers(1, 300),
    size=st.integers(1, 64),
    resize_mode=st.sampled_from(["stretch", "crop"]),
)
def test_an_image_of_any_size_becomes_the_square(width: int, height: int, size: int, resize_mode: str):
    preprocess = Preprocess(size, resize_mode, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    values = preprocess(Image.new("RGB", (width, height), (255, 0, 51)))
    assert values.shape == (3, size, size) and values.dtype == np.float32
    expected = [(1 - 0.5) / 0.2, (0 - 0.4) / 0.3, (0.2 - 0.3) / 0.4]
    np.testing.assert_allclose(values[:, 0, 0], expected, rtol=1e-5)
    assert Preprocess.from_ops(preprocess.to_ops()) == preprocess


def test_crop_takes_the_centre_and_keeps_the_aspect_ratio():
    image = Image.new("RGB", (200, 100), "black")
    image.paste("white", (75, 25, 125, 75))  # the centre
    pixels = Preprocess(56, "crop", (0, 0, 0), (1, 1, 1)).resize(image)
    assert pixels[28, 28].min() == 255 and pixels[0, 0].max() == 0
    white_rows, white_columns = (pixels[:, 28, 0] > 127).sum(), (pixels[28, :, 0] > 127).sum()
    assert white_rows == white_columns == 32  # 50 of 100 px, at a short side of 64


def noise(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, [height, width, 3])
    return Image.fromarray(pixels.astype("uint8"))


@given(
    side=st.integers(1, 40),
    aspect=st.floats(1, MAX_ASPECT),
    upright=st.booleans(),
    size=st.integers(1, 64),
)
def test_crop_is_the_centre_of_the_resized_image(side: int, aspect: float, upright: bool, size: int):
    sides = [side, int(side * aspect)] if upright else [int(side * aspect), side]
    preprocess = Preprocess(size, "crop", (0, 0, 0), (1, 1, 1))
    short = preprocess.short_side
    width, height = (max(short, round(pixels * (short / side))) for pixels in sides)
    whole = np.asarray(noise(*sides).resize([width, height], Image.Resampling.BILINEAR))
    left, top = (width - size) // 2, (height - size) // 2
    assert np.array_equal(preprocess.resize(noise(*sides)), whole[top : top + size, left : left + size])


def test_crop_of_a_long_strip_is_that_of_its_middle():
    preprocess, strip = Preprocess(56, "crop", (0, 0, 0), (1, 1, 1)), noise(3001, 9)
    middle = strip.crop((1356, 0, 1645, 9))  # 32 times as long as wide, and one pixel, as the ends are equal
    assert np.array_equal(preprocess.resize(strip), preprocess.resize(middle))
    upright = preprocess.resize(strip.transpose(Image.Transpose.TRANSPOSE))
    assert np.array_equal(upright, preprocess.resize(middle.transpose(Image.Transpose.TRANSPOSE)))


@contextlib.contextmanager
def memory_limit(megabytes: int) -> Iterator[None]:
    """Limit what this process may allocate in the block in addition to what it has."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (megabytes << 20), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.parametrize("sides", [(30_000, 1), (1, 30_000), (1_000_000, 3)])
@pytest.mark.parametrize(
    "options", [{}, {"pad_crop": 4, "rotation": 20.0, "hflip": 1.0, "vflip": 1.0}, {"crop_scale": (0.1, 1.0)}]
)
@pytest.mark.parametrize("resize_mode", ["crop", "stretch"])
def test_a_long_strip_needs_little_memory(
    tmp_path: Path, sides: tuple[int, int], options: dict, resize_mode: str
):
    (tmp_path / "a").mkdir()
    Image.new("RGB", sides, "white").save(tmp_path / "a" / "x.png")
    preprocess = Preprocess(224, resize_mode, (0, 0, 0), (1, 1, 1))
    with memory_limit(megabytes=300):
        image = ImageFolder(tmp_path, preprocess, Augment(AugmentConfig(**options))).load(0)
    assert image.shape == (3, 224, 224) and image[:, 112, 112].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    "ops",
    [
        [],
        [{"ResizeImage": {"size": 8}}],
        "x",
        [{"Flip": None}],
        Preprocess(8, "crop", (0, 0, 0), (1, 1, 1)).to_ops()[:3],
    ],
)
def test_the_preprocessing_of_other_exports_is_refused(ops):
    with pytest.raises(UserError, match=r"inference\.yml"):
        Preprocess.from_ops(ops)


@pytest.mark.parametrize("resize_mode", ["stretch", "crop"])
def test_the_preprocessing_of_exports_that_do_not_name_pillow_is_read(resize_mode: str):
    preprocess = Preprocess(8, resize_mode, (0, 0, 0), (1, 1, 1))
    ops = preprocess.to_ops()
    for key in ("backend", "interpolation"):
        del ops[0]["ResizeImage"][key]
    assert Preprocess.from_ops(ops) == preprocess


def augmented(seed: int, **options) -> np.ndarray:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, [24, 24, 3]).astype("uint8"))
    return np.asarray(Augment(AugmentConfig(**options))(image, random.Random(seed)))


def test_flips_mirror_the_image_and_the_default_changes_nothing():
    image = augmented(0)
    assert np.array_equal(augmented(1), image)
    assert np.array_equal(augmented(1, hflip=1.0), image[:, ::-1])
    assert np.array_equal(augmented(1, vflip=1.0), image[::-1])


@pytest.mark.parametrize("options", [{"rotation": 30.0}, {"color_jitter": 0.5}, {"pad_crop": 4}])
def test_the_seed_determines_the_augmentation(options: dict):
    first, same, other = (augmented(seed, **options) for seed in (1, 1, 2))
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other) and not np.array_equal(first, augmented(1))


def test_a_random_crop_has_an_area_in_the_given_range():
    image, augment = Image.new("RGB", (100, 80)), Augment(AugmentConfig(crop_scale=(0.2, 0.4)))
    for seed in range(50):
        part = augment.crop(image, random.Random(seed))
        assert 0.17 < part.width * part.height / 8000 < 0.43  # rounded to whole pixels


def test_pad_crop_moves_the_image_by_at_most_the_padding():
    image = Image.new("RGB", (32, 32), "black")
    image.paste("white", (16, 16, 17, 17))
    augment = Augment(AugmentConfig(pad_crop=4))
    moved = [np.asarray(augment(image, random.Random(seed)))[..., 0] for seed in range(400)]
    rows, columns = zip(*(np.argwhere(pixels)[0] for pixels in moved), strict=True)
    assert (min(rows), max(rows), min(columns), max(columns)) == (12, 20, 12, 20)


# ---- data sets


def test_an_image_folder_is_a_dataset_folder(tmp_path: Path):
    folder = ImageFolder(make_images(tmp_path, per_class=2), PREPROCESS)
    assert isinstance(folder, DatasetFolder)
    assert folder.classes == sorted(COLOURS)
    assert folder.class_to_idx == {"blue": 0, "green": 1, "red": 2}
    paths = [str(tmp_path / name / f"image_0{index}.jpg") for name in folder.classes for index in (0, 1)]
    assert folder.samples == list(zip(paths, folder.targets, strict=True))
    assert folder.targets == [0, 0, 1, 1, 2, 2]
    image, label = folder[3]
    assert image.shape == (3, 32, 32) and image.dtype == np.float32 and label == 1
    assert np.array_equal(image, PREPROCESS(load_image(paths[3])))


def test_an_image_folder_skips_hidden_and_other_files(tmp_path: Path):
    make_images(tmp_path, per_class=3)
    for hidden in (".git/x/a.jpg", "__MACOSX/a.jpg", "red/.hidden/a.jpg", "red/.a.jpg"):
        (tmp_path / hidden).parent.mkdir(parents=True, exist_ok=True)
        picture((0, 0, 0)).save(tmp_path / hidden)
    (tmp_path / "red" / "notes.txt").write_text("x")
    folder = ImageFolder(tmp_path, PREPROCESS)
    assert folder.classes == sorted(COLOURS) and len(folder) == 9


def test_an_image_folder_follows_no_links_inside_a_class(tmp_path: Path):
    make_images(tmp_path, per_class=2)
    for name in ("one", "two"):
        (tmp_path / "red" / name).symlink_to(tmp_path, target_is_directory=True)
    assert len(ImageFolder(tmp_path, PREPROCESS)) == 6
    (tmp_path / "link").symlink_to(tmp_path / "blue", target_is_directory=True)  # a class may be a link
    assert ImageFolder(tmp_path, PREPROCESS).classes == ["blue", "green", "link", "red"]


@pytest.mark.parametrize("name", [b"two\nlines", b"latin \xe9"])
def test_a_class_name_that_does_not_fit_on_a_line_is_an_error(tmp_path: Path, name: bytes):
    make_images(tmp_path, per_class=1)
    (tmp_path / "red").rename(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    with pytest.raises(UserError, match="has a line break or another character that is not text: rename it"):
        ImageFolder(tmp_path, PREPROCESS)


def test_a_class_name_may_use_any_script(tmp_path: Path):
    make_images(tmp_path, per_class=1)
    (tmp_path / "red").rename(tmp_path / "گل‌ها 红色")  # with a joiner, which is not printable
    assert "گل‌ها 红色" in ImageFolder(tmp_path, PREPROCESS).classes


def test_missing_folders_and_empty_classes_are_errors(tmp_path: Path):
    with pytest.raises(DataNotFoundError, match=r"no data directory .*none: expected .*paddle-attn split"):
        ImageFolder(tmp_path / "none", PREPROCESS)
    with pytest.raises(UserError, match="has no class folders"):
        ImageFolder(tmp_path, PREPROCESS)
    make_images(tmp_path, per_class=1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"the class folder .*empty has no images"):
        ImageFolder(tmp_path, PREPROCESS)


@pytest.mark.parametrize(
    ("root", "command"),
    [
        ("datasets/caltech101-16", "`paddle-attn split`"),
        ("datasets/demo", "`paddle-attn split --source demo --out datasets/demo`"),
        ("my photos", "`paddle-attn split --source FOLDER_OR_ARCHIVE --out 'my photos'`"),
    ],
)
def test_missing_data_is_an_error_with_the_command_that_makes_it(
    root: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataNotFoundError) as error:
        create_dataset("folder", root, "train", PREPROCESS)
    assert command in str(error.value)


def test_places_in_turn_show_each_key_before_a_second_of_any():
    assert in_turn("aaabbc") == [0, 3, 5, 1, 4, 2] and in_turn("") == []


def test_the_eval_folder_may_be_called_val(tmp_path: Path):
    make_images(tmp_path / "train", per_class=3)
    make_images(tmp_path / "val", per_class=2)
    assert len(create_dataset("folder", tmp_path, "train", PREPROCESS)) == 9
    assert len(create_dataset("folder", tmp_path, "eval", PREPROCESS)) == 6
    make_images(tmp_path / "eval", per_class=1)
    assert len(create_dataset("folder", tmp_path, "eval", PREPROCESS)) == 3


def test_a_part_of_each_class_is_spread_over_its_files_and_only_in_training(tmp_path: Path):
    make_images(tmp_path / "train", per_class=9)
    make_images(tmp_path / "eval", per_class=4)
    config = load_config("towernet_none", [f"data.root={tmp_path}", "data.size=128", "data.per_class=3"])
    train, evaluated = (make_loader(config, split).dataset for split in ("train", "eval"))
    whole = ImageFolder(tmp_path / "train", make_preprocess(config), Augment(config.data.augment))
    assert train.classes == whole.classes and len(train) == 3 * len(whole.classes)
    assert len(evaluated) == 4 * len(whole.classes)
    assert [train.name(index) for index in range(len(train))] == whole_names(whole, [0, 4, 8])
    for index in range(len(train)):
        assert train.label(index) == index // 3
    train.epoch = 5  # as the loader sets it: the augmentation of a sample depends on it
    first = train.load(0)
    assert np.array_equal(first, train.load(0))
    train.epoch = 6
    assert not np.array_equal(first, train.load(0))


def whole_names(dataset: ImageFolder, places: list[int]) -> list[str]:
    """The names of the images at these places of each class."""
    by_class = [[name for name, own in dataset.samples if own == label] for label in range(3)]
    return [names[place] for names in by_class for place in places]


def test_a_part_larger_than_a_class_is_the_whole_class(tmp_path: Path):
    make_images(tmp_path, per_class=2)
    whole = ImageFolder(tmp_path, PREPROCESS)
    assert Subset(whole, 5).indices == list(range(len(whole)))
    assert len(Subset(whole, 1)) == len(whole.classes)


def test_an_unknown_data_set_is_an_error_with_the_known_ones(tmp_path: Path):
    expected = "unknown data set 'cifar': expected one of cifar10, cifar100, folder; did you mean 'cifar10'"
    with pytest.raises(UserError, match=expected):
        create_dataset("cifar", tmp_path, "train", PREPROCESS)


@pytest.mark.parametrize(("name", "train", "classes"), [("cifar10", 100, 10), ("cifar100", 20, 100)])
def test_cifar_is_read_from_its_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, train: int, classes: int
):
    write_cifar(tmp_path, monkeypatch, name)
    images = create_dataset(name, tmp_path, "train", PREPROCESS)
    assert len(images) == train and len(images.classes) == classes
    assert len(create_dataset(name, tmp_path, "eval", PREPROCESS)) == 20
    labels = np.concatenate([label.numpy() for _, label in Loader(images, 16)])
    assert labels.tolist() == [index % 10 for index in range(20)] * (train // 20)
    dark, bright = (np.asarray(images.image(index)) for index in (0, 9))
    assert dark.shape == (32, 32, 3) and bright.mean() > dark.mean() + 100


def test_a_cifar_archive_with_another_checksum_is_refused(tmp_path: Path):
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"a pickle that runs code")
    with pytest.raises(UserError, match=r"is not the official archive: expected the MD5 \w+, found \w+"):
        create_dataset("cifar10", tmp_path, "train", PREPROCESS)


# ---- what all data sets share: cache, augmentation, errors


class Squares(ImageDataset):
    """Images in memory; records which are decoded."""

    classes = ("even", "odd")

    def __init__(self, *arguments, count: int = 6, **options):
        super().__init__(*arguments, **options)
        self.count = count
        self.decoded: list[int] = []

    def __len__(self) -> int:
        return self.count

    def image(self, index: int) -> Image.Image:
        self.decoded.append(index)
        return picture((40 * index, 0, 0), side=50, seed=index)

    def label(self, index: int) -> int:
        return index % 2

    def name(self, index: int) -> str:
        return f"square {index}"


def test_a_data_set_needs_five_members():
    ((images, labels),) = Loader(Squares(PREPROCESS), batch_size=6)
    assert images.shape == [6, 3, 32, 32] and labels.tolist() == [0, 1, 0, 1, 0, 1]


def test_the_cache_decodes_each_image_once():
    images = Squares(PREPROCESS, Augment(AugmentConfig(rotation=5.0)), cache=1)
    loader = Loader(images, 4, shuffle=True)
    for epoch in range(3):
        loader.set_epoch(epoch)
        list(loader)
    assert sorted(images.decoded) == list(range(6))


def test_the_cache_is_bounded():
    images = Squares(Preprocess(400, "stretch", (0, 0, 0), (1, 1, 1)), cache=1)
    for index in [*range(6)] * 2:
        images.load(index)
    assert images.decoded == [0, 1, 2, 3, 4, 5, 2, 3, 4, 5]  # 1 MiB holds two images of 480,000 bytes


def test_a_random_crop_is_stretched_and_not_cropped_again(tmp_path: Path):
    (tmp_path / "a").mkdir()
    framed = Image.new("RGB", (60, 60), "white")
    framed.paste("black", (2, 2, 58, 58))
    framed.save(tmp_path / "a" / "x.png")
    preprocess = Preprocess(30, "crop", (0, 0, 0), (1, 1, 1))
    whole_area = Augment(AugmentConfig(crop_scale=(1.0, 1.0)))
    assert ImageFolder(tmp_path, preprocess, whole_area).load(0)[0, 0, 15] > 0.3  # the white frame
    assert ImageFolder(tmp_path, preprocess).load(0)[0, 0, 15] == 0  # cropped away


class Failing(Squares):
    """Raises MemoryError the first `failures` times."""

    def __init__(self, failures: int):
        super().__init__(PREPROCESS, count=1)  # the loader reads ahead in another thread
        self.failures = failures

    def image(self, index: int) -> Image.Image:
        self.failures -= 1
        if self.failures >= 0:
            raise MemoryError
        return super().image(index)


def test_any_failure_of_a_data_set_is_an_error_with_the_name():
    with pytest.raises(UserError, match="cannot load the image square 0: MemoryError"):
        list(Loader(Failing(2), 1))
    with pytest.raises(UserError, match="the image square 0 could not be loaded at first, but can be now"):
        list(Loader(Failing(1), 1))


# ---- the loader


def epoch_of(data: Path, seed: int, epoch: int, workers: int = 0, first_step: int = 0) -> list[np.ndarray]:
    images = ImageFolder(data, PREPROCESS, Augment(AugmentConfig(rotation=20.0, hflip=0.5)), seed)
    loader = Loader(images, 5, shuffle=True, seed=seed, workers=workers)
    loader.set_epoch(epoch, first_step)
    assert len(loader) == 3 - first_step
    return [images.numpy() for images, _ in loader]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_depend_on_seed_and_epoch_only(tmp_path: Path, workers: int):
    make_images(tmp_path, per_class=4)
    first = np.concatenate(epoch_of(tmp_path, seed=1, epoch=0))
    assert len(first) == 12
    assert np.array_equal(first, np.concatenate(epoch_of(tmp_path, 1, 0, workers)))
    assert not np.array_equal(first, np.concatenate(epoch_of(tmp_path, 1, 1, workers)))
    assert not np.array_equal(first, np.concatenate(epoch_of(tmp_path, 2, 0, workers)))


def test_an_epoch_can_start_at_a_later_step(tmp_path: Path):
    make_images(tmp_path, per_class=4)
    later = epoch_of(tmp_path, seed=1, epoch=3, first_step=1)
    for found, expected in zip(later, epoch_of(tmp_path, seed=1, epoch=3)[1:], strict=True):
        assert np.array_equal(found, expected)


def test_an_epoch_that_ends_before_the_first_step_is_an_error():
    loader = Loader(Squares(PREPROCESS, count=5), 2)
    loader.set_epoch(1, first_step=2)
    assert [len(labels) for _, labels in loader] == [1]
    expected = "cannot continue after step 3 of an epoch: expected a longer epoch, found 5 images"
    with pytest.raises(UserError, match=expected):
        loader.set_epoch(1, first_step=3)


def test_a_shorter_shard_is_padded_with_the_first_image_of_the_step():
    images = Squares(PREPROCESS, count=5)
    first, second = (Loader(images, 5, rank=rank, world_size=2) for rank in (0, 1))
    assert [labels.tolist() for _, labels in first] == [[0, 0, 0]]  # images 0, 2, 4
    assert [labels.tolist() for _, labels in second] == [[1, 1, 0]]  # images 1, 3, and 0 again
    assert first.step_length(0) == second.step_length(0) == 5
    assert (first.shard_length(0), second.shard_length(0)) == (3, 2)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_file_is_an_error_and_not_a_hang(tmp_path: Path, workers: int):
    make_images(tmp_path, per_class=3)
    (tmp_path / "red" / "image_01.jpg").write_bytes(b"broken")
    code = (
        "from paddle_attn.cli import prepare_paddle; prepare_paddle()\n"
        "from paddle_attn.data.folder import ImageFolder\n"
        "from paddle_attn.data.loader import Loader\n"
        "from paddle_attn.data.transforms import Preprocess\n"
        "from paddle_attn.errors import UserError\n"
        "preprocess = Preprocess(8, 'stretch', (0, 0, 0), (1, 1, 1))\n"
        f"loader = Loader(ImageFolder({str(tmp_path)!r}, preprocess), 4, workers={workers})\n"
        "try:\n    list(loader)\nexcept UserError as error:\n    print(error)"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=HANG)
    assert result.returncode == 0, result.stderr
    assert "cannot decode the image" in result.stdout and "image_01.jpg" in result.stdout


@pytest.mark.skipif(not hasattr(os, "getpgrp"), reason="this system has no process groups")
def test_a_signal_to_the_group_while_a_worker_starts_does_not_end_it(monkeypatch: pytest.MonkeyPatch):
    """Paddle seeds a worker directly after it has set the worker's signal handlers."""
    group, main, seed = os.getpgrp(), os.getpid(), random.seed

    def signalled(*arguments: object) -> None:
        if os.getpid() != main and os.getpgrp() == group:
            os.kill(os.getpid(), signal.SIGTERM)
        seed(*arguments)

    monkeypatch.setattr(random, "seed", signalled)
    loader = Loader(Squares(PREPROCESS, count=5), 2, workers=1)
    assert [len(labels) for _, labels in loader] == [2, 2, 1]


# ---- mixing batches


@given(st.integers(0, 10_000), st.sampled_from([(0.4, 0.0), (0.0, 1.0), (0.4, 1.0)]))
def test_an_image_keeps_the_fraction_lam_of_itself(seed: int, parameters: tuple[float, float]):
    images = paddle.to_tensor(np.float32([1, 2, 3]).reshape(3, 1, 1, 1) * np.ones([3, 3, 8, 6], "float32"))
    labels = paddle.to_tensor([0, 1, 2])
    mixed, first, others, lam = Mix(*parameters)(images, labels, np.random.default_rng(seed))
    assert first.tolist() == [0, 1, 2] and others.tolist() == [2, 1, 0]
    assert len(set(lam.tolist())) == 1 and 0 <= lam[0] <= 1
    expected = lam[0] * images + (1 - lam[0]) * images.flip([0])
    np.testing.assert_allclose(mixed.mean([1, 2, 3]).numpy(), expected.mean([1, 2, 3]).numpy(), rtol=1e-5)
    if not parameters[0]:  # CutMix: every pixel belongs to one of the two images
        assert set(mixed[0].flatten().tolist()) <= {1.0, 3.0}


def test_the_generator_determines_the_mix():
    images, labels = paddle.randn([4, 3, 8, 8]), paddle.to_tensor([0, 1, 2, 3])
    first, same, other = (
        Mix(0.4)(images, labels, np.random.default_rng([0, epoch, 0]))[0].numpy() for epoch in (1, 1, 2)
    )
    assert np.array_equal(first, same) and not np.array_equal(first, other)


# ---- synthetic images


def test_synthetic_images_are_reproducible_and_not_trivial(tmp_path: Path):
    write_synthetic(tmp_path / "a", per_class=60)
    write_synthetic(tmp_path / "b", per_class=2)
    assert len(CLASSES) == 16
    thumbnails, labels = [], []
    for label, name in enumerate(sorted(CLASSES)):
        files = sorted((tmp_path / "a" / name).iterdir())
        assert len(files) == 60
        for file in files[:2]:
            assert file.read_bytes() == (tmp_path / "b" / name / file.name).read_bytes()
        for file in files:
            thumbnail = load_image(file).resize((16, 16), Image.Resampling.BILINEAR)
            thumbnails.append(np.asarray(thumbnail, "float32").ravel())
            labels.append(label)
    x, y = np.stack(thumbnails), np.array(labels)
    held_out = np.arange(len(y)) % 5 == 0
    centroids = np.stack([x[(y == label) & ~held_out].mean(0) for label in range(16)])
    nearest = ((x[held_out][:, None] - centroids) ** 2).sum(2).argmin(1)
    assert (nearest == y[held_out]).mean() <= 0.6  # the average image of a class does not give it away
