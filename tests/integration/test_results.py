"""The page of the results: what its command makes, from the committed rows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from helpers import ROOT

from paddle_attn.errors import UserError
from reference.results_page import END, PAGES, READMES, START, STUDIES, TEXT, in_readme, pages, read, studies

MADE = pages(ROOT)


@pytest.mark.parametrize("file", [*PAGES.values(), *READMES.values()])
def test_the_pages_are_those_that_the_command_makes(file: str):
    assert (ROOT / file).read_text(encoding="utf-8") == MADE[file], "make it again: python tools/results.py"


def test_every_study_of_the_repository_is_on_the_page():
    drawn = {path.stem for path in (ROOT / "configs" / "studies").glob("*.yaml")} - {"demo"}
    assert set(STUDIES) == drawn
    assert {path.name for path in (ROOT / "results").iterdir() if (path / "runs.csv").exists()} <= drawn
    for language, file in PAGES.items():
        assert all(TEXT[language][study.name] in MADE[file] for study in studies(ROOT))


def test_both_languages_show_the_same_numbers():
    def numbers(page: str) -> list[str]:
        rows = [line for line in page.splitlines() if line.startswith("|")]
        return re.findall(r"[+-]?\d+(?:[.,]\d+)*", "\n".join(rows))

    english, chinese = (MADE[file] for file in PAGES.values())
    assert numbers(english) == numbers(chinese) != []


@pytest.mark.parametrize("file", READMES.values())
def test_readme_keeps_what_is_around_its_table(file: str):
    text = (ROOT / file).read_text(encoding="utf-8")
    assert text.count(START) == text.count(END) == 1
    assert MADE[file].partition(START)[0] == text.partition(START)[0]
    assert MADE[file].partition(END)[2] == text.partition(END)[2]


def test_a_readme_without_the_marks_is_an_error():
    first = next(each for each in (read(study, ROOT) for study in studies(ROOT)) if each)
    with pytest.raises(UserError, match="expected the marks"):
        in_readme("# Some README\n", first, TEXT["en"])


def test_an_empty_results_folder_is_one_sentence(tmp_path: Path):
    for name in ("configs", *READMES.values()):
        (tmp_path / name).symlink_to(ROOT / name)
    with pytest.raises(UserError, match="holds no finished run of a study"):
        pages(tmp_path)
