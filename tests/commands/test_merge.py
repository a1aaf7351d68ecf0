"""`--shard` and `ibtpo merge`: the joined result is what one command without shards writes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ibtpo.storage.shards import Shard
from ibtpo.tree import ReasoningTree, read_trees

pytest.importorskip("torch")

MODEL = ("--model", "nano", "--data", "walk:test", "--limit", 5, "--max-completion-length", 36, "--quiet")
TREES = (*MODEL, "--tree", "2,3,1,1")
Call = Callable[..., tuple[int, str, str]]


def content(path: Path) -> list[Any]:
    """Trees without their floats, whose last bits may depend on the batch."""
    return [(t.id, [t.completion_ids(i) for i in range(len(t.leaves))], places(t)) for t in read_trees(path)]


def places(tree: ReasoningTree) -> list[Any]:
    return [(r.at, r.round, leaf.reward) for r, leaf in zip(tree.rollouts, tree.leaves, strict=True)]


def test_joined_trees_are_those_of_one_command(call: Call, tmp_path: Path) -> None:
    whole, joined = tmp_path / "whole.jsonl", tmp_path / "joined.jsonl"
    assert call("sample", *TREES, "--output", whole)[0] == 0
    for shard in ("2/2", "1/2"):
        assert call("sample", *TREES, "--output", joined, "--shard", shard)[0] == 0
    assert [len(list(read_trees(Shard(i, 2).file(joined)))) for i in (1, 2)] == [3, 2]
    assert call("merge", joined) == (0, f"{joined}: 5 trees of 2 shards\n", "")
    assert content(joined) == content(whole)
    code, _, err = call("merge", joined)
    assert (code, err) == (2, f"error: {joined} exists already; give --overwrite to replace it\n")
    assert call("merge", joined, "--overwrite", "--json")[0] == 0
    code, _, err = call("sample", *TREES, "--output", joined, "--resume")
    assert (code, err) == (0, "")  # its options are those of the whole, and nothing is left to grow
    assert content(joined) == content(whole)


def test_shards_that_do_not_belong_together_are_told_and_nothing_is_written(call: Call, tmp_path: Path) -> None:
    out = tmp_path / "t.jsonl"
    assert call("sample", *TREES, "--output", out, "--shard", "1/2")[0] == 0
    code, _, err = call("merge", out)
    assert (code, err) == (2, f"error: {out}: not there yet: shard 2/2\n")
    assert call("sample", *TREES, "--output", out, "--shard", "2/2", "--seed", 1)[0] == 0
    code, _, err = call("merge", out)
    assert code == 2
    assert "search of " in err
    assert err.endswith("is not that of the first shard; run it anew\n")
    Shard(2, 2).file(out).write_bytes(Shard(1, 2).file(out).read_bytes())
    code, _, err = call("merge", out)
    assert code == 2
    assert "is in another shard, too; run it anew" in err
    assert {p.name for p in tmp_path.iterdir()} == {"t.shard-1-of-2.jsonl", "t.shard-2-of-2.jsonl"}
    code, _, err = call("sample", *TREES, "--output", out, "--shard", "6/6")
    assert (code, err) == (2, "error: --shard 6/6: only 5 problems; use at most so many shards\n")
    code, _, err = call("sample", *TREES, "--output", out, "--shard", "3/2")
    assert code == 2
    assert "a shard is I/N with I from 1 to N, such as 2/4; got '3/2'" in err


def test_a_joined_evaluation_is_that_of_one_command(call: Call, tmp_path: Path) -> None:
    whole, joined = tmp_path / "whole.json", tmp_path / "joined.json"
    assert call("eval", *MODEL, "--k", 3, "--output", whole)[0] == 0
    for shard in ("1/3", "2/3", "3/3"):
        assert call("eval", *MODEL, "--k", 3, "--output", joined, "--shard", shard)[0] == 0
    code, out, err = call("merge", joined)
    assert (code, err) == (0, "")
    assert out.startswith("avg@3 ")
    answers = [p.with_suffix(".answers.jsonl").read_text() for p in (whole, joined)]
    assert answers[0] == answers[1]
    one, other = (json.loads(p.read_text()) for p in (whole, joined))
    assert other.pop("shards") == 3
    assert other.pop("seconds") > 0
    assert other == {key: value for key, value in one.items() if key != "seconds"}
    code, _, err = call("eval", *MODEL, "--shard", "1/2")
    assert (code, err) == (2, "error: --shard needs --output: without it there is nothing to join\n")


def test_a_joined_comparison_and_diagnosis_are_finished_by_the_command_itself(call: Call, tmp_path: Path) -> None:
    compare = ("compare", "branching", *TREES, "--arms", "ib", "--pool", 12, "--output")
    diagnose = ("diagnose", *TREES, "--output")
    for words, files in ((compare, ("ib.jsonl.gz", "independent.jsonl.gz")), (diagnose, ("nano.jsonl",))):
        whole, joined = (tmp_path / f"{words[0]}-{name}" for name in ("whole", "joined"))
        assert call(*words, whole)[0] == 0
        for shard in ("1/2", "2/2"):
            assert call(*words, joined, "--shard", shard)[0] == 0
        assert [p.name for p in joined.iterdir()] == ["trees"]
        code, _, err = call(*words, joined, "--shard", "1/2")
        assert code == 2
        assert "exists already" in err
        code, out, err = call("merge", joined)
        assert (code, err) == (0, "")
        assert out.endswith("now the same command without --shard and with --resume writes the result\n")
        assert call(*words, joined, "--resume")[0] == 0
        for name in files:
            assert content(joined / "trees" / name) == content(whole / "trees" / name)
        one, other = (json.loads((folder / "summary.json").read_text()) for folder in (whole, joined))
        key = "arms" if "arms" in one else "verdict"
        assert rounded(one[key]) == rounded(other[key])


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else pytest.approx(value, abs=1e-6)
