"""A run made of a user's own parts: rule, advantage, splitter, engine and verifier, each a file found by dotted path.

The same two steps are trained by the command line, in a folder of its own as a user would, and by `ibtpo.train`.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ibtpo
from ibtpo.tree import ROOT, read_trees

PARTS = {
    "rule.py": '''
        from ibtpo import BranchPoint

        def deepest(tree, k, options, seed):
            """Right after the step with children that is farthest from the root."""
            return [BranchPoint(max(tree.branchable(), key=lambda node: (len(tree.path(node)), node)))]
    ''',
    "splitter.py": '''
        def fives(pieces):
            """A step is five tokens."""
            return [*range(5, len(pieces), 5), len(pieces)] if pieces else []
    ''',
    "advantage.py": '''
        import json
        import numpy as np
        from ibtpo import BatchScale

        def centred(tree, options):
            """The reward minus the tree's mean, for every step of a trajectory."""
            rewards = [leaf.reward for leaf in tree.leaves]
            return [np.full(len(tree.path(f.node)), f.reward - np.mean(rewards)) for f in tree.leaves]

        def contributions(tree, paths):
            return [float(path[0]) for path in paths if len(path)]

        def twice_the_largest(values):
            with open("scales.jsonl", "a") as f:
                print(json.dumps(values), file=f)
            return 2 * max(map(abs, values)) or 1.0

        centred.batch_scale = BatchScale(contributions, twice_the_largest)
    ''',
    "engine.py": '''
        import json
        import math
        import torch
        import ibtpo

        class Plain(ibtpo.Engine):
            """One forward pass a token over the whole prefix: slow, and nothing to get wrong."""

            def __init__(self, model, tokenizer):
                self.model, self.end = model, tokenizer.eos_token_id

            async def generate(self, prompt_ids, sampling, seed, max_new_tokens):
                random = torch.Generator().manual_seed(seed)
                ids, logprobs, entropies = list(prompt_ids), [], []
                while len(logprobs) < max_new_tokens and (not logprobs or ids[-1] != self.end):
                    logits = self.model(torch.tensor([ids])).logits[0, -1].float() / sampling.temperature
                    logp = logits.log_softmax(-1)
                    ids.append(int(torch.multinomial(logp.exp(), 1, generator=random)))
                    logprobs.append(float(logp[ids[-1]]))
                    entropies.append(float(-(logp.exp() * logp).sum()))
                new = ids[len(prompt_ids):]
                with open("sampled.jsonl", "a") as f:
                    print(json.dumps(ids), file=f)
                return ibtpo.Completion(new, logprobs, entropies, "eos" if new[-1] == self.end else "length")

        def plain(model, tokenizer, *, max_in_flight):
            return Plain(model, tokenizer)
    ''',
    "verifier.py": '''
        def even(completions, **columns):
            """Right with an even number of plus signs."""
            return [float(c.count("+") % 2 == 0) for c in completions]
    ''',
}
SETTINGS = {
    "model": "nano",
    "data": "walk:train",
    "eval_data": "none",
    "branching": "rule:deepest",
    "splitter": "splitter:fives",
    "advantage": "advantage:centred",
    "engine": "engine:plain",
    "verifier": "verifier:even",
    "confidence": "joint",
    "beta": 0.0,
    "tree": "2,3,1,1",
    "num_generations": 4,
    "prompts_per_step": 3,
    "max_completion_length": 24,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "learning_rate": 1e-3,
    "max_steps": 2,
    "limit": 12,
    "threads": 1,
    "save_trees_every": 1,
    "log_completions": True,
    "seed": 5,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the parts, and nothing installed."""
    folder = tmp_path_factory.mktemp("own")
    for name, text in PARTS.items():
        (folder / name).write_text("\n".join(line[8:] for line in text.splitlines()))
    return folder


@pytest.fixture(scope="module")
def by_command(place: Path) -> Path:
    """The run folder of the command line, started as its console script starts it: `-P` leaves the folder out."""
    words = [w for key, value in SETTINGS.items() for w in (f"--{key}", json.dumps(value).strip('"'))]
    code = "import sys; from ibtpo.cli import main; sys.exit(main())"
    command = [sys.executable, "-P", "-c", code, "train", *words, "--max_generated_tokens", "null", "--output", "run"]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return place / "run"


def trees_of(run: Path) -> list[ibtpo.ReasoningTree]:
    files = sorted((run / "trees").glob("step_*.jsonl.gz"))
    assert [f.name for f in files] == ["step_000001.jsonl.gz", "step_000002.jsonl.gz"]
    return [tree for file in files for tree in read_trees(file)]


def lines_of(file: Path) -> list[list[float]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_the_engine_sampled_every_answer_and_the_splitter_cut_it(by_command: Path) -> None:
    trees, sampled = trees_of(by_command), lines_of(by_command.parent / "sampled.jsonl")
    assert len(trees) == 6
    assert len(sampled) == 24  # 2 steps of 3 questions with 4 answers: nothing else sampled
    answers = [[*tree.prompt_ids, *tree.completion_ids(i)] for tree in trees for i in range(4)]
    assert sorted(answers) == sorted(sampled)
    for tree in trees:
        ends = {leaf.node for leaf in tree.leaves}
        lengths = {n.id: len(n.step.token_ids) for n in tree.nodes[1:]}
        assert all(length == 5 for id, length in lengths.items() if id not in ends)
        assert all(1 <= length <= 5 for length in lengths.values())


def test_the_trees_name_the_model_as_it_was_asked_for(by_command: Path) -> None:
    assert {tree.meta["model"] for tree in trees_of(by_command)} == {"nano"}


def test_the_rule_chose_every_branch_and_the_verifier_graded_every_answer(by_command: Path) -> None:
    for tree in trees_of(by_command):
        assert [r.at for r in tree.rollouts[:2]] == [ROOT, ROOT]
        assert all(r.at != ROOT for r in tree.rollouts[2:])
        again = ibtpo.ReasoningTree(tree.id, tree.prompt_ids)
        for i, (leaf, rollout) in enumerate(zip(tree.leaves, tree.rollouts, strict=True)):
            assert leaf.reward == float(tree.completion_text(i).count("+") % 2 == 0)
            if i >= 2:
                deepest = max(again.branchable(), key=lambda node: (len(again.path(node)), node))
                assert again.prefix_ids(deepest) == tree.prefix_ids(rollout.at)
            steps = [tree.nodes[n].step for n in tree.path(leaf.node)[len(tree.path(rollout.at)) :]]
            at = next(n.id for n in again.nodes if again.prefix_ids(n.id) == tree.prefix_ids(rollout.at))
            again.add(at, steps, leaf.reward, leaf.stop)


def test_the_update_used_the_advantage_divided_by_the_scale_of_the_batch(by_command: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    scales = lines_of(by_command.parent / "scales.jsonl")
    assert [len(values) for values in scales] == [12, 12]  # all answers of the step's three trees
    trees = trees_of(by_command)
    for step, values in enumerate(scales):
        rewards = [[leaf.reward for leaf in tree.leaves] for tree in trees[3 * step : 3 * step + 3]]
        centred = [r - np.mean(group) for group in rewards for r in group]
        assert values == pytest.approx(centred)
        (file,) = by_command.rglob(f"completions_{step + 1:05d}.parquet")
        logged = parquet.read_table(file).to_pydict()["advantage"]
        assert sorted(logged) == pytest.approx(sorted(np.array(centred) / (2 * max(map(abs, centred)) or 1.0)))
    assert any(max(map(abs, values)) > 0 for values in scales)


def test_the_same_run_in_python_gives_the_same_trees(
    by_command: Path, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(place))
    run = ibtpo.train(SETTINGS, output=tmp_path / "run")
    assert run.path == tmp_path / "run"
    run = ibtpo.train(SETTINGS, output=tmp_path / "run", overwrite=True)  # over itself: nothing of the first is left
    assert run.generated_tokens == sum(tree.generated_tokens for tree in trees_of(by_command))
    assert [t.to_dict() for t in trees_of(run.path)] == [t.to_dict() for t in trees_of(by_command)]
    assert [f.name for f in sorted(run.path.rglob("completions_*.parquet"))] == [
        "completions_00001.parquet",
        "completions_00002.parquet",
    ]
