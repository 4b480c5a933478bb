"""The READMEs: what they name exists, their code runs, and the two languages say the same."""

from __future__ import annotations

import re

import pytest
from helpers import ROOT

from paddle_attn.config import load_config

READMES = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh-CN.md")}


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)


def without_comments(block: str) -> list[str]:
    return [line.partition("  #")[0].rstrip() for line in block.splitlines() if line.strip()]


def test_the_block_on_other_networks_runs(capsys: pytest.CaptureFixture):
    exec(compile(blocks(READMES["README.md"], "python")[-1], "README.md", "exec"), {})
    assert "'db_conv_2.conv2_1'" in capsys.readouterr().out


@pytest.mark.parametrize("language", ["bash", "python"])
def test_both_languages_have_the_same_commands_and_code(language: str):
    english, chinese = (list(map(without_comments, blocks(text, language))) for text in READMES.values())
    assert english == chinese and english


def test_both_languages_have_the_same_tables_and_pictures():
    english, chinese = READMES.values()
    for pattern in (r"^\| [a-z0-9_`]+ \|(?: \d.*)\|$", r"!\[.*?\]\((.*?)\)"):
        assert re.findall(pattern, english, re.M) == re.findall(pattern, chinese, re.M) != []


@pytest.mark.parametrize("name", READMES)
def test_what_is_named_exists(name: str):
    text = READMES[name]
    for path in re.findall(r"\]\((?!http)(.*?)\)", text) + re.findall(r"(?:tools|configs)/\w+\.\w+", text):
        assert (ROOT / path).exists(), path
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make ([\w-]+)", text, re.M):
        assert f"\n{target}:" in makefile


PAGES = [READMES["README.md"], (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")]


@pytest.mark.parametrize(
    "command",
    [
        line
        for page in PAGES
        for block in blocks(page, "bash")
        for line in block.splitlines()
        if " -c " in line
    ],
)
def test_each_config_and_override_is_valid(command: str):
    words = command.split()
    overrides = words[words.index("-o") + 1 :] if "-o" in words else []
    path = words[words.index("-c") + 1]
    if path.startswith("configs/"):  # the others are a run's own
        load_config(ROOT / path, overrides)


def test_the_first_python_block_runs(capsys: pytest.CaptureFixture):
    first = blocks(READMES["README.md"], "python")[0]
    exec(compile(first, "README.md", "exec"), {})
    assert "23,540,816 trainable parameters" in capsys.readouterr().out


def test_the_page_on_features_runs(capsys: pytest.CaptureFixture):
    (block,) = blocks((ROOT / "docs" / "features.md").read_text(encoding="utf-8"), "python")
    exec(compile(block, "features.md", "exec"), {})
    assert (
        "[[1, 256, 64, 80], [1, 256, 32, 40], [1, 256, 16, 20], [1, 256, 8, 10]]" in capsys.readouterr().out
    )


@pytest.mark.slow
def test_the_tables_of_models_are_what_its_command_prints():
    from paddle_attn.models.complexity import tables

    assert tables() in READMES["README.md"]
