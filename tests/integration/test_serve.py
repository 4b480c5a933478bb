"""The page and the HTTP API of `paddle-attn serve`, as a browser and a program meet them."""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import paddle
import pytest
from helpers import COLOURS, HANG, ROOT, assert_one_sentence, paddle_attn, picture, wait_until
from PIL import Image

import paddle_attn as package
from paddle_attn.builders import make_preprocess
from paddle_attn.config import load_config
from paddle_attn.deploy import Predictor, export_model
from paddle_attn.errors import UserError
from paddle_attn.serve import gradio_in_a_private_folder, listen, load_served
from paddle_attn.serve.desk import Desk
from paddle_attn.serve.texts import TEXTS, Refused, language_of
from paddle_attn.serve.uploads import Uploads

QUEUE = 50
MAX_MB = 1


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two exports, of SimAM and of SE, with the weights that they were made from, and pictures."""
    folder = tmp_path_factory.mktemp("serve")
    for seed, attn in enumerate(("simam", "se")):
        run = folder / f"run_{attn}"
        run.mkdir()
        (run / "config.yaml").write_text(
            f"model: {{name: cifar_resnet20, attn: {attn}}}\ntrain: {{output: {run}}}\n"
        )
        config = load_config(run / "config.yaml")
        paddle.seed(seed)
        net = package.create_model("cifar_resnet20", attn, num_classes=3)
        net.eval()
        package.save_weights(net, run / "best.pdparams")
        (run / "classes.txt").write_text("".join(f"{name}\n" for name in COLOURS))
        preprocess = make_preprocess(config)
        sample = np.zeros([1, 3, preprocess.size, preprocess.size], "float32")
        export_model(net, folder / attn, preprocess, list(COLOURS), sample)
    for seed, (name, colour) in enumerate(COLOURS.items()):
        (folder / "pictures" / name).mkdir(parents=True)
        picture(colour, side=60, seed=seed).save(folder / "pictures" / name / "a.png")
    return folder


@dataclass(frozen=True)
class Server:
    """A running `paddle-attn serve`."""

    process: subprocess.Popen
    url: str
    temporary: Path  # its folder for temporary files

    def request(
        self, path: str, content: bytes | None = None, method: str | None = None, **headers: str
    ) -> tuple[int, bytes, dict[str, str]]:
        """Status, body and headers of an answer."""
        method = method or ("GET" if content is None else "POST")
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=HANG)
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, content, names)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, body, {name.lower(): value for name, value in answer.getheaders()}

    def predict(self, content: bytes, query: str = "", **headers: str) -> tuple[int, dict]:
        status, body, _ = self.request(f"/predict{query}", content, **headers)
        return status, json.loads(body)

    def kept(self) -> list[Path]:
        """The files in its folder for temporary files that came from no example."""
        files = [path for path in self.temporary.rglob("*") if path.is_file()]
        return [path for path in files if path.suffix != ".webp"]

    @property
    def megabytes(self) -> float:
        """Of memory in use."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", text)[1]) / 1024


def start(folder: Path, temporary: Path, *arguments: object) -> Server:
    temporary.mkdir()
    command = [sys.executable, "-m", "paddle_attn", "serve", *map(str, arguments), "--port", "0"]
    environment = os.environ | {"TMPDIR": str(temporary), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    line = process.stdout.readline()
    found = re.search(r"http://\S+", line)
    if not found:
        pytest.fail(f"the server did not start: {line}{process.communicate()}")
    process.stdout.readline()
    return Server(process, found[0], temporary)


def stop(server: Server) -> tuple[int, str]:
    """Ctrl-C: the exit code and what it prints."""
    server.process.send_signal(signal.SIGINT)
    _, printed = server.process.communicate(timeout=HANG)
    return server.process.returncode, printed


BOTH = ("simam", "se", "--weights", "run_simam/best.pdparams", "run_se/best.pdparams")


@pytest.fixture(scope="module")
def server(work: Path) -> Iterator[Server]:
    """Two models with their weights, examples, and small limits. It reports nothing and ends by Ctrl-C."""
    limits = ("--queue", QUEUE, "--max-mb", MAX_MB)
    running = start(work, work / "temporary", *BOTH, "--examples", "pictures", *limits)
    yield running
    code, printed = stop(running)
    assert (code, printed) == (130, "stopped: the page is closed, no picture was kept\n")
    assert not list(running.temporary.iterdir())


# ---- the API


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = picture((30, 200, 60), side=50)
    image.paste("red", (0, 0, 50, 10))
    return encoded(image, "JPEG", exif=exif)


PICTURES = {
    "png": encoded(picture((220, 40, 40))),
    "jpeg with an orientation": rotated(),
    "palette": encoded(picture((40, 60, 220)).convert("P"), "GIF"),
    "16 bits": encoded(Image.fromarray(np.arange(4096, dtype="uint16").reshape(64, 64) * 16)),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_the_api_answers_as_the_predictor(work: Path, server: Server, tmp_path: Path, kind: str):
    (tmp_path / "picture").write_bytes(PICTURES[kind])
    status, answer = server.predict(PICTURES[kind], "?topk=2")
    assert (
        status == 200
        and (answer["width"], answer["height"])
        == Image.open(tmp_path / "picture").size[:: -1 if "orientation" in kind else 1]
    )
    assert [result["model"] for result in answer["results"]] == ["simam", "se"]
    for result in answer["results"]:
        (expected,) = Predictor(work / result["model"]).predict(tmp_path / "picture", topk=2)
        assert result["labels"] == expected["labels"] and result["class_ids"] == expected["class_ids"]
        assert result["scores"] == pytest.approx(expected["scores"], abs=1e-5)
        assert result["milliseconds"] > 0


def test_the_command_of_the_documentation_works_as_typed(server: Server):
    """curl says that the body is a form."""
    for page in ("serving.md", "serving.zh-CN.md"):
        text = (ROOT / "docs" / page).read_text(encoding="utf-8")
        assert "curl --data-binary @photo.jpg http://127.0.0.1:7860/predict" in text
    form = {"content_type": "application/x-www-form-urlencoded"}
    assert server.predict(PICTURES["png"], **form)[0] == 200


BOMB = encoded(Image.new("1", (15_000, 9500)))  # 18 KB
HOSTILE = {
    "empty": (b"", 400, "empty"),
    "text": (b"hello", 415, "kind"),
    "a script": (b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", 415, "kind"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 415, "kind"),
    "truncated": (PICTURES["jpeg with an orientation"][:400], 400, "damaged"),
    "damaged": (PICTURES["png"][:200] + bytes(300), 400, "damaged"),
    "too many pixels": (BOMB, 413, "pixels_many"),
    "a few too many": (encoded(Image.new("1", (9500, 9500))), 413, "pixels_many"),
    "too many bytes": (bytes(MAX_MB * 1_000_000 + 1), 413, "large"),
    "far too many bytes": (bytes(40 * MAX_MB * 1_000_000), 413, "large"),
}


def sentence(key: str, language: str = "en") -> re.Pattern:
    """A text of the server, with any values."""
    return re.compile(re.sub(r"\\{\w+\\}", r".+", re.escape(TEXTS[language][key])))


@pytest.mark.parametrize("language", TEXTS)
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_upload_is_a_sentence_in_the_language_of_the_client(
    server: Server, name: str, language: str
):
    content, status, key = HOSTILE[name]
    found, answer = server.predict(content, accept_language=f"{language}-XX,fr;q=0.3")
    assert found == status and answer.keys() == {"error"}
    assert sentence(key, language).fullmatch(answer["error"])
    assert server.predict(PICTURES["png"])[0] == 200


def test_a_body_that_does_not_say_its_length_is_bounded(server: Server):
    pieces = (bytes(100_000) for _ in range(20))  # http.client sends them chunked
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=HANG)
    connection.request("POST", "/predict", pieces)
    assert connection.getresponse().status == 413
    connection.close()
    assert server.predict(PICTURES["png"])[0] == 200


@pytest.mark.parametrize(
    ("path", "method", "kind", "status"),
    [
        ("/predict", "GET", "image/png", 405),
        ("/predict", "PUT", "image/png", 405),
        ("/predict?topk=0", "POST", "image/png", 400),
        ("/predict?topk=4", "POST", "image/png", 400),
        ("/predict?topk=x", "POST", "image/png", 400),
        ("/predict", "POST", "multipart/form-data; boundary=x", 415),
        ("/nowhere", "GET", "", 404),
        ("/docs", "GET", "", 404),
        ("/gradio_api/queue/status", "GET", "", 404),
        ("/gradio_api/call/v2/upload", "POST", "application/json", 404),
    ],
)
def test_other_requests_are_sentences_too(server: Server, path: str, method: str, kind: str, status: int):
    found, body, _ = server.request(path, PICTURES["png"], method, content_type=kind)
    assert found == status and json.loads(body).keys() == {"error"}


def test_one_request_more_than_the_queue_holds_is_refused_and_the_next_ones_are_answered(server: Server):
    """Requests whose picture has not arrived wait, too."""
    host, port = urlsplit(server.url).hostname, urlsplit(server.url).port
    waiting = [socket.create_connection((host, port)) for _ in range(QUEUE)]
    for each in waiting:
        each.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")

    def predicts(status: int) -> bool:
        found, answer = server.predict(PICTURES["png"])
        return found == status and (status == 200 or answer["error"] == TEXTS["en"]["busy"])

    wait_until(lambda: predicts(503), server.process)
    for each in waiting:
        each.close()
    wait_until(lambda: predicts(200), server.process)


# ---- the page


def test_the_page_loads_nothing_from_elsewhere(server: Server):
    _, body, headers = server.request("/")
    html = body.decode()
    loaded = re.findall(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=[\"']([^\"']+)", html)
    assert loaded and not [address for address in loaded if re.match(r"(?:\w+:)?//", address)]
    policy = headers["content-security-policy"]
    assert "default-src 'self'" in policy and "http" not in policy
    style = server.request("/theme.css")[1].decode()
    assert style and not re.search(r"url\(.(?!data:)|@import", style)


@pytest.mark.parametrize(
    "path",
    ["/gradio_api/info", "/config"],
)
def test_the_page_describes_no_interface_of_its_own(server: Server, path: str):
    body = json.loads(server.request(path)[1])
    assert not body.get("named_endpoints")
    if path == "/config":
        assert {each["api_visibility"] for each in body["dependencies"]} == {"private"}


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        str(ROOT / "README.md"),
        "README.md",
        "run_simam/best.pdparams",
        "../run_simam/config.yaml",
    ],
)
def test_the_page_hands_out_no_file_of_the_machine(server: Server, path: str):
    assert server.request(f"/gradio_api/file={path}")[0] in (403, 404)


def upload(server: Server, files: dict[str, bytes]) -> list[str]:
    """Upload as the page does; the paths on the server."""
    parts = b"".join(
        f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
        + content
        + b"\r\n"
        for name, content in files.items()
    )
    status, body, _ = server.request(
        "/gradio_api/upload", parts + b"--x--\r\n", content_type="multipart/form-data; boundary=x"
    )
    assert status == 200, body
    return json.loads(body)


def on_the_page(server: Server, paths: list[str], language: str = "en") -> str:
    """The HTML that the page shows for uploaded files."""
    function = next(
        each["id"]
        for each in json.loads(server.request("/config")[1])["dependencies"]
        if each["targets"][0][1] == "upload"
    )
    data = [[{"path": path, "meta": {"_type": "gradio.FileData"}} for path in paths]]
    join = {"data": data, "fn_index": function, "session_hash": "test"}
    status, body, _ = server.request(
        "/gradio_api/queue/join",
        json.dumps(join).encode(),
        content_type="application/json",
        accept_language=language,
    )
    assert status == 200, body
    request = urllib.request.Request(f"{server.url}/gradio_api/queue/data?session_hash=test")
    with urllib.request.urlopen(request, timeout=HANG) as stream:
        for line in stream:
            message = json.loads(line[6:]) if line.startswith(b"data: ") else {}
            if message.get("msg") == "process_completed":
                assert message["success"], message
                break
    return message["output"]["data"][1]


def test_the_page_shows_the_answers_of_both_networks_and_keeps_no_picture(work: Path, server: Server):
    large = bytes(MAX_MB * 1_000_000 + 1)
    files = {"red.png": PICTURES["png"], "<b>.jpg": b"hello", "bomb.png": BOMB, "large.png": large}
    html = on_the_page(server, upload(server, files), "zh-CN")
    image = Image.open(io.BytesIO(PICTURES["png"]))
    for name in ("simam", "se"):
        (expected,) = Predictor(work / name).predict(image)
        assert f"{100 * expected['scores'][0]:.1f} %" in html and expected["labels"][0] in html
    assert (
        html.count("Grad-CAM") >= 4 and "SimAM 的门控" in html and "SqueezeExcite 的通道权重" in html
    )  # alt and caption
    assert all(sentence(key, "zh").search(html) for key in ("kind", "pixels_many", "large"))
    assert "<b>.jpg" not in html
    assert not [path for path in server.kept() if path.stat().st_size]


def test_the_page_reads_no_file_but_an_upload(work: Path, server: Server):
    """Gradio would download an address and, in a mounted page, read any file of the machine."""
    own = work / "pictures" / "red" / "a.png"
    (example, *_) = server.temporary.rglob("*.webp")
    for path in (
        "http://127.0.0.1:1/a.png",
        "file:///etc/passwd",
        str(own),
        f"{example.parent}/../../../{own}",
    ):
        data = [[{"path": path, "meta": {"_type": "gradio.FileData"}}]]
        body = json.dumps({"data": data, "fn_index": 0, "session_hash": "other"}).encode()
        status, answer, _ = server.request("/gradio_api/queue/join", body, content_type="application/json")
        assert status == 400 and json.loads(answer).keys() == {"error"}
    assert sentence("gone").search(on_the_page(server, [str(example)]))  # one of the page's own files
    assert own.exists() and example.exists()


def test_an_upload_of_the_page_is_bounded(server: Server):
    boundary = {"content_type": "multipart/form-data; boundary=x"}
    assert server.request("/gradio_api/upload", bytes(17 * MAX_MB * 1_000_000), **boundary)[0] == 413


# ---- parts


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("", "en"),
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("zh-TW", "zh"),
        ("de,en;q=0.5,zh;q=0.7", "zh"),
        ("en-GB,zh;q=0.9", "en"),
        ("fr", "en"),
        ("zh;q=x,;;,", "en"),
    ],
)
def test_the_language_is_the_one_that_the_browser_prefers(header: str, language: str):
    assert language_of(header) == language


def test_both_languages_have_the_same_texts_with_the_same_values():
    fields = [
        {key: set(re.findall(r"\{(\w+)", text)) for key, text in each.items()} for each in TEXTS.values()
    ]
    assert fields[0] == fields[1]


def test_a_desk_without_a_place_refuses():
    desk = Desk([], places=1)
    with desk.place(), pytest.raises(Refused, match="Too many requests"), desk.place():
        pass
    with desk.place():
        seen = asyncio.run(desk.answer(PICTURES["png"]))
    assert seen.size == (40, 40)


def test_an_upload_that_nobody_asks_about_is_removed_and_a_file_of_the_page_is_not(tmp_path: Path):
    (tmp_path / "example.webp").write_bytes(b"1")
    uploads = Uploads(tmp_path)
    uploads.adopt()
    (tmp_path / "abc").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "abc" / name).write_bytes(b"123")
    assert uploads.size == 6
    uploads.remove_older_than(3600)
    assert uploads.names == ["abc/a.png", "abc/b.png"]
    uploads.remove_older_than(0)
    assert uploads.names == [] and (tmp_path / "example.webp").exists()


def test_an_upload_is_taken_once_and_no_other_file_is(tmp_path: Path):
    (tmp_path / "folder").mkdir()
    for name in ("private.png", "folder/example.webp"):
        (tmp_path / name).write_bytes(b"1")
    uploads = Uploads(tmp_path / "folder")
    uploads.adopt()
    for name in ("small.png", "large.png"):
        (tmp_path / "folder" / name).write_bytes(b"1" * len(name))
    assert uploads.take(f"{tmp_path}/folder/small.png", 9) == b"1" * 9
    with pytest.raises(Refused, match="too large"):
        uploads.take(f"{tmp_path}/folder/large.png", 8)
    for name in (
        "folder/small.png",
        "folder/large.png",
        "folder/example.webp",
        "private.png",
        "folder/../private.png",
    ):
        with pytest.raises(Refused, match="no longer there"):
            uploads.take(f"{tmp_path}/{name}", 9)
    assert (tmp_path / "private.png").exists() and (tmp_path / "folder" / "example.webp").exists()


def test_a_port_in_use_is_one_sentence():
    with (
        listen("127.0.0.1", 0) as taken,
        pytest.raises(UserError, match=r"port \d+ of 127\.0\.0\.1 is in use: choose another"),
        listen("127.0.0.1", taken.getsockname()[1]),
    ):
        pass
    with pytest.raises(UserError, match="--host no"), listen("no.such.host.invalid", 0):
        pass


def trained(work: Path, *names: str) -> list:
    return [
        (load_config(work / f"run_{name}" / "config.yaml"), str(work / f"run_{name}" / "best.pdparams"))
        for name in names
    ]


def test_weights_of_another_network_are_refused(work: Path, tmp_path: Path):
    with pytest.raises(UserError, match="was not exported from"):
        load_served([work / "simam", work / "se"], trained(work, "se", "simam"))
    with pytest.raises(UserError, match="given twice"):
        load_served([work / "simam", work / "simam"])
    (config, weights), _ = trained(work, "simam", "se")
    larger = replace(config, data=replace(config.data, size=64))
    with pytest.raises(UserError):
        load_served([work / "simam"], [(larger, weights)])


def test_a_missing_gradio_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install \"paddle_attn\[web\]\""):
        gradio_in_a_private_folder().__enter__()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("a", "b", "--weights", "w"), "--weights: expected 2"),
        (("a", "--port", "70000"), "--port must be from 0 to 65535"),
        (("a", "--max-mb", "0"), "--max-mb must be from"),
        (("a", "--queue", "0"), "--queue must be from"),
    ],
)
def test_options_out_of_bounds_are_one_sentence(arguments: tuple[str, ...], words: str):
    assert_one_sentence(paddle_attn("serve", *arguments), words)


# ---- many requests, and a browser


@pytest.mark.slow
def test_fifty_requests_at_once_are_answered_rightly_and_the_memory_stays_flat(work: Path, server: Server):
    """Round after round, of the API and of the page, hostile ones among them."""
    pictures = [encoded(picture((20 * seed, 60, 200 - 5 * seed), seed=seed)) for seed in range(10)]
    predictors = [Predictor(work / name) for name in ("simam", "se")]
    images = [Image.open(io.BytesIO(content)) for content in pictures]
    expected = [[predictor.predict(image)[0]["scores"] for predictor in predictors] for image in images]

    def ask(number: int) -> None:
        if number % 5 == 4:
            content, status, _ = list(HOSTILE.values())[number // 5 % len(HOSTILE)]
            assert server.predict(content)[0] == status
            return
        status, answer = server.predict(pictures[number % 10])
        assert status == 200
        for result, scores in zip(answer["results"], expected[number % 10], strict=True):
            assert result["scores"] == pytest.approx(scores, abs=1e-5)

    def one_round() -> float:
        with ThreadPoolExecutor(50) as threads:
            list(threads.map(ask, range(50)))
        on_the_page(server, upload(server, {f"{place}.png": pictures[place] for place in range(5)}))
        return server.megabytes

    warm = [one_round() for _ in range(4)][-1]
    later = [one_round() for _ in range(12)]
    print("memory in MB, after four rounds and after each of the next:", round(warm), *map(round, later))
    assert later[-1] < warm + 40  # a copy of each round's pictures would be more than this
    assert not [path for path in server.kept() if path.stat().st_size]


@pytest.mark.slow
def test_a_browser_shows_answers_and_sentences_in_both_languages_wide_and_narrow(
    work: Path, server: Server, tmp_path: Path
):
    browser = pytest.importorskip("browser", reason="needs selenium")
    if browser.chromium() is None:
        pytest.skip("needs Chromium and its driver: apt-get install chromium chromium-driver")
    (tmp_path / "text.jpg").write_bytes(b"hello")
    (tmp_path / "bomb.png").write_bytes(BOMB)
    (expected,) = Predictor(work / "simam").predict(work / "pictures" / "red" / "a.png")
    for size, language, dark in (
        (browser.WIDE, "en-US", False),
        (browser.PHONE, "zh-CN", False),
        (browser.PHONE, "en-US", True),
    ):
        texts = TEXTS[language[:2]]
        with browser.browse(size, language, dark) as page:
            page.open(server.url)
            assert texts["drop"] in page.text() and texts["intro"] in page.text()
            page.upload([work / "pictures" / "red" / "a.png", tmp_path / "text.jpg", tmp_path / "bomb.png"])
            shown = page.text("#pa-results")
            assert texts["kind"] in shown and sentence("pixels_many", language[:2]).search(shown)
            assert f"{100 * expected['scores'][0]:.1f} %" in shown and "simam" in shown and "SimAM" in shown
            page.click("#pa-examples button")
            page.wait_for_text("text.jpg", "#pa-results", gone=True)
            page.upload([tmp_path / "text.jpg"])
            page.wait_for_text("text.jpg", "#pa-results")
            assert page.overflow() <= 0 and not page.refused()
            assert page.hosts() == {urlsplit(server.url).netloc}
