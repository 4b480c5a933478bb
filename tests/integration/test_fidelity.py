"""The fidelity page: complete, within the tests' tolerances, and what its command makes."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import COMMITTED, ROOT

from paddle_attn import list_attention, list_models
from paddle_attn.attention import ATTENTION, SqueezeExcite
from paddle_attn.errors import UserError
from paddle_attn.models.placement import REPLACEMENTS
from reference import fidelity
from reference.compare import Case, module_cases, module_differences, networks, tolerance
from reference.deviations import deviations

PAGE = (ROOT / "docs" / "fidelity.md").read_text(encoding="utf-8")
COMMITTED_FILES = [
    pytest.param(case, COMMITTED / case.file(shape), id=f"{case.name}-{shape}")
    for case in module_cases()
    for shape in case.maps
    if (COMMITTED / case.file(shape)).exists()
]


@pytest.mark.parametrize("name", [*list_attention(), *list_models()])
def test_the_page_has_every_attention_and_network(name: str):
    assert f"`{name}`" in PAGE, "make the page again: python tools/fidelity.py"


def test_a_replacement_is_compared_in_a_network():
    assert set(REPLACEMENTS) <= {attn for attns in networks(COMMITTED).values() for attn in attns}


def test_the_reference_and_the_published_accuracies_name_only_what_exists():
    assert {case.attention for case in module_cases()} <= set(list_attention())
    for model, attn in fidelity.published_accuracies():
        assert model in list_models() and attn in {*list_attention(), "none"}


@pytest.mark.parametrize(("case", "file"), COMMITTED_FILES)
def test_every_module_of_the_page_is_within_its_tolerances(case: Case, file: Path):
    for what, difference in module_differences(file, case, "eval").items():
        assert difference <= tolerance(case, "eval", what, batch_norm=False), what


def test_an_attention_without_tensors_needs_no_entry(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(ATTENTION, "own", SqueezeExcite)
    assert "| `own` | no author's code | | | | | | | |" in fidelity.module_section(COMMITTED)


def test_every_deviation_changes_the_output():
    for deviation, change in deviations(COMMITTED):
        assert change > 1e-4 and deviation.what in PAGE


@pytest.mark.slow
def test_the_page_is_identical_when_made_again():
    assert fidelity.page(COMMITTED) == PAGE


def test_a_folder_without_the_reference_is_an_error(tmp_path: Path):
    with pytest.raises(UserError, match="there is no reference in"):
        fidelity.page(tmp_path)
