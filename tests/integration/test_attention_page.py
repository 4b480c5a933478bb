"""The page of the attention modules: complete in both languages, and what its command makes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import COMMITTED, ROOT

from benchmarks.attention_times import COLUMNS, COMPARED, SIZES, TIMES, measure, read
from benchmarks.lines import IN_PYTORCH
from paddle_attn import list_attention
from paddle_attn.attention import ATTENTION
from reference.attention_page import MODULES, PAGES, pages

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
    measure(tmp_path / TIMES, ["simam"], rounds=1, pytorch={})
    times = read(tmp_path / TIMES)
    assert list(times.cells) == [("simam", *size) for size in SIZES]
    assert all(set(cell) == {"forward_ms", "train_ms"} for cell in times.cells.values())
    assert all(value > 0 for cell in times.cells.values() for value in cell.values())
    assert "cores" in times.machine and "paddlepaddle" in times.machine


def test_the_committed_times_are_complete_and_on_the_page():
    times = read(ROOT / "docs" / TIMES)
    assert set(times.cells) == {(name, *size) for name in list_attention() for size in SIZES}
    for (name, *size), cell in times.cells.items():
        in_pytorch = name in IN_PYTORCH and tuple(size) == COMPARED
        assert set(cell) == set(COLUMNS if in_pytorch else COLUMNS[:2]), name
    assert all(times.machine in page for page in WRITTEN.values())


@pytest.mark.slow
def test_the_pages_are_identical_when_made_again():
    made = pages(COMMITTED, ROOT / "docs")
    assert {language: made[page] for language, page in PAGES.items()} == WRITTEN
