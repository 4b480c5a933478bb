"""The fidelity page has every registered module and network, and is what its command makes."""

from __future__ import annotations

import pytest
from helpers import COMMITTED, ROOT

from paddle_attn import list_attention, list_models
from paddle_attn.errors import UserError
from paddle_attn.models.placement import REPLACEMENTS
from reference import fidelity
from reference.fidelity import MODULES, SHAPE, module_differences

PAGE = (ROOT / "docs" / "fidelity.md").read_text(encoding="utf-8")


def test_every_registered_module_and_network_has_an_entry():
    assert set(fidelity.MODULES) == set(list_attention())
    assert all(any(unit in attns for attns in fidelity.NETWORKS.values()) for unit in REPLACEMENTS)
    assert set(fidelity.NETWORKS) | set(fidelity.ELSEWHERE) == set(list_models())
    assert not set(fidelity.NETWORKS) & set(fidelity.ELSEWHERE)
    for name in [*list_attention(), *list_models()]:
        assert f"| `{name}` |" in PAGE


@pytest.mark.parametrize(
    ("file", "name", "kwargs"),
    [(file, name, kwargs) for name, files in MODULES.items() for file, kwargs in files.items()],
)
def test_every_module_of_the_page_is_within_its_bounds(file: str, name: str, kwargs: dict):
    found = module_differences(COMMITTED / "attention" / f"{file}-{SHAPE}.npz", name, kwargs, "eval")
    assert found["output"] <= 1e-5 and max(found.values()) <= 1e-4


def test_every_deviation_of_the_page_changes_an_output_and_ours_do_not():
    for what, _, effect in fidelity.deviations(COMMITTED):
        assert effect > 1e-4 and what in PAGE


@pytest.mark.slow
def test_the_page_is_identical_when_made_again():
    assert fidelity.page(COMMITTED) == PAGE


def test_without_the_reference_it_says_where_it_should_be(tmp_path):
    with pytest.raises(UserError, match="there is no reference in"):
        fidelity.page(tmp_path)
