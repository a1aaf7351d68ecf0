"""`ibtpo score`: the numbers of the golden trees, its options, its table, and files that hold no trees."""

import gzip
import io
import json
import sys
from pathlib import Path

import pytest

from helpers.places import GOLDEN
from ibtpo.tree import read_trees, write_trees


def assert_same(got: object, expected: object) -> None:
    if isinstance(expected, dict):
        assert list(got) == list(expected)
        for key in expected:
            assert_same(got[key], expected[key])
    elif isinstance(expected, list):
        assert len(got) == len(expected)
        for a, b in zip(got, expected, strict=True):
            assert_same(a, b)
    elif isinstance(expected, float):
        assert got == pytest.approx(expected, abs=1e-9)
    else:
        assert got == expected
        assert type(got) is type(expected)


def test_score_prints_the_advantage_that_is_asked_for(call) -> None:
    def of(*words: str) -> list[float | None]:
        code, out, _ = call("score", GOLDEN / "three_leaf.jsonl", "--json", *words)
        assert code == 0
        return [node["advantage"] for node in json.loads(out)["nodes"]]

    assert of("--advantage", "treepo")[1:] == pytest.approx([1 / 12, 7 / 12, -1 / 3, -5 / 12])
    assert of() == of("--advantage", "ibtpo") != of("--advantage", "treepo")
    assert call("score", GOLDEN / "three_leaf.jsonl", "--advantage", "tree_po") == (
        2, "", "error: unknown advantage 'tree_po'; did you mean 'treepo'?\n"
    )  # fmt: skip


@pytest.mark.parametrize("name", sorted(p.stem for p in GOLDEN.glob("*.jsonl")))
def test_score_prints_the_hand_computed_numbers(call, name: str) -> None:
    code, out, err = call("score", GOLDEN / f"{name}.jsonl", "--json")
    assert (code, err) == (0, "")
    assert_same(json.loads(out), json.loads((GOLDEN / f"{name}.json").read_text()))


def test_score_heeds_its_options(call) -> None:
    for case in json.loads((GOLDEN / "options.json").read_text()):
        words = [word for key, value in case["options"].items() for word in (f"--{key}", value)]
        code, out, _ = call("score", GOLDEN / f"{case['tree']}.jsonl", "--json", *words)
        assert code == 0
        assert_same(json.loads(out), case["expected"])


def test_score_reads_gzip_and_stdin_alike(call, tmp_path: Path, monkeypatch) -> None:
    source = GOLDEN / "merged.jsonl"
    (tmp_path / "trees.jsonl.gz").write_bytes(gzip.compress(source.read_bytes()))
    expected = call("score", source, "--json")
    assert call("score", tmp_path / "trees.jsonl.gz", "--json") == expected
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(source.read_bytes())))
    assert call("score", "-", "--json") == expected


def test_score_shows_escapes_in_ids_and_steps_as_signs(call, tmp_path: Path) -> None:
    tree = next(iter(read_trees(GOLDEN / "inner_leaf.jsonl")))
    tree.id = "a\x1b]0;title\x07\u202e"
    tree.nodes[1].step.text = "\x9b31m\u202e"
    write_trees(tmp_path / "t.jsonl", [tree])
    code, out, _ = call("score", tmp_path / "t.jsonl")
    assert code == 0
    assert out.startswith("a[U+001B]]0;title[U+0007][U+202E]: 5 trajectories")
    assert out.splitlines()[3].endswith("[U+009B]31m[U+202E]")


def test_score_prints_a_table_with_steps_under_the_ones_they_follow(call) -> None:
    code, out, _ = call("score", GOLDEN / "inner_leaf.jsonl")
    lines = out.splitlines()
    assert code == 0
    assert lines[0] == (
        "inner_leaf: 5 trajectories, avg_reward 0.6667, policy_rate 0.5000, effective yes, ib_score 0.3750, "
        "cov_eta -0.0469"
    )
    assert [line.split()[0] for line in lines[2:8]] == ["0", "1", "4", "5", "2", "3"]
    numbers = ["0.5000", "-0.4500", "0.5000", "1.2000", "-0.2886", "-0.2250", "-0.3111"]
    assert lines[3].split() == ["1", "1", *numbers, r"10\n\n"]
    assert lines[5].split()[2:9] == ["-", "-", "0.1250", "-", "-", "-", "-"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is empty"),
        ("{", ":1: "),
        ("[]", ":1: a tree must be a JSON object, got list"),
        ('{"id": "a"}', ":1: tree has no 'prompt_ids'"),
        ('{"id": "a", "prompt_ids": [1], "nodes": [], "leaves": [{"node": 3}]}', ":1: leaves[0].node must be"),
    ],
)
def test_a_malformed_tree_file_is_named_with_its_line(call, tmp_path: Path, monkeypatch, content, message) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text(content)
    code, out, err = call("score", file, "--json")
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {file}")
    assert message in err
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    code, _, err = call("score", "-")
    assert code == 2
    assert err.startswith("error: <stdin>:")
