"""Two steps of verl's whole command on a CPU: Ray, its workers, FSDP, and validation before and after."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from ibtpo.credit import CreditOptions, path_advantages, token_advantages
from ibtpo.integrations.verl.trees import Settings
from real_verl.launch import QUESTIONS, main_ppo
from real_verl.questions import walks
from real_verl.reference import Reference

Metrics = dict[str, float]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Metrics], Path]:
    """What each step logged, the validation before the first as step 0, and the folder of verl's rollout files."""
    folder = tmp_path_factory.mktemp("run")
    status, output = main_ppo(
        folder,
        "ibtpo.verifier=verl",
        "trainer.total_training_steps=2",
        "trainer.test_freq=2",
        f"trainer.rollout_data_dir={folder / 'rollouts'}",
        "actor_rollout_ref.actor.optim.lr=1e-4",
    )
    assert status == 0, output[-8000:]
    lines = re.findall(r"step:(\d+) - (.*)", output)
    assert [int(step) for step, _ in lines] == [0, 1, 2], output[-8000:]
    pairs = [re.findall(r"([\w/@.-]+):(?:np\.\w+\()?([-+\w.]+)", line) for _, line in lines]
    return [{name: float(value) for name, value in found} for found in pairs], folder / "rollouts"


def rows_of(folder: Path, step: int) -> list[dict[str, Any]]:
    """The answers that verl wrote of a step."""
    return [json.loads(line) for line in (folder / f"{step}.jsonl").read_text().splitlines()]


def test_the_first_steps_answers_and_advantages_are_those_of_trees_grown_without_verl(
    run: tuple[list[Metrics], Path],
) -> None:
    """Through Ray, the agent loop, TransferQueue and the advantage estimator: verl writes the sum of an answer's."""
    reference, settings = Reference(), Settings(verifier="walk")
    wanted, rewards, largest = [], [], []
    for index, problem in enumerate(walks(2)):
        tree = reference.tree(problem, index, 1, settings)
        advantages = token_advantages(tree, path_advantages(tree, CreditOptions()))
        rewards += [leaf.reward for leaf in tree.leaves]
        largest += [float(a.max()) for a in advantages]
        wanted += [
            (problem.prompt, reference.decode(tree.completion_ids(i)), float(a.sum())) for i, a in enumerate(advantages)
        ]
    found = [(row["input"], row["output"], row["score"]) for row in rows_of(run[1], 1)]
    assert len(found) == len(wanted) == 24
    for (prompt, text, total), (prompt_there, text_there, total_there) in zip(
        sorted(wanted), sorted(found), strict=True
    ):
        assert (prompt, text) == (prompt_there, text_there)
        assert total_there == pytest.approx(total, abs=1e-3)
    first = run[0][1]
    assert first["critic/advantages/max"] == pytest.approx(max(largest), abs=1e-3)
    assert first["ibtpo/reward/mean"] == pytest.approx(sum(rewards) / 24)


def test_what_is_logged(run: tuple[list[Metrics], Path]) -> None:
    for step in run[0][1:]:
        assert step["ibtpo/trajectories"] == 24
        assert step["critic/score/mean"] == step["critic/rewards/mean"] == step["ibtpo/reward/mean"]
        assert (24 * step["ibtpo/reward/mean"]) == pytest.approx(round(24 * step["ibtpo/reward/mean"]), abs=1e-6)
        assert {"ibtpo/eff_rate", "ibtpo/cov_eta", "ibtpo/branch_cost", "ibtpo/generated_tokens"} <= set(step)
        assert step["actor/grad_norm"] > 0
        # The servers' log-probs are the trainer's, which computes in bfloat16, also after the weights have moved.
        assert step["training/rollout_probs_diff_max"] < 0.05
        assert step["training/off_policy/trajectory_staleness/max"] == 0
    assert run[0][2]["ibtpo/generated_tokens"] != run[0][1]["ibtpo/generated_tokens"]


def test_validation_is_verls_own(run: tuple[list[Metrics], Path]) -> None:
    """One greedy answer a question: its mean is a multiple of one over the number of questions."""
    for step in (run[0][0], run[0][2]):
        (name,) = [name for name in step if name.startswith("val-core/walk/") and name.endswith("mean@1")]
        assert math.isclose(step[name] * QUESTIONS, round(step[name] * QUESTIONS), abs_tol=1e-6)
        assert not any(key.startswith("ibtpo/") for key in run[0][0])
