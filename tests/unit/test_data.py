"""Where images come from: decoding, preprocessing, augmentation, folders, the loader."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from helpers import COLOURS, ROOT, make_images, picture, write_cifar
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from paddle_attn.data import dataset as dataset_room
from paddle_attn.data.dataset import ImageFolder, Loader
from paddle_attn.data.images import is_image_name, load_image
from paddle_attn.data.prepare.synthetic import CLASSES, write_synthetic
from paddle_attn.data.transforms import Augment, Mix, Preprocess
from paddle_attn.errors import UserError

PLAIN = Preprocess(32, "stretch", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


# ---- decoding


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK", "I;16", "I", "F"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str):
    source = picture((200, 100, 50))
    if mode.startswith("I"):
        image = Image.fromarray(
            (np.asarray(source.convert("L")).astype("uint16") * 257).astype(
                "uint16" if mode == "I;16" else "int32"
            )
        )
    else:
        image = source.convert(mode)
    path = tmp_path / ("x.tif" if mode in ("CMYK", "F", "I") else "x.png")
    image.save(path)
    found = load_image(path)
    assert found.mode == "RGB" and found.size == (40, 40)
    gray = mode not in ("P", "RGBA", "CMYK")
    expected = source.convert("L").convert("RGB") if gray else source
    tolerance = 128 if mode == "1" else 40  # dithering; CMYK and palettes are coarse
    assert (
        np.abs(
            np.asarray(found).astype(int).mean((0, 1)) - np.asarray(expected).astype(int).mean((0, 1))
        ).max()
        < tolerance
    )


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_obeyed(tmp_path: Path, orientation: int):
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
def test_what_does_not_decode_is_named(tmp_path: Path, damage: str):
    path = tmp_path / "x.jpg"
    picture((9, 9, 9)).save(path)
    whole = path.read_bytes()
    path.write_bytes(
        {"truncated": whole[: len(whole) // 2], "text": b"hello", "empty": b""}.get(damage, whole)
    )
    if damage in ("missing", "directory"):
        path.unlink()
    if damage == "directory":
        path.mkdir()
    with pytest.raises(UserError, match=r"cannot decode the image .*x\.jpg: ") as error:
        load_image(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("width", [9500, 15_000])  # Pillow itself refuses the second
def test_an_image_that_would_take_too_much_memory_is_refused_unread(tmp_path: Path, width: int):
    Image.new("1", (width, 9500)).save(tmp_path / "x.png")
    with pytest.raises(UserError, match=r"cannot decode the image .*x\.png: .*pixels"):
        load_image(tmp_path / "x.png")


def test_what_is_no_plain_file_is_named_and_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "gone.jpg").symlink_to("nowhere")
    for name, reason in (("pipe.jpg", "it is no plain file"), ("gone.jpg", "No such file")):
        with pytest.raises(UserError, match=f"cannot decode the image .*{name}: {reason}"):
            load_image(tmp_path / name)


def test_hidden_files_and_other_kinds_are_no_images():
    names = [".a.jpg", "a.txt", "a", "a.JPG", "b.jpeg", "c.webp"]
    assert [name for name in names if is_image_name(name)] == ["a.JPG", "b.jpeg", "c.webp"]


# ---- preprocessing and augmentation


@given(
    width=st.integers(1, 300),
    height=st.integers(1, 300),
    size=st.integers(1, 64),
    resize=st.sampled_from(["stretch", "crop"]),
)
def test_any_image_becomes_the_square(width: int, height: int, size: int, resize: str):
    preprocess = Preprocess(size, resize, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    values = preprocess(Image.new("RGB", (width, height), (255, 0, 51)))
    assert values.shape == (3, size, size) and values.dtype == np.float32
    np.testing.assert_allclose(
        values[:, 0, 0], [(1 - 0.5) / 0.2, (0 - 0.4) / 0.3, (0.2 - 0.3) / 0.4], rtol=1e-5
    )
    assert Preprocess.from_ops(preprocess.to_ops()) == preprocess


def test_crop_takes_the_centre_and_keeps_the_aspect():
    image = Image.new("RGB", (200, 100), "black")
    image.paste("white", (75, 25, 125, 75))  # the centre of the square that is kept
    pixels = Preprocess(56, "crop", (0, 0, 0), (1, 1, 1)).fit(image)
    assert pixels[28, 28].min() == 255 and pixels[0, 0].max() == 0
    rows = (pixels[:, 28, 0] > 127).sum()
    assert rows == (pixels[28, :, 0] > 127).sum() == 32  # 50 of 100 px at a short side of 64


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
def test_preprocessing_that_is_not_ours_is_refused(ops):
    with pytest.raises(UserError, match=r"inference\.yml"):
        Preprocess.from_ops(ops)


def augmented(seed: int, **options) -> np.ndarray:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, [24, 24, 3]).astype("uint8"))
    return np.asarray(Augment(**options)(image, random.Random(seed)))


@pytest.mark.parametrize(
    "options", [{"hflip": 1.0}, {"vflip": 1.0}, {"rotation": 30.0}, {"color_jitter": 0.5}]
)
def test_augmentation_does_what_it_says_and_the_seed_decides(options: dict):
    plain = augmented(0)
    assert np.array_equal(augmented(1), plain)  # all neutral: nothing happens
    changed = augmented(1, **options)
    assert not np.array_equal(changed, plain) and np.array_equal(changed, augmented(1, **options))
    if "hflip" in options:
        assert np.array_equal(changed, plain[:, ::-1])
    elif "vflip" in options:
        assert np.array_equal(changed, plain[::-1])
    else:
        assert not np.array_equal(changed, augmented(2, **options))


def test_random_resized_crop_keeps_the_area_it_is_told():
    image = Image.new("RGB", (100, 80))
    for seed in range(50):
        part = Augment(crop_scale=(0.2, 0.4)).crop(image, random.Random(seed))
        assert 0.17 < part.width * part.height / 8000 < 0.43


# ---- folders and the loader


def test_folder_skips_what_is_hidden_and_sorts(tmp_path: Path):
    make_images(tmp_path, per_class=3)
    (tmp_path / ".git" / "x").mkdir(parents=True)
    (tmp_path / "red" / ".hidden").mkdir()
    for hidden in (".git/x/a.jpg", "red/.hidden/a.jpg", "red/.a.jpg"):
        picture((0, 0, 0)).save(tmp_path / hidden)
    (tmp_path / "red" / "notes.txt").write_text("x")
    folder = ImageFolder(tmp_path, PLAIN)
    assert folder.classes == sorted(COLOURS)
    assert [label for _, label in folder.samples] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [path for path, _ in folder.samples] == sorted(path for path, _ in folder.samples)


def test_links_to_folders_lead_round_in_no_circle(tmp_path: Path):
    make_images(tmp_path, per_class=2)
    for name in ("one", "two"):
        (tmp_path / "red" / name).symlink_to(tmp_path, target_is_directory=True)
    assert len(ImageFolder(tmp_path, PLAIN)) == 6
    (tmp_path / "class by link").symlink_to(
        tmp_path / "blue", target_is_directory=True
    )  # a class folder may be one
    assert ImageFolder(tmp_path, PLAIN).classes == ["blue", "class by link", "green", "red"]


def test_a_class_that_cannot_stand_in_a_list_is_refused(tmp_path: Path):
    make_images(tmp_path, per_class=1)
    for name in (b"two\nlines", b"latin \xe9"):
        folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
        (tmp_path / "red").rename(folder)
        with pytest.raises(
            UserError, match="has a line break or another character that is no text: rename it"
        ):
            ImageFolder(tmp_path, PLAIN)
        folder.rename(tmp_path / "red")
    (tmp_path / "red").rename(tmp_path / "گل‌ها 红色")  # with a joiner that is not printable, and is text
    assert "گل‌ها 红色" in ImageFolder(tmp_path, PLAIN).classes


def test_folder_errors_say_what_is_missing(tmp_path: Path):
    with pytest.raises(
        UserError, match=r"there is no data directory .*none: expected class folders .*tools/split\.py"
    ):
        ImageFolder(tmp_path / "none", PLAIN)
    with pytest.raises(UserError, match="has no class folders"):
        ImageFolder(tmp_path, PLAIN)
    make_images(tmp_path, per_class=1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"the class folder .*empty has no images"):
        ImageFolder(tmp_path, PLAIN)


def test_each_sample_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = ImageFolder(make_images(tmp_path, per_class=2), PLAIN, Augment(rotation=5), cache=1)
    loads = []
    monkeypatch.setattr(dataset_room, "load_image", lambda path: loads.append(path) or load_image(path))
    for _ in range(3):
        for batch, _labels in Loader(folder, 4, shuffle=True):
            assert batch.shape[1:] == [3, 32, 32]
    assert sorted(loads) == [path for path, _ in folder.samples]


def test_the_cache_is_bounded(tmp_path: Path):
    folder = ImageFolder(
        make_images(tmp_path, per_class=2), Preprocess(400, "stretch", (0, 0, 0), (1, 1, 1)), cache=1
    )
    for index in range(len(folder)):
        folder[index]
    assert len(folder._cache) == 2  # 480,000 bytes each in 1 MiB


@pytest.mark.parametrize("workers", [0, 2])
def test_order_and_augmentation_depend_on_seed_epoch_and_image_alone(tmp_path: Path, workers: int):
    make_images(tmp_path, per_class=4)

    def epoch(seed: int, number: int, workers: int) -> np.ndarray:
        loader = Loader(
            ImageFolder(tmp_path, PLAIN, Augment(rotation=20, hflip=0.5), seed),
            5,
            shuffle=True,
            seed=seed,
            workers=workers,
        )
        loader.set_epoch(number)
        return np.concatenate([images.numpy() for images, _ in loader])

    first = epoch(1, 0, workers)
    assert len(first) == 12
    assert np.array_equal(first, epoch(1, 0, 0))
    assert not np.array_equal(first, epoch(1, 1, workers)) and not np.array_equal(first, epoch(2, 0, workers))


def test_any_other_failure_is_an_error_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = ImageFolder(make_images(tmp_path, per_class=2), PLAIN)
    fails = [True, True]

    def out_of_memory(path):
        if fails.pop():
            raise MemoryError
        return picture((0, 0, 0))

    monkeypatch.setattr(dataset_room, "load_image", out_of_memory)
    monkeypatch.setattr(folder, "samples", folder.samples[:1])
    with pytest.raises(UserError, match=r"image_00\.jpg cannot be used: MemoryError"):
        list(Loader(folder, 1))
    fails[:] = [False, True]
    with pytest.raises(UserError, match="could not be read for a moment"):
        list(Loader(folder, 1))


def test_a_random_crop_is_not_cropped_again(tmp_path: Path):
    """A white frame around black is seen whole when the crop keeps all of the area."""
    (tmp_path / "a").mkdir()
    image = Image.new("RGB", (60, 60), "white")
    image.paste("black", (2, 2, 58, 58))
    image.save(tmp_path / "a" / "x.png")
    folder = ImageFolder(
        tmp_path, Preprocess(30, "crop", (0, 0, 0), (1, 1, 1)), Augment(crop_scale=(1.0, 1.0))
    )
    assert folder.load(0)[0, 0, 15] > 0.3


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_file_is_an_error_that_names_it_not_a_hang(tmp_path: Path, workers: int):
    make_images(tmp_path, per_class=3)
    (tmp_path / "red" / "image_01.jpg").write_bytes(b"broken")
    code = (
        "from paddle_attn.cli import prepare_paddle; prepare_paddle()\n"
        "from paddle_attn.data.dataset import ImageFolder, Loader\n"
        "from paddle_attn.data.transforms import Preprocess\n"
        "from paddle_attn.errors import UserError\n"
        "PLAIN = Preprocess(8, 'stretch', (0, 0, 0), (1, 1, 1))\n"
        f"loader = Loader(ImageFolder({str(tmp_path)!r}, PLAIN), 4, workers={workers})\n"
        "try:\n    list(loader)\nexcept UserError as error:\n    print(error)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "tests", capture_output=True, text=True, timeout=60
    )
    assert "cannot decode the image" in result.stdout and "image_01.jpg" in result.stdout, result.stderr


# ---- the drawn images


def test_drawn_images_are_the_same_each_time_and_not_told_by_their_average(tmp_path: Path):
    write_synthetic(tmp_path / "a", per_class=60)
    write_synthetic(tmp_path / "b", per_class=2)
    assert len(CLASSES) == 16
    thumbnails, labels = [], []
    for label, name in enumerate(sorted(CLASSES)):
        files = sorted((tmp_path / "a" / name).iterdir())
        assert len(files) == 60
        for index in (0, 1):
            assert files[index].read_bytes() == (tmp_path / "b" / name / files[index].name).read_bytes()
        for file in files:
            thumbnails.append(
                np.asarray(load_image(file).resize((16, 16), Image.Resampling.BILINEAR), "float32").ravel()
            )
            labels.append(label)
    x, y = np.stack(thumbnails), np.array(labels)
    held_out = np.arange(len(y)) % 5 == 0
    centroids = np.stack([x[(y == label) & ~held_out].mean(0) for label in range(16)])
    nearest = ((x[held_out][:, None] - centroids) ** 2).sum(2).argmin(1)
    assert (nearest == y[held_out]).mean() <= 0.6


# ---- CIFAR, from a drawn stand-in for its archive


@pytest.mark.parametrize(("dataset", "train", "classes"), [("cifar10", 100, 10), ("cifar100", 20, 100)])
def test_cifar_is_read_as_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dataset: str, train: int, classes: int
):
    from paddle_attn.data.cifar import CifarImages

    write_cifar(tmp_path, monkeypatch, dataset)
    images = CifarImages(dataset, tmp_path, "train", PLAIN)
    assert (
        len(images) == train
        and len(CifarImages(dataset, tmp_path, "eval", PLAIN)) == 20
        and len(images.classes) == classes
    )
    labels = np.concatenate([label.numpy() for _, label in Loader(images, 16)])
    assert labels.tolist() == [index % 10 for index in range(20)] * (train // 20)
    assert (
        images.image(9).size == (32, 32)
        and np.asarray(images.image(9)).mean() > np.asarray(images.image(0)).mean() + 100
    )


def test_another_archive_in_cifars_place_is_not_opened(tmp_path: Path):
    from paddle_attn.data.cifar import CifarImages

    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"a pickle that does something")
    with pytest.raises(UserError, match=r"is not the official archive: MD5 \w+ expected, \w+ found"):
        CifarImages("cifar10", tmp_path, "train", PLAIN)


def test_pad_crop_moves_the_image_by_at_most_the_padding():
    image = Image.new("RGB", (32, 32), "black")
    image.paste("white", (16, 16, 17, 17))
    found = {
        tuple(np.argwhere(np.asarray(Augment(pad_crop=4)(image, random.Random(seed)))[..., 0])[0])
        for seed in range(400)
    }
    rows, columns = zip(*found, strict=True)
    assert (min(rows), max(rows), min(columns), max(columns)) == (12, 20, 12, 20)


# ---- mixing batches


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([(0.4, 0.0), (0.0, 1.0), (0.4, 1.0)]))
def test_a_mixed_image_is_made_of_its_two_in_the_parts_that_the_labels_have(
    seed: int, parameters: tuple[float, float]
):
    images = paddle.to_tensor(np.float32([1, 2, 3]).reshape(3, 1, 1, 1) * np.ones([3, 3, 8, 6], "float32"))
    labels = paddle.to_tensor([0, 1, 2])
    mixed, first, others, part = Mix(*parameters)(images, labels, np.random.default_rng(seed))
    assert first.tolist() == [0, 1, 2] and others.tolist() == [2, 1, 0]
    assert len(set(part.tolist())) == 1 and 0 <= part[0] <= 1
    expected = part[0] * images + (1 - part[0]) * images.flip([0])
    np.testing.assert_allclose(mixed.mean([1, 2, 3]).numpy(), expected.mean([1, 2, 3]).numpy(), rtol=1e-5)
    if not parameters[0]:  # pasted: every pixel is one of the two
        assert set(mixed[0].flatten().tolist()) <= {1.0, 3.0}


def test_a_batch_is_mixed_the_same_way_each_time_and_differently_from_the_next():
    images, labels = paddle.randn([4, 3, 8, 8]), paddle.to_tensor([0, 1, 2, 3])
    mixed = [Mix(0.4)(images, labels, np.random.default_rng([0, epoch, 0]))[0].numpy() for epoch in (1, 1, 2)]
    np.testing.assert_array_equal(mixed[0], mixed[1])
    assert not np.array_equal(mixed[0], mixed[2])
