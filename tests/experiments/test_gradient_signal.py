"""Policy gradients of trees: with shared prefixes computed once they are what each answer alone gives."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from helpers import trees
from ibtpo.engines.models import load_model
from ibtpo.score import ScoreOptions
from ibtpo.tree import ReasoningTree

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments" / "gradient_signal"))

import measure
import tree_gradients


def answer_by_answer(model: torch.nn.Module, tree: ReasoningTree, weights: list[np.ndarray], t: float) -> np.ndarray:
    """The gradient of Σ weight · log-prob, a forward pass an answer."""
    total = torch.zeros(())
    for i, weight in enumerate(weights):
        ids = torch.tensor([[*tree.prompt_ids, *tree.completion_ids(i)]])
        logprobs = (model(input_ids=ids).logits[0, :-1] / t).log_softmax(-1)
        chosen = logprobs.gather(-1, ids[0, 1:, None])[-len(weight) :, 0]
        total = total + (chosen * torch.tensor(weight, dtype=logprobs.dtype)).sum()
    parts = torch.autograd.grad(total, [p for p in model.parameters() if p.requires_grad])
    return torch.cat([part.flatten() for part in parts]).numpy()


@pytest.mark.parametrize("rank", [0, 4])
def test_gradients_are_those_of_each_answer_alone(rank: int) -> None:
    model, _ = load_model("nano")
    if rank:
        model = get_peft_model(model, LoraConfig(r=rank, target_modules="all-linear", task_type="CAUSAL_LM"))
    model = model.double()  # so that what is compared is not a CPU's rounding
    both = [trees.three_leaf(), trees.merged()]
    method = tree_gradients.of_method(tree_gradients.advantages(ScoreOptions())["ibtpo"])
    found = tree_gradients.gradients(model, both, [method, tree_gradients.of_success], temperature=0.7)
    for gradient, weights in zip(found, (method, tree_gradients.of_success), strict=True):
        alone = sum(answer_by_answer(model, tree, weights(tree), 0.7) for tree in both) / 2
        assert np.abs(alone).max() > 1e-3
        assert np.linalg.norm(gradient - alone) < 1e-5 * np.linalg.norm(alone)


def test_weights_of_success_are_advantages_over_the_others_mean() -> None:
    weights = tree_gradients.of_success(trees.three_leaf())  # rewards 1, 0, 0: above the others' means by 1, -1/2, -1/2
    assert [w.tolist() for w in weights] == [
        pytest.approx([1 / 3] * 3), pytest.approx([-1 / 6] * 2), pytest.approx([-1 / 6] * 3)
    ]  # fmt: skip


def test_the_groups_are_the_paper_s_and_only_branching_by_draws_scores_otherwise() -> None:
    kinds = tree_gradients.groups(ScoreOptions())
    assert kinds["ib"][2] == ScoreOptions()
    assert kinds["ib, β 1"][2] == ScoreOptions(ib_beta=1)
    assert kinds["ib, draws, joint, β 1"][2] == ScoreOptions(ib_beta=1, value="draws", confidence="joint")
    assert {name: kind[1].trajectories for name, kind in kinds.items()} == {
        name: 8 if name == "independent, 8" else 12 for name in kinds
    }


def test_signal_is_counted_for_the_tokens_spent() -> None:
    # c = 0.6: c²/(1 − c²) = 0.36/0.64 = 0.5625; with half the tokens a method that is as exact counts twice.
    cosines = [np.array([0.6, 0.6]), np.array([0.6, 0.6])]
    rows = measure.signal_rows([("independent, 8", "grpo"), ("ib", "ibtpo")], cosines, [2.0, 1.0], 4)
    assert [row["signal"] for row in rows] == pytest.approx([0.28125, 0.5625])
    assert [row["ratio"] for row in rows] == pytest.approx([1.0, 2.0])
    assert rows[1]["ci"] == pytest.approx([2.0, 2.0])
    assert rows[0]["tokens"] == 500


def test_the_interval_of_few_batches_is_the_jackknife_s() -> None:
    # Without the first batch both are at 0.5, without the second 0.6 against 0.5: ln 1 and ln 0.5625/(1/3) = 0.52325.
    # √((n − 1)·variance) = 0.26162, t of one degree 12.7062; the middle is ln (0.3025/0.6975)/(1/3) = 0.26319.
    cosines = [np.array([0.5, 0.5]), np.array([0.6, 0.5])]
    (row,) = measure.signal_rows([("independent, 8", "grpo"), ("ib", "ibtpo")], cosines, [1.0, 1.0], 4)[1:]
    assert row["ratio"] == pytest.approx(1.301075, rel=1e-6)
    assert row["ci"] == pytest.approx([0.0468381, 36.1414], rel=1e-4)


def test_advantages_are_compared_on_the_same_trees() -> None:
    names = [("independent, 8", "grpo"), ("ib", "grpo"), ("ib", "ibtpo")]
    cosines = [np.array([c, c]) for c in (0.3, 0.6, 0.5)]
    rows = measure.signal_rows(names, cosines, [1.0, 2.0, 2.0], 4)
    assert rows[0]["to_ibtpo"] is None
    assert rows[1]["to_ibtpo"] == pytest.approx([0.5625 * 3] * 3)  # 0.36/0.64 over 0.25/0.75, whatever both cost
    assert rows[2]["to_ibtpo"] == [1, 1, 1]


def test_the_true_gradient_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = load_model("nano")
    both = [trees.three_leaf(), trees.merged()]
    whole = measure.true_gradient(model, both, 1.0, tmp_path / "whole.npz")
    measure.true_gradient(model, both[:1], 1.0, tmp_path / "parts.npz")
    asked = []
    real = measure.gradients
    monkeypatch.setattr(measure, "gradients", lambda m, t, *a, **k: asked.append(t[0].id) or real(m, t, *a, **k))
    np.testing.assert_allclose(measure.true_gradient(model, both, 1.0, tmp_path / "parts.npz"), whole)
    assert asked == ["merged"]
