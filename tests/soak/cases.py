"""The cases of hostile.py. Each generator writes one file after the other and yields what it is and its path.

The random state determines every case.
"""

from __future__ import annotations

import copy
import gzip
import io
import os
import pickle
import random
import shutil
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

Case = tuple[str, Path]
ROOT = Path(__file__).resolve().parent.parent.parent
EXECUTED = "executed"  # a file of this name appears where code of a case was executed


def pick(names: Iterable[str], index: int, rng: random.Random, weights: list[float] | None = None) -> str:
    """Each name once, in order, then random ones."""
    names = list(names)
    if index < len(names):
        return names[index]
    return rng.choices(names, weights)[0] if weights else rng.choice(names)


def power_of_ten(rng: random.Random, low: float, high: float) -> int:
    """A random whole number between 10^low and 10^high, each order of magnitude as often."""
    return int(10 ** rng.uniform(low, high))


# ---- damage to any file


def truncated(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content))]


def flipped(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 3, 30, 300))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def head_flipped(content: bytes, rng: random.Random) -> bytes:
    return flipped(content[:64], rng) + content[64:]


def noise(content: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(content))
    length = min(len(content) - start, rng.randrange(1, 2000))
    return content[:start] + rng.randbytes(length) + content[start + length :]


def zeros(content: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(content))
    return content[:start] + bytes(len(content) - start)


def empty(content: bytes, rng: random.Random) -> bytes:
    return b""


def text_file(content: bytes, rng: random.Random) -> bytes:
    return rng.choice(
        (
            b"<html><body>404 Not Found</body></html>",
            b"a,b\n1,2\n",
            "图片".encode() * 100,
            b"version https://git-lfs.github.com/spec/v1\n",
        )
    )


def repeated(content: bytes, rng: random.Random) -> bytes:
    start, end = sorted(rng.randrange(len(content)) for _ in range(2))
    return content[:end] + content[start:]


DAMAGE: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "truncated": truncated,
    "bits flipped": flipped,
    "header bits flipped": head_flipped,
    "random bytes inside": noise,
    "zeros to the end": zeros,
    "empty": empty,
    "a text file": text_file,
    "a part repeated": repeated,
}


# ---- images

SUFFIX = {
    "JPEG": ".jpg",
    "PNG": ".png",
    "BMP": ".bmp",
    "WEBP": ".webp",
    "TIFF": ".tif",
    "GIF": ".gif",
    "PPM": ".ppm",
}


def picture(rng: random.Random, width: int = 0, height: int = 0, mode: str = "RGB") -> Image.Image:
    width, height = width or rng.randrange(8, 96), height or rng.randrange(8, 96)
    small = np.frombuffer(rng.randbytes(5 * 5 * 3), "uint8").reshape(5, 5, 3)
    return Image.fromarray(small).resize((width, height)).convert(mode)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def damaged_image(damage: str) -> Callable[[Path, random.Random], Path]:
    def make(stem: Path, rng: random.Random) -> Path:
        kind = rng.choice(list(SUFFIX))
        path = stem.with_suffix(SUFFIX[kind])
        path.write_bytes(DAMAGE[damage](encoded(picture(rng), kind), rng))
        return path

    return make


def saved(
    kind: str, image: Callable[[random.Random], Image.Image], **options: object
) -> Callable[[Path, random.Random], Path]:
    def make(stem: Path, rng: random.Random) -> Path:
        path = stem.with_suffix(SUFFIX[kind])
        path.write_bytes(encoded(image(rng), kind, **options))
        return path

    return make


def wrong_suffix(stem: Path, rng: random.Random) -> Path:
    path = stem.with_suffix(rng.choice([".jpg", ".JPEG", ".png", ".gif"]))
    path.write_bytes(encoded(picture(rng), rng.choice(list(SUFFIX))))
    return path


def spliced_image(stem: Path, rng: random.Random) -> Path:
    one, two = (encoded(picture(rng), rng.choice(list(SUFFIX))) for _ in range(2))
    path = stem.with_suffix(".jpg")
    path.write_bytes(one[: rng.randrange(len(one))] + two[rng.randrange(len(two)) :])
    return path


def bomb_image(stem: Path, rng: random.Random) -> Path:
    """A small file that declares a huge image, or unpacks to one."""
    side = rng.choice((9500, 20_000, 60_000, 2**31 - 1))
    if rng.random() < 0.3:
        head = b"BM" + struct.pack("<IHHIIiiHHIIiiII", 200, 0, 0, 54, 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0)
        path = stem.with_suffix(".bmp")
        path.write_bytes(head + bytes(100))
        return path

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    path = stem.with_suffix(".png")
    body = zlib.compress(bytes(1 << 22))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    text = chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(1 << 27))) if rng.random() < 0.3 else b""
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + text + chunk(b"IDAT", body) + chunk(b"IEND", b""))
    return path


def strip(stem: Path, rng: random.Random) -> Path:
    """A few pixels wide and up to 300,000 long, or the reverse."""
    sides = [power_of_ten(rng, 0, 1), power_of_ten(rng, 3, 5.5)]
    rng.shuffle(sides)
    path = stem.with_suffix(".png")
    Image.new(rng.choice(("RGB", "L", "P", "1")), sides, 1).save(path)
    return path


def large_image(stem: Path, rng: random.Random) -> Path:
    path = stem.with_suffix(".png")
    width, height, mode = rng.choice(
        ((9400, 9400, "L"), (9400, 9400, "1"), (12_000, 7000, "RGB"), (9000, 9000, "P"))
    )
    Image.new(mode, (width, height), 1).save(path, compress_level=1)
    return path


def animated(stem: Path, rng: random.Random) -> Path:
    kind = rng.choice(("GIF", "WEBP", "PNG", "TIFF"))
    path = stem.with_suffix(SUFFIX[kind])
    first, *rest = (picture(rng, 40, 30) for _ in range(4))
    first.save(path, kind, save_all=True, append_images=rest)
    return path


def rotated_by_exif(stem: Path, rng: random.Random) -> Path:
    exif = Image.Exif()
    exif[0x0112] = rng.choice((*range(9), 77, 65_535))
    content = exif.tobytes()
    if rng.random() < 0.4:
        content = content[:6] + flipped(content[6:], rng)
    path = stem.with_suffix(".jpg")
    path.write_bytes(encoded(picture(rng), "JPEG", exif=content))
    return path


def other_mode(stem: Path, rng: random.Random) -> Path:
    kind, mode = rng.choice(
        (
            ("JPEG", "CMYK"),
            ("TIFF", "CMYK"),
            ("PNG", "P"),
            ("PNG", "LA"),
            ("PNG", "RGBA"),
            ("PNG", "1"),
            ("TIFF", "LAB"),
            ("JPEG", "L"),
        )
    )
    path = stem.with_suffix(SUFFIX[kind])
    if mode == "LAB":
        image = Image.new("LAB", (20, 20))
    else:
        image = picture(rng, mode="L" if mode == "LA" else "RGB").convert(mode)
    path.write_bytes(encoded(image, kind))
    return path


def deep(stem: Path, rng: random.Random) -> Path:
    kind, dtype = rng.choice((("PNG", "uint16"), ("TIFF", "uint16"), ("TIFF", "int32"), ("TIFF", "float32")))
    path = stem.with_suffix(SUFFIX[kind])
    values = np.frombuffer(rng.randbytes(20 * 30 * np.dtype(dtype).itemsize), dtype).reshape(20, 30)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        Image.fromarray(values).save(path)
    return path


def special_file(stem: Path, rng: random.Random) -> Path:
    """Not a regular file: a pipe, or a link to nothing, to a device, to a file elsewhere, to itself."""
    path = stem.with_suffix(".jpg")
    kind = rng.choice(("pipe", "nothing", "device", "elsewhere", "itself"))
    if kind == "pipe":
        os.mkfifo(path)
    else:
        outside = stem.parent.parent.parent / "outside.png"
        if not outside.exists():
            picture(rng).save(outside)
        path.symlink_to(
            {"nothing": "gone.jpg", "device": "/dev/zero", "elsewhere": outside, "itself": path.name}[kind]
        )
    return path


IMAGES: dict[str, tuple[float, Callable[[Path, random.Random], Path]]] = {  # weight, and what writes one
    **{name: (8, damaged_image(name)) for name in DAMAGE if name != "empty"},
    "empty": (1, damaged_image("empty")),
    "two files spliced": (6, spliced_image),
    "wrong suffix": (4, wrong_suffix),
    "decompression bomb": (3, bomb_image),
    "largest accepted size": (0.3, large_image),
    "1×1": (1, saved("PNG", lambda rng: picture(rng, 1, 1))),
    "long strips": (2, strip),
    "16 bits and more": (3, deep),
    "CMYK, palettes, alpha, LAB": (4, other_mode),
    "animated": (3, animated),
    "rotated by EXIF": (4, rotated_by_exif),
    "pipes, links, devices": (2, special_file),
}


def images(folder: Path, count: int, rng: random.Random) -> Iterator[Case]:
    weights = [weight for weight, _ in IMAGES.values()]
    for index in range(count):
        what = pick(IMAGES, index, rng, weights)
        classes = folder / "images" / f"class_{index % 7}"
        classes.mkdir(parents=True, exist_ok=True)
        name = rng.choice(("图片", "a b", "name", "ñ", "x" * 180, "UPPER", "upper", "%s{}", "-rf"))
        yield what, IMAGES[what][1](classes / f"{name}_{index:04d}", rng)


# ---- weights, checkpoints, exported models


class Hostile:
    """Creates a file when Python's own unpickler reads it."""

    def __init__(self, function: Callable, *arguments: object):
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


def hostile_pickle(content: bytes, rng: random.Random) -> bytes:
    marker = EXECUTED
    call = rng.choice(
        (
            Hostile(os.system, f"touch {marker}"),
            Hostile(eval, f"open({marker!r}, 'w')"),
            Hostile(exec, f"open({marker!r}, 'w')"),
            Hostile(open, marker, "w"),
            Hostile(os.mkdir, marker),
            Hostile(getattr, Hostile(__import__, "os"), "system"),
        )
    )
    tree = rng.choice(
        (
            call,
            {"weight": call},
            {"weight": np.zeros(3), "other": [{"deep": (call,)}]},
            {call.call[0].__name__: [call] * 3},
        )
    )
    hostile = pickle.dumps(tree, protocol=rng.choice((0, 2, 4)))
    return rng.choice((hostile, content[: rng.randrange(len(content))] + hostile, hostile + content))


def huge_length(content: bytes, rng: random.Random) -> bytes:
    """A length field declares far more bytes than the file has."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2))):
        start = rng.randrange(max(1, min(len(changed) - 8, 4096)))
        changed[start : start + 8] = struct.pack("<Q", rng.choice((2**31 - 1, 2**32 - 1, 2**40, 2**63 - 1)))
    return bytes(changed)


def multiplying_pickle(rng: random.Random) -> bytes:
    """A pickle of raw instructions that repeats or nests a value a random number of times."""

    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    size = power_of_ten
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\1b\x87R"
    dtype = b"cnumpy\ndtype\n"
    one_byte = dtype + text("u1") + b"K\0K\1\x87R"
    ordered_dict = b"ccollections\nOrderedDict\n"
    doubled = b")q\0" + b"".join(b"h%c\x86q%c" % (level, level + 1) for level in range(size(rng, 0, 2.3)))
    wrapped = b")" + b"\x85" * size(rng, 1, 6.3)
    items = (text("a") + b"N\x86") * size(rng, 1, 4.5)
    length, count = size(rng, 2, 6.3), size(rng, 1, 3.5)
    shared = array + b"(K\1J" + struct.pack("<i", length) + b"\x85" + one_byte + b"\x89h\1tb"
    number = rng.choice((1, 2**17, 2**31, 2**61 - 1))
    body = rng.choice(
        (
            b"}" + rng.choice((doubled, wrapped)) + b"K\1s",
            ordered_dict + b"]](" + rng.choice((doubled, wrapped)) + b"K\1ea\x85R",
            dtype + rng.choice((doubled, wrapped)) + b"K\0K\1\x87R",
            array + b"(K\1" + rng.choice((doubled, wrapped)) + one_byte + b"\x89U\0tb",
            b"(" + text("storage") + b"ctorch\nFloatStorage\n" + doubled + text("cpu") + b"K\x0ctQ",
            b"]" * length + b"a" * (length - 1),
            b"](" + text("A" * length) + b"q\1" + shared * count + b"e",
            b"](" + text("A" * length) + b"q\1" + (b"c_codecs\nencode\nh\1U\6latin1\x86R") * count + b"e",
            b"](](" + items + b"eq\1" + (ordered_dict + b"h\1\x85R") * count + b"e",
            b"}" + text("a" * length) + array + b"s",
            dtype + text("f" * length) + b"K\0K\1\x87R",
            text("m" * length) + text("n" * length) + b"\x93",
            b"}"
            + b"".join(
                b"\x8a\x0c" + (key * number).to_bytes(12, "little") + b"Ns" for key in range(length // 20)
            ),
        )
    )
    return b"\x80\2" + body + b"."


def multiplying(path: Path, content: bytes, rng: random.Random) -> None:
    """Write a multiplying pickle as Paddle stores it, or PyTorch."""
    pickled = multiplying_pickle(rng)
    if path.suffix == ".pdparams":
        path.write_bytes(pickled)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x/data.pkl", pickled)
            archive.writestr("x/data/0", bytes(48))


def not_a_file(path: Path, content: bytes, rng: random.Random) -> None:
    """A pipe that nobody writes to, or a link to an endless device, to nothing or to itself."""
    target = rng.choice((None, "/dev/zero", "/dev/random", "gone", path.name))
    if target is None:
        os.mkfifo(path)
    else:
        path.symlink_to(target)


def places(tree: dict | list) -> Iterator[tuple[dict | list, str | int]]:
    """The container and the key of each value at any depth."""
    for key in tree if isinstance(tree, dict) else range(len(tree)):
        yield tree, key
        if isinstance(tree[key], (dict, list)):
            yield from places(tree[key])


def odd_description(path: Path, content: bytes, rng: random.Random) -> None:
    """An `inference.yml` with a value replaced or removed, or with endless nesting."""
    import yaml

    tree = yaml.safe_load(content)
    for _ in range(rng.choice((1, 1, 2, 3))):
        parent, key = rng.choice(list(places(tree)))
        if rng.random() < 0.2:
            del parent[key]
        else:
            parent[key] = copy.deepcopy(rng.choice(ODD_DESCRIPTIONS))
    depth = power_of_ten(rng, 1, 5)
    laughs = "".join(
        f"a{level}: &a{level} [*a{level - 1}, *a{level - 1}]\n" for level in range(1, depth % 64)
    )
    whole = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    path.write_text(
        rng.choice(
            (
                *[whole] * 6,
                "[" * depth,
                "[" * depth + "]" * depth,
                "- " * depth,
                "a: &a [*a]",
                whole.replace("PostProcess:", f"deep: {'[' * depth}{']' * depth}\nPostProcess:"),
                f"a0: &a0 x\n{laughs}{whole}",
            )
        ),
        encoding="utf-8",
    )


ODD_DESCRIPTIONS = (
    *([], {}, [[]], [None], {"a": {}}, None, True, "", "x", "x" * 100_000, "\x1b[2J", "../../x", "/dev/zero"),
    *(0, 1, -5, 0.5, 10**9, 2**31, 2**63, 10**400, 1e9, 1e308, float("inf"), float("-inf"), float("nan")),
    *(
        [0, 0, 0],
        [0.5] * 2,
        [float("nan")] * 3,
        [1e-300] * 3,
        ["a"],
        ["a", "a", "a"],
        list(range(3)),
        ["a"] * 5000,
    ),
)


def damaged(make: Callable[[bytes, random.Random], bytes]) -> Callable[[Path, bytes, random.Random], None]:
    return lambda path, content, rng: path.write_bytes(make(content, rng))


EXPORTED = ""  # the suffix of a folder
WEIGHTS: dict[str, tuple[Iterable[str], Callable[[Path, bytes, random.Random], None]]] = {
    **{
        name: ((".pdparams", ".safetensors", ".pdstate", ".pth", EXPORTED), damaged(make))
        for name, make in (
            *DAMAGE.items(),
            ("malicious pickle", hostile_pickle),
            ("huge length field", huge_length),
        )
    },
    "multiplying pickle": ((".pdparams", ".pth"), multiplying),
    "pipe, link, device": ((".pdparams", ".safetensors", ".pdstate", ".pth", EXPORTED), not_a_file),
    "malformed inference.yml": ((EXPORTED,), odd_description),
}


def weights(folder: Path, count: int, rng: random.Random) -> Iterator[Case]:
    import paddle
    from paddle import nn

    from paddle_attn import create_model
    from paddle_attn.data.transforms import Preprocess
    from paddle_attn.deploy.export import export_model
    from paddle_attn.train.checkpoint import write_checkpoint
    from paddle_attn.weights import save_weights

    net = nn.Sequential(nn.Conv2D(3, 8, 3), nn.BatchNorm2D(8), nn.Linear(8, 4))
    for suffix in (".pdparams", ".safetensors"):
        save_weights(net, folder / f"intact{suffix}")
    write_checkpoint({"network": net.state_dict(), "history": [{"epoch": 1}]}, folder / "intact.pdstate")
    intact = {path.suffix: path.read_bytes() for path in sorted(folder.glob("intact.*"))}
    intact[".pth"] = torch_file()
    small = create_model("mobilenet_v2", "simam", num_classes=3)
    preprocess, samples = (
        Preprocess(32, "stretch", (0.5,) * 3, (0.5,) * 3),
        np.zeros([1, 3, 32, 32], "float32"),
    )
    export_model(small, folder / "exported", preprocess, ["a", "b", "c"], samples)
    exported = {path.name: path.read_bytes() for path in (folder / "exported").iterdir()}
    paddle.seed(0)
    for index in range(count):
        what = pick(WEIGHTS, index, rng)
        kinds, write = WEIGHTS[what]
        kind = rng.choice([kind for kind in (*intact, *intact, EXPORTED) if kind in kinds])
        case = folder / f"case_{index}{kind}"
        if kind == EXPORTED:
            case.mkdir()
            harmed = "inference.yml" if kinds == (EXPORTED,) else rng.choice(list(exported))
            for name in exported.keys() - {harmed}:
                (case / name).write_bytes(exported[name])
            write(case / harmed, exported[harmed], rng)
        else:
            write(case, intact[kind], rng)
        yield what, case
        if kind == EXPORTED:
            shutil.rmtree(case)
        else:
            case.unlink()


def torch_file() -> bytes:
    """What torch.save writes for {'weight': a tensor}, written without PyTorch."""

    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x0ctQ"
    tensor = (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + b"K\x00K\x03K\x04\x86K\x04K\x01\x86\x89ccollections\nOrderedDict\n)RtR"
    )
    tree = b"\x80\x02}" + text("weight") + tensor + b"s."
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x/data.pkl", tree)
        archive.writestr("x/byteorder", "little")
        archive.writestr("x/data/0", np.arange(12, dtype="<f4").tobytes())
    return buffer.getvalue()


# ---- libraries of compiled operators


def other_content(path: Path, content: bytes, rng: random.Random) -> None:
    path.write_bytes(rng.randbytes(power_of_ten(rng, 0, 6)))


def intact_library(path: Path, content: bytes, rng: random.Random) -> None:
    path.write_bytes(content)
    path.chmod(0o700)


def writable_by_others(path: Path, content: bytes, rng: random.Random) -> None:
    path.write_bytes(content)
    changed = rng.choice((path, path.parent))
    changed.chmod(rng.choice((0o777, 0o722, 0o720)))


LIBRARIES: dict[str, Callable[[Path, bytes, random.Random], None]] = {
    "intact": intact_library,
    "pipe, link, device": not_a_file,
    "random bytes": other_content,
    "writable by others": writable_by_others,
    **{name: damaged(make) for name, make in DAMAGE.items()},
}


def libraries(folder: Path, count: int, rng: random.Random) -> Iterator[Case]:
    """Caches of compiled operators. Without a compiler there is none, and no case."""
    from paddle_attn import ops
    from paddle_attn.ops.build import cache_folder

    if not ops.available("simam"):
        return
    # libraries for other versions and flags can be among them
    intact = {path.name: path.read_bytes() for path in cache_folder().glob("simam-*.so")}
    for index in range(count):
        what = pick(LIBRARIES, index, rng)
        case = folder / f"case_{index}"
        case.mkdir(mode=0o700)
        for name, content in intact.items():
            LIBRARIES[what](case / name, content, rng)
        yield what, case
        shutil.rmtree(case)


# ---- archives

ARCHIVES = (".zip", ".tar.gz", ".tar", ".tgz")


def packed(members: list[tuple[str, bytes]], suffix: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    if suffix == ".zip":
        with (
            warnings.catch_warnings(),
            zipfile.ZipFile(buffer, "w", options.get("compression", zipfile.ZIP_DEFLATED)) as archive,
        ):
            warnings.simplefilter("ignore")  # a duplicate name
            for name, content in members:
                archive.writestr(name, content)
    else:
        with tarfile.open(fileobj=buffer, mode="w:gz" if suffix != ".tar" else "w") as archive:
            for name, content in members:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def linked(members: list[tuple[str, bytes]], suffix: str, rng: random.Random) -> bytes:
    target = rng.choice(("/etc/passwd", "../../../outside.png", "..", "nowhere"))
    buffer = io.BytesIO()
    if suffix == ".zip":
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, content in members:
                archive.writestr(name, content)
            info = zipfile.ZipInfo("a/link.png")
            info.external_attr = 0o120777 << 16
            archive.writestr(info, target)
    else:
        with tarfile.open(fileobj=buffer, mode="w:gz" if suffix != ".tar" else "w") as archive:
            info = tarfile.TarInfo("a/link.png")
            info.type = rng.choice(
                (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.BLKTYPE)
            )
            info.linkname = target
            archive.addfile(info)
            for name, content in members:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def long_name(suffix: str) -> bytes:
    """A tar whose header declares a file name of hundreds of megabytes."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 300 << 20
    content = info.tobuf(tarfile.GNU_FORMAT) + bytes(300 << 20)
    return content if suffix == ".tar" else gzip.compress(content, 1)


ODD_NAMES = (
    "Ä",
    "é",
    " ",
    ".hidden",
    "con",
    "x" * 300,
    "new\nline",
    "a\u202e",
    "A",
    "-rf",
    "%s",
    "train",
    "__MACOSX",
)


def archives(folder: Path, count: int, rng: random.Random) -> Iterator[Case]:
    from paddle_attn.data.prepare.split import make_split

    members = [
        (f"photos/{name}/{index}.png", encoded(picture(rng, 40, 40), "PNG"))
        for name in ("a", "b c", "猫")
        for index in range(4)
    ]
    first = folder / "first.zip"
    first.write_bytes(packed(members, ".zip"))
    make_split(str(first), folder / "split")
    first.unlink()
    climbing = (
        "../outside.png",
        "../../outside.png",
        f"{folder.parent}/outside.png",
        "a/../../outside.png",
        "..\\outside.png",
        "C:\\outside.png",
        "a/./../../x.png",
    )
    sorts: dict[str, Callable[[str], bytes]] = {
        **{
            name: lambda suffix, make=make: make(packed(members, suffix), rng)
            for name, make in DAMAGE.items()
        },
        "valid": lambda suffix: packed(members, suffix),
        "path traversal": lambda suffix: packed([(rng.choice(climbing), members[0][1]), *members], suffix),
        "link or device": lambda suffix: linked(members, suffix, rng),
        "decompression bomb": lambda suffix: packed(
            [*members, (f"photos/a/{rng.choice(('big.png', '__MACOSX/big', 'big.txt'))}", bytes(200 << 20))],
            suffix if suffix != ".tar" else ".tgz",
        ),
        "name of 300 MB": lambda suffix: long_name(".tgz"),
        "20,000 files": lambda suffix: packed(
            [(f"photos/a/{index}.png", b"") for index in range(20_000)], ".tgz"
        ),
        "duplicate name": lambda suffix: packed([*members, members[0]], suffix),
        "unusual names": lambda suffix: packed(
            [
                (f"photos/{name}/{index}.png", members[index][1])
                for name in rng.sample(ODD_NAMES, 2)
                for index in range(3)
            ]
            + members,
            suffix,
        ),
        "deeply nested": lambda suffix: packed(
            [("d/" * rng.choice((3, 50, 400)) + name, content) for name, content in members], suffix
        ),
        "wrong suffix": lambda suffix: packed(members, rng.choice(ARCHIVES)),
        "no class folders": lambda suffix: packed(
            [(name.rpartition("/")[2], content) for name, content in members], suffix
        ),
        "too few images": lambda suffix: packed(members[: rng.choice((1, 2, 4))], suffix),
        "folder and file of one name": lambda suffix: packed(
            [*members, ("photos/a", b"x"), ("photos/a/0.png/x.png", b"y")], suffix
        ),
    }
    heavy = {"decompression bomb", "name of 300 MB", "20,000 files"}
    weights = [0.2 if name in heavy else 1 for name in sorts]
    for index in range(count):
        what = pick(sorts, index, rng, weights)
        suffix = ".tgz" if what in heavy else rng.choice(ARCHIVES)
        path = folder / f"case_{index}{suffix}"
        path.write_bytes(sorts[what](suffix))
        yield what, path
        path.unlink()


# ---- configs

PLAIN_VALUES = """
[] | {} | null | ~ | true | no | -1 | 0 | 1e99 | -.inf | .nan | 1e-400 | '' | '../../x'
[[[[]]]] | {a: {b: c}} | 1_000 | 12:30:45 | "\\ud800"
!!python/object/apply:os.system ['touch executed'] | !!python/name:os.system
!!binary aGk= | !!set {a, b} | 2026-11-20 | *unknown | @ | ` | ? a
0x7fffffffffffffff | simam | resnet50 | towernet | [0.1, 0.2, 0.3]
"""
ODD_VALUES = [
    *PLAIN_VALUES.strip().replace("\n", " | ").split(" | "),
    "1" * 400,
    "1" * 5000,
    "0x" + "f" * 5000,
    "'" + "x" * 100_000 + "'",
    "[" * 3000,
    "\t",
]


def odd_value(text: str, rng: random.Random) -> str:
    lines = text.splitlines()
    for _ in range(rng.choice((1, 1, 2, 5))):
        index = rng.randrange(len(lines))
        key, colon, _ = lines[index].partition(": ")
        value = rng.choice(ODD_VALUES)
        lines[index] = f"{key}: {value}" if colon else f"{lines[index]}\n  {value}"
    return "\n".join(lines)


def misspelled_key(text: str, rng: random.Random) -> str:
    lines = text.splitlines()
    index = rng.randrange(len(lines))
    return "\n".join(
        [*lines[:index], lines[index].replace("e", rng.choice("axE ")).replace("a", "b"), *lines[index + 1 :]]
    )


def odd_option(text: str, rng: random.Random) -> str:
    """An existing option of any section with a value that most options reject."""
    from dataclasses import asdict

    from paddle_attn.config import Config

    section, options = rng.choice(list(asdict(Config()).items()))
    return f"{section}:\n  {rng.choice(list(options))}: {rng.choice(ODD_VALUES)}\n"


def nested_aliases(text: str, rng: random.Random) -> str:
    """Aliases of aliases: a few lines that expand to billions of values."""
    lines = ["a: &a [lol, lol]"] + [
        f"{chr(98 + level)}: &{chr(98 + level)} [*{chr(97 + level)}, *{chr(97 + level)}, *{chr(97 + level)}]"
        for level in range(24)
    ]
    return rng.choice(
        (
            "\n".join(lines),
            "model:\n  attn_kwargs:\n" + "\n".join(f"    {line}" for line in lines),
            "\n".join([*lines, "model: *y"]),
        )
    )


def any_bytes(make: Callable[[bytes, random.Random], bytes]) -> Callable[[str, random.Random], bytes]:
    return lambda text, rng: make(text.encode(), rng)


CONFIGS: dict[str, Callable[[str, random.Random], str | bytes]] = {
    **{name: any_bytes(make) for name, make in DAMAGE.items()},
    "odd value": odd_value,
    "option with an odd value": odd_option,
    "misspelled key": misspelled_key,
    "nested aliases": nested_aliases,
    "many keys": lambda text, rng: "".join(f"key{index}: {index}\n" for index in range(20_000)) + text,
    "random bytes": lambda text, rng: rng.randbytes(rng.randrange(1, 3000)),
}


def configs(folder: Path, count: int, rng: random.Random) -> Iterator[Case]:
    from paddle_attn.config import dump_config, load_config

    files = [
        path
        for path in sorted((ROOT / "configs").glob("*.yaml"))
        if path.stem.startswith(("towernet", "mobilenet", "demo"))
    ]
    texts = [
        text for path in files for text in (path.read_text(encoding="utf-8"), dump_config(load_config(path)))
    ]
    for index in range(count):
        what = pick(CONFIGS, index, rng)
        changed = CONFIGS[what](rng.choice(texts), rng)
        path = folder / "case.yaml"
        path.write_bytes(changed if isinstance(changed, bytes) else changed.encode("utf-8", "surrogatepass"))
        yield what, path
