"""READMEs and pages: what they name exists, commands are valid, code runs, both languages agree."""

from __future__ import annotations

import ast
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from helpers import COLOURS, ROOT, picture
from helpers import paddle_attn as run_command

import paddle_attn
from paddle_attn.commands import COMMANDS
from paddle_attn.config import Config, list_configs, load_config
from paddle_attn.data.transforms import Preprocess
from paddle_attn.deploy import export_model
from paddle_attn.study import load_study, plan_runs

# README first: the pages continue from its first training
PAGES = ["README.md", "README.zh-CN.md", *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/*.md"))]
TRANSLATED = [page for page in PAGES if page.endswith(".zh-CN.md")]


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    number: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}-{self.number}"


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, *languages: str) -> list[Block]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text_of(page), re.S | re.M)
    named = [Block(page, number, language, text) for number, (language, text) in enumerate(found)]
    return [block for block in named if not languages or block.language in languages]


def commands(page: str) -> list[list[str]]:
    """The words of each command in a page's bash blocks, continued lines joined."""
    lines = "".join(block.text for block in blocks(page, "bash")).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def prose(page: str) -> str:
    return re.sub(r"^```.*?^```$", "", text_of(page), flags=re.S | re.M)


def tables(page: str) -> list[list[list[str]]]:
    """Each table as rows of cells."""
    found = re.findall(r"(?:^\|.*\|\n)+", text_of(page), re.M)
    return [[[c.strip() for c in row.strip("|").split("|")] for row in t.splitlines()] for t in found]


# ---- what is named exists


@pytest.mark.parametrize("page", PAGES)
def test_links_and_pictures_lead_to_files_and_headings(page: str):
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", prose(page)):
        path, _, heading = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.M)
            # as GitHub makes them: without punctuation
            anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in headings}
            assert heading in anchors, target


@pytest.mark.parametrize("page", PAGES)
def test_files_named_in_the_text_exist(page: str):
    """Names in backticks that begin with a folder of the repository, and no placeholder."""
    folders = "paddle_attn|benchmarks|reference|tests|tools|configs|docs"
    for name in re.findall(rf"`((?:{folders})/[\w./-]+)`", prose(page)):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("page", PAGES)
def test_options_named_in_the_text_are_options(page: str):
    """`section.key` and `section.key=value` in backticks."""
    for option in re.findall(r"`((?:model|data|optim|train)\.[a-z_.]+(?:=[^`]*)?)`", prose(page)):
        key, _, value = option.partition("=")
        if key.count(".") == 1 and not key.endswith((".py", ".csv")):
            section, name = key.split(".")
            assert hasattr(getattr(Config(), section), name), option
            if value:
                load_config(ROOT / "configs" / "demo.yaml", [option])


# ---- the commands


@pytest.mark.parametrize("page", PAGES)
def test_targets_of_make_exist(page: str):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = [words[1] for words in commands(page) if words[0] == "make"]
    for target in [*targets, *re.findall(r"`make ([\w-]+)", prose(page))]:
        assert re.search(rf"^{re.escape(target)}:", makefile, re.M), target


@pytest.fixture(scope="module")
def helps() -> dict[str, str]:
    return {name: run_command(name, "-h").stdout for name in COMMANDS}


def arguments_of(words: list[str]) -> list[str]:
    """The words after `paddle-attn`, which a launcher may precede; [] for another program."""
    return words[words.index("paddle-attn") + 1 :] if "paddle-attn" in words else []


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_have_the_options_that_a_page_uses(page: str, helps: dict[str, str]):
    for words in commands(page):
        assert not any(word.startswith("tools/") for word in words), f"expected paddle-attn: {words}"
        if name_and_arguments := arguments_of(words):
            name, *arguments = name_and_arguments
            known = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", helps[name]))
            used = {word for word in arguments if re.fullmatch(r"--?[a-z][\w-]*", word)}
            assert used <= known, (name, used)


@pytest.mark.parametrize("page", PAGES)
def test_commands_with_a_config_can_run_in_the_order_of_the_page(page: str, monkeypatch: pytest.MonkeyPatch):
    """Configs and overrides are valid; a run's own config, weights and export come from a command before."""
    monkeypatch.chdir(ROOT)
    made: dict[str, Config] = {}  # the folders of runs
    exported: set[str] = set()
    before = [] if page.startswith("README") else commands("README.md")
    for words in [*before, *commands(page)]:
        options = {word: words[place + 1] for place, word in enumerate(words[:-1]) if word.startswith("-")}
        if "--model" in options:
            assert options["--model"] in exported, words
        if "-c" not in options:
            continue
        command = arguments_of(words)[0]
        if command == "study":
            assert plan_runs(load_study(options["-c"])), words
            continue
        path = Path(options["-c"])
        overrides = [word for word in words if re.fullmatch(r"[a-z]+\.[a-z_.]+=.*", word)]
        if options["-c"] in list_configs():
            config = load_config(path, overrides)
            if config.model.weights:
                assert str(Path(config.model.weights).parent) in made, words
        else:
            assert path.name == "config.yaml" and str(path.parent) in made, words
            config = made[str(path.parent)]
            load_config(ROOT / "configs" / "demo.yaml", overrides)
        if command == "train":
            made[config.train.output] = config
        else:
            assert str(Path(options["--weights"]).parent) in made, words
            exported |= {options["--out"]} if command == "export" else set()


@pytest.mark.parametrize("page", PAGES)
def test_extras_are_quoted_for_every_shell(page: str):
    """zsh takes square brackets as a pattern: a bare .[cpu] fails there."""
    for extra in re.findall(r"pip install -e ([^`\n]*\[.*?\]\S?)", text_of(page)):
        assert re.fullmatch(r"'\.\[\w+(,\w+)*\]'", extra), extra


# ---- the code


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the code of the pages reads: photographs, an exported network, weights."""
    folder = tmp_path_factory.mktemp("workplace")
    for name, colour in COLOURS.items():
        (folder / "datasets/caltech101-16/eval" / name).mkdir(parents=True)
        picture(colour).save(folder / "datasets/caltech101-16/eval" / name / "image_0001.jpg")
    net = paddle_attn.create_model("towernet", "simam", num_classes=3)
    preprocess = Preprocess(128, "stretch", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    sample = np.zeros([1, 3, 128, 128], "float32")
    export_model(net, folder / "inference/towernet_simam", preprocess, sorted(COLOURS), sample)
    trained = paddle_attn.create_model("towernet", "simam", num_classes=16)
    (folder / "output/towernet_simam").mkdir(parents=True)
    paddle_attn.save_weights(trained, folder / "output/towernet_simam/best.pdparams")
    return folder


def printed_by(block: Block, capsys: pytest.CaptureFixture) -> str:
    exec(compile(block.text, str(block), "exec"), {})
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page not in TRANSLATED and blocks(page, "python")]
)
def test_the_code_of_a_page_runs_and_prints_the_text_below_it(
    page: str, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.chdir(workplace)
    below = {block.number - 1: block.text for block in blocks(page, "text")}
    assert below.keys() <= {block.number for block in blocks(page, "python")}
    for block in blocks(page, "python"):
        printed = printed_by(block, capsys)
        assert printed == below.get(block.number, printed)


def test_a_prediction_has_the_keys_that_the_page_names(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.chdir(workplace)
    (block,) = blocks("docs/deployment.md", "python")
    named = re.search(r"# (\{.*\})", block.text)[1]
    assert ast.literal_eval(printed_by(block, capsys)).keys() == ast.literal_eval(named)


@pytest.mark.slow
def test_the_tables_of_models_are_what_the_command_prints():
    printed = run_command("models").stdout
    rows = [line for line in printed.splitlines() if line.startswith("|")]
    assert [row for table in tables("docs/models.md")[:3] for row in table] == [
        [cell.strip() for cell in line.strip("|").split("|")] for line in rows
    ]


# ---- both languages


def english(page: str) -> str:
    return page.replace(".zh-CN.md", ".md")


def test_what_the_chinese_readme_links_to_is_in_chinese_or_says_that_it_is_not():
    linked = re.findall(r"\]\((docs/[\w.-]+\.md)\)", text_of("README.zh-CN.md"))
    for page in linked:
        translation = page if page in TRANSLATED else page.replace(".md", ".zh-CN.md")
        assert page in TRANSLATED or translation not in TRANSLATED, f"{page} has a translation"
    assert [english(page) for page in linked] == re.findall(r"\]\((docs/[\w.-]+\.md)\)", text_of("README.md"))


@pytest.mark.parametrize("page", TRANSLATED)
def test_both_languages_have_the_same_commands(page: str):
    """Except for the language that VisualDL shows."""
    ours = [["en" if word == "zh" else word for word in words] for words in commands(page)]
    assert ours == commands(english(page))


@pytest.mark.parametrize("page", TRANSLATED)
def test_both_languages_have_the_same_code_and_output(page: str):
    def without_comments(text: str) -> str:
        return re.sub(r"  # .*", "", text)

    ours, theirs = (blocks(each, "python", "text") for each in (page, english(page)))
    assert [without_comments(b.text) for b in ours] == [without_comments(b.text) for b in theirs]


@pytest.mark.parametrize("page", TRANSLATED)
def test_both_languages_have_the_same_headings_pictures_and_tables(page: str):
    def outline(each: str) -> list[str]:
        return re.findall(r"^(#+) ", re.sub(r"^```.*?^```$", "", text_of(each), flags=re.S | re.M), re.M)

    def pictures(each: str) -> list[str]:
        return re.findall(r"!\[.*?\]\((.*?)\)", text_of(each))

    def needs_no_translation(cell: str) -> bool:
        """Numbers, names in backticks, names with underscores."""
        return bool(re.fullmatch(r"(`[^`]*`|[a-z0-9]+(_[a-z0-9]+)+|[\d\s.,/%×:+-]|\de-\d)*", cell))

    assert outline(page) == outline(english(page))
    assert pictures(page) == pictures(english(page))
    ours, theirs = tables(page), tables(english(page))
    assert [[len(row) for row in t] for t in ours] == [[len(row) for row in t] for t in theirs]
    for table, original in zip(ours, theirs, strict=True):
        for row, its in zip(table, original, strict=True):
            for cell, its_cell in zip(row, its, strict=True):
                if needs_no_translation(cell) or needs_no_translation(its_cell):
                    assert cell == its_cell
                else:  # translated: the code in it stays
                    assert re.findall(r"`[^`]*`", cell) == re.findall(r"`[^`]*`", its_cell)
