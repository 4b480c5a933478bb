"""The page of the attention modules: complete in both languages, and what its command makes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import COMMITTED, ROOT

from paddle_attn import list_attention
from paddle_attn.attention import ATTENTION
from reference.attention_page import MODULES, PAGES, SIZES, TIMES, measure, pages

WRITTEN = {language: (ROOT / "docs" / page).read_text(encoding="utf-8") for language, page in PAGES.items()}


@pytest.mark.parametrize("name", list_attention())
def test_every_attention_is_described_in_both_languages(name: str):
    described = json.loads((MODULES / f"{name}.json").read_text(encoding="utf-8"))
    assert bool(described["needs"]) == bool(ATTENTION[name].needs)
    assert len(described["differences"]["en"]) == len(described["differences"]["zh"])
    for language, page in WRITTEN.items():
        for text in (f"### `{name}`: {described['title'][language]}", described["does"][language]):
            assert text in page, "make the page again: python tools/attention.py"


def test_measured_times_have_a_row_for_each_module_and_size(tmp_path: Path):
    measure(tmp_path / TIMES, names=["simam", "se"], runs=1)
    header, *rows = (tmp_path / TIMES).read_text().splitlines()
    assert header == "attention,channels,side,forward_ms,backward_ms"
    assert [row.split(",")[:3] for row in rows] == [
        [name, str(channels), str(side)] for name in ("simam", "se") for channels, side in SIZES
    ]
    assert all(float(cell) > 0 for row in rows for cell in row.split(",")[3:])


@pytest.mark.slow
def test_the_pages_are_identical_when_made_again():
    made = pages(COMMITTED, ROOT / "docs")
    assert {language: made[page] for language, page in PAGES.items()} == WRITTEN
