"""`ibtpo eval` with a tiny random model: what it prints and what it stores."""

import json
from pathlib import Path

import pytest


def test_eval_prints_and_stores_what_its_answers_say(call, words, tmp_path: Path) -> None:
    file = tmp_path / "results" / "eval.json"
    code, out, err = call("eval", *words, "--k", 6, "--output", file, "--json")
    assert code == 0
    record = json.loads(file.read_text())
    assert json.loads(out) == record
    stored = [json.loads(line) for line in (file.parent / "eval.answers.jsonl").read_text().splitlines()]
    assert [(a["id"], a["draw"]) for a in stored] == [(f"q{i}", j) for i in range(12) for j in range(6)]
    for a in stored:
        assert a["grade"] == float(a["completion"].count("a") > a["completion"].count("b"))
    by_problem = [[a["grade"] for a in stored[i : i + 6]] for i in range(0, 72, 6)]
    assert record["avg"] == pytest.approx(sum(map(sum, by_problem)) / 72)
    assert record["pass"] == pytest.approx(sum(max(grades) for grades in by_problem) / 12)
    assert list(record)[:4] == ["avg", "pass", "k", "n"]
    assert (record["k"], record["n"], record["verifier_errors"]) == (6, 12, 0)
    assert record["avg_ci"][0] < record["avg"] < record["avg_ci"][1]
    assert record["tokens"] == sum(a["tokens"] for a in stored)
    assert err.splitlines()[-1].startswith("12/12 problems, reward ")
    code, _, err = call("eval", *words, "--output", file)
    assert (code, "exists already; give --overwrite" in err) == (2, True)
    assert json.loads(file.read_text()) == record


def test_eval_prints_a_table_with_intervals(call, words) -> None:
    code, out, err = call("eval", *words, "--k", 3, "--limit", 4, "--quiet")
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert [line[0] for line in lines[:4]] == ["avg@3", "pass@1", "pass@2", "pass@3"]
    assert lines[0][1] == lines[1][1]
    assert lines[0][3].startswith("[")
    assert lines[4] == ["problems", "4"]
