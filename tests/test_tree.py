"""The tree: token law, merging, draws, splitting, and the file format with all its errors."""

import copy
import gzip
import json
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.laws import check_laws
from helpers.trees import BUILDERS, merged, step, three_leaf
from ibtpo.errors import DataError
from ibtpo.tree import ROOT, ReasoningTree, read_trees, write_trees

NUMPY_ONLY = (
    "ibtpo",
    "ibtpo.tree",
    "ibtpo.steps",
    "ibtpo.score",
    "ibtpo.credit",
    "ibtpo.branching",
    "ibtpo.search",
    "ibtpo.metrics",
    "ibtpo.engines.scripted",
)


def random_tree(rng: random.Random, n: int = 12) -> tuple[ReasoningTree, list[list[int]]]:
    """A tree of random answers, branches and cuts, and what each trajectory must read."""
    tree = ReasoningTree("r", [rng.randrange(9) for _ in range(rng.randint(0, 3))])
    expected: list[list[int]] = []
    for round in range(n):
        at = rng.choice(tree.branchable() or [ROOT]) if round > 3 else ROOT
        if at != ROOT and len(tree.nodes[at].step.token_ids) > 1 and rng.random() < 0.5:
            offset = rng.randrange(1, len(tree.nodes[at].step.token_ids))
            tree.split(at, offset, ("a", "b"))
        prefix = tree.prefix_ids(at)
        steps = []
        for _ in range(rng.randint(0, 3)):
            ids = [rng.randrange(2) for _ in range(rng.randint(1, 3))]
            steps.append(step(ids, [0.5] * len(ids), [0.1] * len(ids)))
        tree.add(at, steps, rng.choice([0.0, 1.0, None]), "eos", round=round)
        expected.append(prefix + [t for s in steps for t in s.token_ids])
    return tree, expected


def test_thousands_of_random_trees_keep_the_token_law_and_the_draws_law() -> None:
    rng = random.Random(0)
    for _ in range(2000):
        tree, expected = random_tree(rng)
        check_laws(tree)
        assert [list(tree.prompt_ids) + tree.completion_ids(i) for i in range(len(tree.leaves))] == expected
        assert all(len(tree.completion_logprobs(i)) == len(tree.completion_ids(i)) for i in range(len(tree.leaves)))
        assert tree.generated_tokens == sum(r.tokens for r in tree.rollouts)


def test_a_step_equal_token_for_token_is_merged_and_counted() -> None:
    tree = merged()
    assert [(n.id, n.parent, n.draws) for n in tree.nodes[1:]] == [(1, 0, 3), (2, 1, 2), (3, 1, 1), (4, 0, 1)]
    assert [leaf.node for leaf in tree.leaves] == [2, 2, 3, 4]
    assert tree.generated_tokens == 7
    assert tree.unique_tokens == 4


def test_steps_of_equal_tokens_cut_elsewhere_are_not_merged() -> None:
    tree = ReasoningTree("t", [1])
    tree.add(0, [step([2, 3], [0.5, 0.5])], 1.0, "eos")
    tree.add(0, [step([2], [0.5]), step([3], [0.5])], 1.0, "eos")
    assert [n.step.token_ids for n in tree.nodes[1:]] == [(2, 3), (2,), (3,)]
    assert tree.completion_ids(0) == tree.completion_ids(1) == [2, 3]


def test_reading_a_tree() -> None:
    tree = three_leaf()
    assert tree.path(4) == [1, 4]
    assert tree.path(ROOT) == []
    assert tree.prefix_ids(1) == [7, 8, 10, 11]
    assert tree.completion_ids(2) == [10, 11, 13]
    assert tree.completion_text(0) == "10 11\n\n12\n\n"
    assert tree.branchable() == [0, 1]
    assert tree.prompt == "What is 1 + 1?"


def test_an_unknown_stop_reason_is_refused() -> None:
    with pytest.raises(DataError, match="stop must be one of eos, length"):
        ReasoningTree("t", [1]).add(0, [], 1.0, "stop")


# --- splitting


def test_split_keeps_the_law_ids_draws_leaves_and_rollouts() -> None:
    tree = merged()
    tree.add(1, [step([13], [0.5])], 0.0, "eos", round=1)  # node 5
    tree.nodes[1].step = step([10, 14, 15], [0.5, 0.25, 0.125], [1.0, 2.0, 3.0])
    before = [tree.completion_ids(i) for i in range(5)]
    tree.split(1, 2, ("head", "tail"))
    check_laws(tree)
    upper, lower = tree.nodes[1], tree.nodes[2]
    assert (upper.step.token_ids, upper.step.text, upper.step.entropies) == ((10, 14), "head", (1.0, 2.0))
    assert (lower.step.token_ids, lower.step.text, lower.step.entropies) == ((15,), "tail", (3.0,))
    assert (upper.draws, lower.draws) == (3, 3)
    assert (upper.children, lower.children) == ([2], [3, 4, 6])
    assert [leaf.node for leaf in tree.leaves] == [3, 3, 4, 5, 6]
    assert [r.at for r in tree.rollouts] == [0, 0, 0, 0, 2]  # the branch had started after the whole step
    assert [tree.completion_ids(i) for i in range(5)] == before


def test_split_twice_and_branch_in_between() -> None:
    tree = ReasoningTree("t", [1])
    tree.add(0, [step([2, 3, 4, 5], [0.5] * 4)], 1.0, "eos")
    tree.split(1, 3, ("", ""))
    tree.add(1, [step([9], [0.5])], 0.0, "eos", round=1)
    tree.split(1, 1, ("", ""))
    check_laws(tree)
    assert [(n.parent, n.step.token_ids) for n in tree.nodes[1:]] == [(0, (2,)), (1, (3, 4)), (2, (5,)), (2, (9,))]
    assert [tree.completion_ids(i) for i in range(2)] == [[2, 3, 4, 5], [2, 3, 4, 9]]
    assert [r.at for r in tree.rollouts] == [0, 2]


def test_splitting_a_last_step_moves_its_leaves_to_the_lower_part() -> None:
    tree = ReasoningTree("t", [1])
    tree.add(0, [step([2, 3], [0.5, 0.5])], 1.0, "eos")
    tree.split(1, 1, ("", ""))
    assert tree.leaves[0].node == 2
    check_laws(tree)


@pytest.mark.parametrize("offset", [0, 2, -1, 5])
def test_split_refuses_an_offset_outside_the_step(offset: int) -> None:
    with pytest.raises(ValueError, match="0 < offset < 2"):
        three_leaf().split(1, offset, ("", ""))


def test_split_refuses_the_root() -> None:
    with pytest.raises(ValueError, match="root"):
        three_leaf().split(ROOT, 1, ("", ""))


# --- files


@pytest.mark.parametrize("name", BUILDERS)
def test_a_tree_survives_the_round_trip_through_json(name: str) -> None:
    d = BUILDERS[name]().to_dict()
    again = ReasoningTree.from_dict(json.loads(json.dumps(d)))
    assert again.to_dict() == d
    check_laws(again)


def test_random_trees_survive_the_round_trip() -> None:
    rng = random.Random(5)
    for _ in range(200):
        tree, expected = random_tree(rng)
        again = ReasoningTree.from_dict(json.loads(json.dumps(tree.to_dict())))
        assert again.to_dict() == tree.to_dict()
        assert [again.prefix_ids(f.node) for f in again.leaves] == expected


@pytest.mark.parametrize("name", ["trees.jsonl", "trees.jsonl.gz", "deep/er/trees.jsonl"])
def test_trees_are_written_and_read_back(tmp_path: Path, name: str) -> None:
    trees = [build() for build in BUILDERS.values()]
    trees[0].meta["note"] = "汉字 \u2028 \x85 \r line ends inside a string 😀"
    write_trees(tmp_path / name, trees)
    assert [t.to_dict() for t in read_trees(tmp_path / name)] == [t.to_dict() for t in trees]
    assert not list(tmp_path.rglob("*.part"))
    if name.endswith(".gz"):
        assert gzip.decompress((tmp_path / name).read_bytes()).startswith(b'{"schema": "ibtpo.tree/1"')


def shaped() -> ReasoningTree:
    """Four answers with a shaped reward: right, wrong, not known to be either, and one whose reward says it all."""
    tree = ReasoningTree("shaped", [7])
    for token, reward, correct in ((1, 0.9, 1.0), (2, 0.1, 0.0), (3, 0.25, None)):
        tree.add(0, [step([token], [0.5])], reward, "eos", correct=correct)
    tree.add(0, [step([4], [0.5])], 0.5, "eos")
    return tree


def test_raw_correctness_is_the_reward_unless_it_is_given() -> None:
    assert shaped().correct == [1.0, 0.0, None, 0.5]
    assert three_leaf().correct == [1.0, 0.0, 0.0]


def test_a_leaf_s_row_names_its_correctness_only_where_it_is_not_the_reward() -> None:
    d = json.loads(json.dumps(shaped().to_dict()))
    assert [leaf.get("correct", "left out") for leaf in d["leaves"]] == [1.0, 0.0, None, "left out"]
    assert "correct" not in d["meta"]
    assert ReasoningTree.from_dict(d).correct == [1.0, 0.0, None, 0.5]
    assert all("correct" not in leaf for leaf in three_leaf().to_dict()["leaves"])


def test_an_older_file_lists_the_correctness_of_its_leaves_in_meta() -> None:
    d = shaped().to_dict()
    for leaf in d["leaves"]:
        leaf.pop("correct", None)
    assert ReasoningTree.from_dict(d).correct == [0.9, 0.1, 0.25, 0.5]
    d["meta"]["correct"] = [1, 0.0, None, 0.75]
    tree = ReasoningTree.from_dict(d)
    assert tree.correct == [1.0, 0.0, None, 0.75]
    assert "correct" not in tree.meta
    assert [leaf.get("correct") for leaf in tree.to_dict()["leaves"]] == [1.0, 0.0, None, 0.75]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    write_trees(path, [three_leaf()])
    bad = three_leaf()
    bad.leaves[0].reward = float("nan")
    with pytest.raises(ValueError, match="Out of range"):
        write_trees(path, [merged(), bad])
    assert [t.id for t in read_trees(path)] == ["three_leaf"]


def test_blank_lines_are_skipped_and_other_programs_may_leave_out_what_has_a_default(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    row = {"id": "x", "prompt_ids": [], "nodes": [{"id": 1, "parent": 0, "token_ids": [3], "logprobs": [-1]}]}
    path.write_text("\n" + json.dumps({**row, "leaves": [{"node": 1}]}) + "\n  \n")
    (tree,) = read_trees(path)
    assert (tree.nodes[1].draws, tree.nodes[1].step.entropies, tree.leaves[0].reward) == (1, None, None)
    assert (tree.leaves[0].stop, tree.answer, tree.prompt, tree.rollouts) == ("eos", None, "", [])
    assert tree.generated_tokens == tree.unique_tokens == 1


def test_nodes_may_be_listed_in_any_order() -> None:
    d = three_leaf().to_dict()
    shuffled = {**d, "nodes": d["nodes"][::-1]}
    assert ReasoningTree.from_dict(shuffled).to_dict() == d


def put(*path: Any) -> Callable[[dict], None]:
    """A change of one value: put("nodes", 0, "draws", 0) sets d["nodes"][0]["draws"] = 0."""
    *keys, last, value = path

    def change(d: dict) -> None:
        for key in keys:
            d = d[key]
        d[last] = value

    return change


def drop(*path: Any) -> Callable[[dict], None]:
    *keys, last = path

    def change(d: dict) -> None:
        for key in keys:
            d = d[key]
        del d[last]

    return change


MALFORMED: list[tuple[Callable[[dict], None], str]] = [
    (put("schema", "ibtpo.tree/3"), "schema"),
    (put("schema", None), "schema"),
    (drop("id"), "'id'"),
    (put("id", 5), "'id'"),
    (drop("prompt_ids"), "'prompt_ids'"),
    (put("prompt_ids", "7 8"), "prompt_ids"),
    (put("prompt_ids", [1, -1]), "prompt_ids"),
    (put("prompt_ids", [1.0]), "prompt_ids"),
    (put("prompt", 3), "prompt"),
    (put("prompt", None), "prompt"),
    (put("answer", 4), "'answer'"),
    (put("meta", [1]), "meta"),
    (drop("nodes"), "'nodes'"),
    (put("nodes", {}), "nodes"),
    (put("nodes", 1, 5), "nodes[1]"),
    (put("nodes", 0, "id", 0), "node ids"),
    (put("nodes", 0, "id", "1"), "node ids"),
    (put("nodes", 0, "id", 2), "node ids"),
    (put("nodes", 0, "id", True), "node ids"),
    (put("nodes", 0, "id", [1]), "node ids"),
    (drop("nodes", 0, "parent"), "node 1.parent"),
    (put("nodes", 0, "parent", 3), "node 1.parent"),
    (put("nodes", 0, "parent", 1), "node 1.parent"),
    (put("nodes", 0, "parent", -1), "node 1.parent"),
    (put("nodes", 0, "draws", 0), "node 1.draws"),
    (put("nodes", 0, "draws", 1.5), "node 1.draws"),
    (put("nodes", 0, "draws", True), "node 1.draws"),
    (drop("nodes", 0, "token_ids"), "node 1.token_ids"),
    (put("nodes", 0, "token_ids", []), "node 1.token_ids"),
    (put("nodes", 0, "token_ids", ["a", "b"]), "node 1.token_ids"),
    (put("nodes", 0, "text", None), "node 1.text"),
    (drop("nodes", 0, "logprobs"), "node 1.logprobs"),
    (put("nodes", 0, "logprobs", None), "node 1.logprobs"),
    (put("nodes", 0, "logprobs", [-0.5]), "2 token_ids but 1 logprobs"),
    (put("nodes", 0, "logprobs", [-0.5, "x"]), "node 1.logprobs"),
    (put("nodes", 0, "logprobs", [-0.5, float("-inf")]), "node 1.logprobs"),
    (put("nodes", 0, "logprobs", [-0.5, float("nan")]), "node 1.logprobs"),
    (put("nodes", 0, "logprobs", [-0.5, -(10**400)]), "node 1.logprobs"),
    (put("nodes", 0, "entropies", [0.5]), "2 token_ids but 1 entropies"),
    (put("nodes", 0, "entropies", 0.5), "node 1.entropies"),
    (drop("leaves"), "'leaves'"),
    (put("leaves", {}), "leaves"),
    (put("leaves", 0, 3), "leaves[0]"),
    (put("leaves", 0, "node", 9), "leaves[0].node"),
    (put("leaves", 0, "node", -1), "leaves[0].node"),
    (put("leaves", 0, "node", True), "leaves[0].node"),
    (drop("leaves", 0, "node"), "leaves[0].node"),
    (put("leaves", 0, "reward", "1"), "leaves[0].reward"),
    (put("leaves", 0, "reward", True), "leaves[0].reward"),
    (put("leaves", 0, "reward", float("inf")), "leaves[0].reward"),
    (put("leaves", 0, "reward", 10**400), "leaves[0].reward"),
    (put("leaves", 0, "stop", "done"), "leaves[0].stop"),
    (put("leaves", 0, "stop", None), "leaves[0].stop"),
    (put("meta", "rollouts", {"at": 0}), "meta.rollouts"),
    (put("meta", "rollouts", 1, 4), "meta.rollouts[1]"),
    (put("meta", "rollouts", 1, "at", 99), "meta.rollouts[1]"),
    (put("meta", "rollouts", 1, "tokens", -3), "meta.rollouts[1]"),
    (put("meta", "rollouts", 1, "round", 0.5), "meta.rollouts[1]"),
    (put("meta", "rollouts", 1, "score", "high"), "meta.rollouts[1].score"),
    (drop("meta", "rollouts", 1), "meta.rollouts has 2 entries for 3 leaves"),
    (put("meta", "correct", [1.0]), "meta.correct has 1 entries for 3 leaves"),
    (put("meta", "correct", [1.0, "x", None]), "meta.correct[1]"),
    (put("leaves", 1, "correct", "right"), "leaves[1].correct"),
    (put("leaves", 1, "correct", float("nan")), "leaves[1].correct"),
]


@pytest.mark.parametrize(("change", "field"), MALFORMED, ids=[f"{i} {f}" for i, (_, f) in enumerate(MALFORMED)])
def test_a_malformed_tree_is_an_error_naming_file_line_and_field(
    tmp_path: Path, change: Callable[[dict], None], field: str
) -> None:
    good = three_leaf().to_dict()
    bad = copy.deepcopy(good)
    change(bad)
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps(good) + "\n\n" + json.dumps(bad) + "\n" + json.dumps(good) + "\n")
    reader = read_trees(path)
    assert next(reader).to_dict() == good
    with pytest.raises(DataError, match=re.escape(field)) as e:
        next(reader)
    assert str(e.value).startswith(f"{path}:3: ")


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[]",
        b"null",
        b"5",
        b'"tree"',
        b"not json",
        b'{"id": "\xff"}',
        b"[" * 100_000,
        b'{"id": ' + b"9" * 5000 + b"}",
        b"\x00\x00\x00",
    ],
    ids=range(10),
)
def test_a_line_that_is_no_json_object_is_an_error_naming_file_and_line(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(json.dumps(three_leaf().to_dict()).encode() + b"\n" + line + b"\n")
    with pytest.raises(DataError, match=re.escape(f"{path}:2: ")):
        list(read_trees(path))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.jsonl", b""),
        ("blank.jsonl", b"\n \n"),
        ("not_gzip.jsonl.gz", b"{}\n"),
        ("truncated.jsonl.gz", gzip.compress(json.dumps(three_leaf().to_dict()).encode() * 50, mtime=0)[:-30]),
        ("corrupt.jsonl.gz", gzip.compress(b"{}\n" * 2000, mtime=0)[:12] + b"\xff" * 40),
    ],
)
def test_an_unreadable_file_is_an_error_naming_it(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=name):
        list(read_trees(tmp_path / name))


def test_a_missing_file_is_an_error_naming_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.jsonl"):
        list(read_trees(tmp_path / "nowhere.jsonl"))


# --- imports


def test_the_numpy_only_modules_import_neither_torch_nor_anything_built_on_it() -> None:
    heavy = ("torch", "transformers", "trl", "accelerate", "datasets", "vllm", "math_verify", "sympy", "pandas")
    code = (
        "import importlib, json, sys\n"
        f"for m in {NUMPY_ONLY!r}:\n"
        "    importlib.import_module(m)\n"
        f"    print(json.dumps([m, [h for h in {heavy!r} if h in sys.modules]]))\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert [json.loads(line) for line in out.splitlines()] == [[m, []] for m in NUMPY_ONLY]
