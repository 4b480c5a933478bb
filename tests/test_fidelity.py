"""The fidelity page has every registered module and network, and is what its command makes."""

from __future__ import annotations

import pytest
from conftest import COMMITTED, ROOT

from paddle_attn import fidelity, list_attention, list_models
from paddle_attn.errors import UserError

PAGE = (ROOT / "docs" / "fidelity.md").read_text(encoding="utf-8")


def test_every_registered_module_and_network_has_an_entry():
    assert set(fidelity.MODULES) == set(list_attention())
    assert set(fidelity.NETWORKS) | set(fidelity.ELSEWHERE) == set(list_models())
    assert not set(fidelity.NETWORKS) & set(fidelity.ELSEWHERE)
    for name in [*list_attention(), *list_models()]:
        assert f"| `{name}` |" in PAGE


def test_the_modules_on_the_page_are_what_is_computed():
    assert "\n".join(fidelity._module_table(COMMITTED)) in PAGE


def test_the_deviations_on_the_page_are_what_is_computed_and_matter():
    assert "\n".join(fidelity._deviation_table(COMMITTED)) in PAGE
    assert all(effect > 1e-4 for _, _, effect in fidelity.deviations(COMMITTED))


@pytest.mark.slow
def test_the_page_is_identical_when_made_again():
    assert fidelity.page(COMMITTED) == PAGE


def test_without_the_reference_it_says_where_it_should_be(tmp_path):
    with pytest.raises(UserError, match="there is no reference in"):
        fidelity.page(tmp_path)
