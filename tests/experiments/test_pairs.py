"""Answers equal or unequal by construction: ibtpo's grader gets all right, and the stored table is of these pairs."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments" / "grader_agreement"))

import pairs

pytest.importorskip("math_verify")

STORED = Path(__file__).parents[2] / "experiments" / "results" / "grader-agreement"


@pytest.mark.parametrize("kind", pairs.KINDS)
def test_pairs_of_each_kind_are_told_apart(kind: str) -> None:
    rows = list(pairs.pairs(kind, 6, seed=1))
    assert [equal for *_, equal in rows] == [True, False] * 6
    assert [row for row in rows if pairs.ours(row[0], row[1]) != row[2]] == []


def test_the_stored_table_has_no_mistake_of_ours() -> None:
    record = json.loads((STORED / "pairs.json").read_text(encoding="utf-8"))
    assert record["wrong"]["ibtpo"] == []
    assert list(record["kinds"]) == list(pairs.KINDS)
    table = pairs.table(record["kinds"])
    assert (STORED / "pairs.md").read_text(encoding="utf-8") == table
    assert table in (STORED.parents[2] / "docs" / "verifiers.md").read_text(encoding="utf-8")
