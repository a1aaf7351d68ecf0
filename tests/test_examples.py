"""Every example of docs/your-task.md runs, through the command line and from Python, and does what its text says."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import ibtpo
from helpers import sandboxes
from ibtpo.credit import leaf_rewards
from ibtpo.score import score_tree
from ibtpo.tree import ROOT, ReasoningTree, read_trees

EXAMPLES = Path(__file__).parents[1] / "examples"
SAMPLE = ("sample", "--model", "nano", "--data", "problems.jsonl", "--verifier", "my_reward:reward", "--limit", 3)
PARTS = ("verifier", "splitter", "branching", "advantage", "engine")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of examples/your_task: nothing is written into the checkout."""
    return Path(shutil.copytree(EXAMPLES / "your_task", tmp_path_factory.mktemp("examples") / "your_task"))


@pytest.fixture
def sample(call, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`ibtpo sample` in the folder of the examples: the trees."""
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(str(place))

    def run(*words: object) -> list[ReasoningTree]:
        output = tmp_path / f"{len(list(tmp_path.iterdir()))}.jsonl"
        code, _, err = call(*SAMPLE, *words, "--output", output, "--quiet")
        assert (code, err) == (0, "")
        return list(read_trees(output))

    return run


def last_value(text: str) -> str:
    return text.split("=")[-1].split(".")[0].strip()


def test_the_reward_is_one_where_the_last_value_is_the_answer(sample) -> None:
    trees = sample()
    assert len(trees) == 3
    for tree in trees:
        for i, leaf in enumerate(tree.leaves):
            assert leaf.reward == float(last_value(tree.completion_text(i)) == tree.answer)
    assert {leaf.reward for tree in trees for leaf in tree.leaves} == {0.0, 1.0}


def test_a_step_of_the_splitter_is_two_moves(sample) -> None:
    for tree in sample("--splitter", "my_splitter:two_moves"):
        counts = {node.step.text.count("\n\n") for node in tree.nodes[1:] if node.children}
        assert counts == {2}
        assert all(tree.nodes[leaf.node].step.text.count("\n\n") <= 2 for leaf in tree.leaves)


def test_the_rule_branches_where_answers_are_most_mixed(sample) -> None:
    for tree in sample("--branching", "my_branching:most_mixed"):
        assert tree.meta["search"]["branching"] == "my_branching:most_mixed"
        known = [leaf.reward for leaf in tree.leaves[:4]]  # the first branch sees the first four answers
        branch = tree.rollouts[4]
        assert branch.score is not None
        if 0 < sum(known) < 4:
            assert abs(branch.score - 0.5) <= abs(sum(known) / 4 - 0.5)  # the root is one of the places
        else:
            assert branch.score == known[0]


def test_the_advantage_is_what_a_step_changed_divided_over_the_batch(sample, place: Path, call, tmp_path: Path) -> None:
    trees = sample()
    options = ibtpo.CreditOptions("my_advantage:progress")
    for tree in trees:
        value = score_tree(tree).p_hat
        for path, leaf in zip(ibtpo.path_advantages(tree, options), tree.leaves, strict=True):
            assert math.fsum(path) == pytest.approx(value[leaf.node] - value[ROOT])  # the changes add up
    import my_advantage

    scale = my_advantage.progress.batch_scale
    assert isinstance(scale, ibtpo.BatchScale)
    assert scale.values(trees[0], [np.array([0.5, -0.5]), np.array([0.25])]) == [0.5, -0.5, 0.25]
    assert scale.scale([3.0, -3.0]) == pytest.approx(3.0 + 1e-4)
    ibtpo.write_trees(tmp_path / "trees.jsonl", trees)
    code, out, _ = call("score", tmp_path / "trees.jsonl", "--advantage", "my_advantage:progress", "--json")
    assert code == 0
    first = json.loads(out.splitlines()[0])
    value = score_tree(trees[0]).p_hat
    for node in trees[0].nodes[1:]:
        assert first["nodes"][node.id]["advantage"] == pytest.approx(value[node.id] - value[node.parent])


def test_the_engine_gives_the_models_own_log_probs_and_the_same_trees_again(sample) -> None:
    words = ("--engine", "my_engine:open_engine", "--temperature", 0.7, "--top-p", 0.9, "--top-k", 5)
    trees = sample(*words)
    model, _ = ibtpo.load_model("nano")
    for tree in trees:
        ids = tree.prefix_ids(tree.leaves[0].node)
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, :-1].float() / 0.7
        start = len(tree.prompt_ids)
        expected = logits.log_softmax(-1).gather(-1, torch.tensor(ids[1:])[:, None])[start - 1 :, 0]
        np.testing.assert_allclose(tree.completion_logprobs(0), expected.numpy(), atol=1e-4)
        assert len(leaf_rewards(tree)) == 12
    assert [t.to_dict() for t in sample(*words)] == [t.to_dict() for t in trees]


def test_the_engine_draws_only_from_what_top_k_and_top_p_keep(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(place))
    import my_engine

    p = torch.tensor([0.1, 0.4, 0.2, 0.3])
    for top_p, top_k, expected in (
        (1.0, 0, [0.1, 0.4, 0.2, 0.3]),
        (1.0, 2, [0.0, 0.4, 0.0, 0.3]),
        (0.5, 0, [0.0, 0.4, 0.0, 0.3]),
        (0.35, 0, [0.0, 0.4, 0.0, 0.0]),
        (0.5, 2, [0.0, 0.4, 0.0, 0.0]),  # top-p is taken of what top-k left
    ):
        kept = my_engine.kept(p, ibtpo.Sampling(1.0, top_p, top_k))
        torch.testing.assert_close(kept, torch.tensor(expected))


def started(place: Path, *command: object) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run([str(c) for c in command], cwd=place, env=env, capture_output=True, text=True, timeout=500)


def check_run(folder: Path, recipe: dict) -> None:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2]
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert {name: config[name] for name in PARTS} == {name: recipe[name] for name in PARTS}
    tree = next(iter(read_trees(folder / "trees" / "step_000001.jsonl.gz")))
    assert tree.meta["search"]["splitter"] == "my_splitter:two_moves"
    assert len(tree.leaves) == 8


@pytest.mark.slow
def test_the_recipe_trains_two_steps_with_all_parts_through_the_console_script(place: Path) -> None:
    script = Path(sys.executable).with_name("ibtpo")
    done = started(place, script, "train", "recipe.yaml", "--output", "runs/mine")
    assert done.returncode == 0, done.stderr[-3000:]
    check_run(place / "runs" / "mine", yaml.safe_load((place / "recipe.yaml").read_text()))


@pytest.mark.slow
def test_the_script_trains_the_recipe_from_python(place: Path) -> None:
    done = started(place, sys.executable, "train.py")
    assert done.returncode == 0, done.stderr[-3000:]
    check_run(place / "runs" / "from-python", yaml.safe_load((place / "recipe.yaml").read_text()))
    config = yaml.safe_load((place / "runs" / "from-python" / "config.yaml").read_text())
    assert config["learning_rate"] == 1e-4


@pytest.mark.slow
def test_the_first_tree_of_the_quickstart_prints_what_the_page_says() -> None:
    done = started(EXAMPLES, sys.executable, "first_tree.py")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == (EXAMPLES / "first_tree.txt").read_text()


def test_the_code_problems_have_solutions_that_pass(call) -> None:
    sandboxes.needs_sandbox()
    code, out, err = call("check-data", EXAMPLES / "code" / "problems.jsonl", "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert (report["verifier"], report["n"], report["passed"]) == ("code", 3, 3)


def test_the_python_tool_runs() -> None:
    sandboxes.needs_sandbox()
    run = subprocess.run(
        [sys.executable, EXAMPLES / "code" / "with_trl.py"], capture_output=True, text=True, check=True
    )
    assert run.stdout == "285\n"
