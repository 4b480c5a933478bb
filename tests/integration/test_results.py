"""The page of the results: what its command makes, from the committed rows."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT

from paddle_attn.errors import UserError
from paddle_attn.study.results import MapScore
from paddle_attn.study.statistics import Pair, judge
from paddle_attn.study.summary import BASELINE, MapResult, VariantResult
from reference.results_page import (
    END,
    PAGES,
    READMES,
    START,
    STUDIES,
    TEXT,
    conclusion,
    in_readme,
    map_table,
    maps_answer,
    pages,
    read,
    studies,
    table,
)

MADE = pages(ROOT)


@pytest.mark.parametrize("file", [*PAGES.values(), *READMES.values()])
def test_the_pages_are_those_that_the_command_makes(file: str):
    assert (ROOT / file).read_text(encoding="utf-8") == MADE[file], "make it again: python tools/results.py"


def test_every_study_of_the_repository_is_on_the_page():
    drawn = {path.stem for path in (ROOT / "configs" / "studies").glob("*.yaml")} - {"demo"}
    assert set(STUDIES) == drawn
    assert {path.name for path in (ROOT / "results").iterdir() if (path / "runs.csv").exists()} <= drawn
    for language, file in PAGES.items():
        assert all(TEXT[language]["studies"][study.name]["title"] in MADE[file] for study in studies(ROOT))


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


def results_of(differences: dict[str, list[float]]) -> list[VariantResult]:
    """Variants with the difference of each fold from the baseline in a hundred images."""
    row = read(studies(ROOT)[0], ROOT).found[0].rows[0]
    pairs = {
        name: [Pair(fold, 0, np.repeat([1, 0], [hits, 100 - hits])) for fold, hits in enumerate(gains)]
        for name, gains in differences.items()
    }
    judged = judge(pairs)
    others = [VariantResult(name, judged[name], [row]) for name in pairs]
    return [VariantResult("none", BASELINE, [row]), *others]


@pytest.mark.parametrize(
    ("language", "expected"),
    [
        (
            "en",
            "Better than none here: good. Undecided, not told apart from none with these runs: even. "
            "Intervals of the difference: from -8.92 to +15.59 points. "
            "No verdict yet, for lack of pairs: one, unpaired.",
        ),
        (
            "zh",
            "在这里优于 none 的有：good。尚无定论，以现有的训练无法与 none 区分的有：even。"
            "差异的区间从 -8.92 到 +15.59 个百分点。配对不足、尚无结论的有：one、unpaired。",
        ),
    ],
)
def test_the_conclusion_names_every_variant(language: str, expected: str):
    found = results_of({"good": [20, 21, 22], "even": [0, 1, 9], "one": [50], "unpaired": []})
    assert conclusion(found, TEXT[language]) == expected
    made = table(found, TEXT[language])
    assert all(TEXT[language]["verdicts"][verdict] in made for verdict in ("one pair", "no pair"))
    alone = TEXT[language]["conclusion"]["alone"].format(baseline="none")
    assert conclusion(found[:1], TEXT[language]) == alone


@pytest.mark.parametrize("language", PAGES)
def test_the_page_answers_whether_the_maps_are_more_faithful(language: str):
    text, score = TEXT[language], MapScore("1.jpg", 0.2, 0.6, 0.4, 0.5)
    pairs = [Pair(fold, 0, np.full(9, 0.1 + fold / 1000)) for fold in range(3)]
    maps = [
        MapResult("none", BASELINE, {(0, 0): [score]}),
        MapResult("simam", judge({"simam": pairs})["simam"], {(0, 0): [score, score]}),
    ]
    assert text["maps conclusion"]["better"].format(baseline="none", names="simam") in maps_answer(maps, text)
    lines = map_table(maps, text).splitlines()
    assert lines[0] == text["maps"]["columns"] and all(line.count("|") == 10 for line in lines)
    better = text["verdicts"]["better"]
    assert lines[3] == f"| simam | 1 | 0.200 | 0.600 | 0.300 | 3 | +0.101 | +0.099 … +0.103 | {better} |"
    assert text["maps conclusion"]["alone"].format(baseline="none") in maps_answer(maps[:1], text)


def test_an_empty_results_folder_is_one_sentence(tmp_path: Path):
    for name in ("configs", *READMES.values()):
        (tmp_path / name).symlink_to(ROOT / name)
    with pytest.raises(UserError, match="holds no finished run of a study"):
        pages(tmp_path)
