"""Every number that authors report has a row in docs/published.md, which says what was reached here."""

import importlib.util
from pathlib import Path

import pytest

from localplast.errors import LocalplastError
from localplast.study.protocol import Published

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def published():
    spec = importlib.util.spec_from_file_location("published", ROOT / "benchmarks/published.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_claim_has_a_row_and_every_row_a_claim(published):
    claims = {(name, quantity) for name, quantity, _ in published.claims()}
    rows = {(name, quantity) for name, each in published.ours().items() for quantity in each}
    assert claims == rows and len(claims) > 20


def test_the_page_is_that_of_the_data(published):
    assert (ROOT / "docs/published.md").read_text(encoding="utf-8") == published.page()


def test_every_row_says_what_was_reached_or_why_nothing_was(published):
    for name, each in published.ours().items():
        for quantity, found in each.items():
            reached = found.get("values") or found.get("text")
            assert reached or found.get("cause"), (name, quantity)
            assert not reached or {"preset", "seeds", "command"} <= set(found), (name, quantity)


def test_what_is_missed_by_more_than_two_deviations_has_a_cause(published):
    for name, quantity, claim in published.claims():
        found = published.ours()[name][quantity]
        far = found.get("values") and published.distance(claim, found["values"])
        if far and abs(float(far)) > 2:
            assert found.get("cause"), (name, quantity, far)


def test_a_row(published):
    claim = Published("91.7 ± 0.8 %", 91.7, 0.8, certainty="result files")
    found = {"values": [90.1, 91.5], "preset": "paper", "seeds": "0, 1", "command": "localplast run x"}
    row = published.row("x", "accuracy", claim, found)
    assert row == (
        "| `x` | accuracy | 91.7 ± 0.8 % | result files | 90.8 ± 1.0 %, 2 seeds | -1.1 | paper; seeds 0, 1; "
        "`localplast run x` |  |"
    )
    assert published.distance(Published("a", 5.0), [4.0]) == "", "one run of ours says nothing of its scatter"


def test_how_sure():
    with pytest.raises(LocalplastError, match="certainty is 'paper' or 'code'"):
        Published("5 %", 5.0, certainty="rumour")
