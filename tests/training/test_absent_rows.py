"""Trees with fewer than G answers: what TRL counts and shows, their weight in the loss, and every gradient."""

import json
from collections import Counter, deque

import numpy as np
import pytest
import torch
from datasets import Dataset

from helpers.training import ONE_PLAIN_STEP
from ibtpo.credit import path_advantages, token_advantages
from ibtpo.training.absent_rows import count_completions, drop_absent, fill_up, row_weights
from ibtpo.training.config import IBTPOConfig
from ibtpo.training.trainer import IBTPOTrainer
from ibtpo.tree import ReasoningTree, Step

PROMPTS = Dataset.from_list([{"prompt": "abc"[i % 3] + "defg"[i % 4] + "hij"} for i in range(12)])


def mostly_agreed(prompts, completions, **kwargs):
    """Right for every answer to the prompts with an a, wrong for those with a b, and else by the answer's letters."""
    fixed = {"a": 1.0, "b": 0.0}
    return [fixed.get(p[0], float(c.count("a") > c.count("b"))) for p, c in zip(prompts, completions, strict=True)]


class Recording(IBTPOTrainer):
    """Keeps what the loss of each micro-batch was given."""

    def _compute_loss(self, model, inputs):
        self.inputs = [*getattr(self, "inputs", []), {k: v.clone() for k, v in inputs.items() if v is not None}]
        return super()._compute_loss(model, inputs)


def train(model, folder, **options):
    defaults = {**ONE_PLAIN_STEP, "per_device_train_batch_size": 72}
    args = IBTPOConfig(output_dir=str(folder), **{**defaults, **options})
    trainer = Recording(str(model), mostly_agreed, args, PROMPTS)
    trainer.train()
    return trainer


def logged(trainer, key):
    return [row[key] for row in trainer.state.log_history if key in row]


def weighed(trainer):
    """For each tree, the (T_i,) advantages of its answers as they are without any weight."""
    options = trainer.args.credit_options()
    return [token_advantages(tree, path_advantages(tree, options)) for tree in trainer.trees]


# --- the parts by hand


def tree_of(n):
    tree = ReasoningTree("t", [1])
    for i in range(n):
        tree.add(0, [Step((2 + i,), "", (-1.0,))], 0.0, "eos")
    return tree


def test_rows_of_a_batch_are_each_trees_answers_and_then_its_absent_rows():
    assert fill_up([["a", "b"], ["c", "d", "e"]], 3, "-") == ["a", "b", "-", "c", "d", "e"]


def test_each_tree_counts_with_the_mean_over_its_own_answers_where_the_loss_is_a_mean_over_rows():
    trees = [tree_of(4), tree_of(8), tree_of(12)]
    for loss_type in ("grpo", "sapo", "dr_grpo", "luspo"):
        assert row_weights(trees, 12, loss_type) == [3.0, 1.5, 1.0]
    for loss_type in ("bnpo", "dapo", "cispo"):
        assert row_weights(trees, 12, loss_type) == [1.0, 1.0, 1.0]


def test_the_logged_lengths_are_those_of_the_answers():
    names = [f"{m}_{t}length" for m in ("mean", "min", "max") for t in ("", "terminated_")]
    metrics = {f"completions/{name}": [7.0, 0.0] for name in (*names, "clipped_ratio")}
    count_completions(metrics, [2, 4, 9], [True, True, False])
    expected = {"mean_length": 5, "min_length": 2, "max_length": 9, "mean_terminated_length": 3,
                "min_terminated_length": 2, "max_terminated_length": 4, "clipped_ratio": 1 / 3}  # fmt: skip
    assert metrics == {f"completions/{k}": [7.0, pytest.approx(v)] for k, v in expected.items()}


def test_absent_rows_leave_the_table():
    columns = [deque([0, 1, 2, 3], maxlen=4), deque("zabc", maxlen=4)]
    drop_absent(columns, [True, False, True])
    assert [list(c) for c in columns] == [[0, 1, 3], ["z", "a", "c"]]


# --- in the trainer


def test_the_loss_is_minus_the_mean_over_trees_of_the_mean_over_their_own_answers(tiny_model, tmp_path):
    t = train(tiny_model, tmp_path)
    sizes = [len(tree.leaves) for tree in t.trees]
    assert Counter(sizes) == {4: 1, 8: 3, 12: 2}
    expected = -np.mean([np.mean([row.mean() for row in rows]) for rows in weighed(t)])
    assert abs(expected) > 1e-3
    assert logged(t, "loss")[0] == pytest.approx(expected, abs=1e-6)
    # Absent rows have neither tokens nor an advantage, and the others are weighed by G/n.
    (inputs,) = t.inputs
    lengths = inputs["completion_mask"].sum(1)
    assert int((lengths > 0).sum()) == sum(sizes)
    assert not inputs["advantages"][lengths == 0].any()


def test_a_smaller_tree_has_the_gradient_of_the_mean_over_its_own_answers(tiny_model, tmp_path):
    t = train(tiny_model, tmp_path, beta=0.0)
    before = IBTPOTrainer(str(tiny_model), mostly_agreed, t.args, PROMPTS).model
    before.zero_grad()
    loss = torch.zeros(())
    for tree, rows in zip(t.trees, weighed(t), strict=True):
        for i, row in enumerate(rows):
            ids = torch.tensor([[*tree.prompt_ids, *tree.completion_ids(i)]])
            logits = before(ids).logits[0, len(tree.prompt_ids) - 1 : -1]
            logps = torch.log_softmax(logits.float(), -1).gather(1, ids[0, len(tree.prompt_ids) :, None])[:, 0]
            loss = loss - (torch.tensor(row) * logps).mean() / len(rows) / len(t.trees)
    loss.backward()
    norm = torch.sqrt(sum((p.grad**2).sum() for p in before.parameters() if p.grad is not None))
    assert logged(t, "grad_norm")[0] == pytest.approx(float(norm), rel=1e-4)
    clip = min(1.0, t.args.max_grad_norm / float(norm))
    with torch.no_grad():
        for (name, mine), after in zip(before.named_parameters(), t.model.parameters(), strict=True):
            step = 1e-2 * clip * mine.grad if mine.grad is not None else 0
            torch.testing.assert_close(after, mine - step, atol=1e-6, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize(
    "options",
    [
        {},
        *(
            pytest.param(options, marks=pytest.mark.thorough)
            for options in (
                {"branching": "independent_adaptive", "advantage": "grpo", "tree": "4,9,1,1", "num_generations": 12},
                {"branching": "entropy_adaptive", "prefix_weight": "once", "num_iterations": 2},
                {"per_device_train_batch_size": 12, "gradient_accumulation_steps": 6},
                {"loss_type": "dapo", "per_device_train_batch_size": 12, "gradient_accumulation_steps": 6},
            )
        ),
    ],
)
def test_the_packed_update_of_trees_of_any_size_is_that_of_every_answer_by_itself(tiny_model, tmp_path, options):
    shared = train(tiny_model, tmp_path, max_steps=2, **options)
    alone = train(tiny_model, tmp_path, max_steps=2, packed_tokens=0, **options)
    assert shared._packed.disabled is None
    assert len({len(tree.leaves) for tree in shared.trees}) > 1
    for key in ("loss", "grad_norm"):
        np.testing.assert_allclose(logged(shared, key), logged(alone, key), rtol=1e-4, atol=1e-6)
    for (name, a), b in zip(shared.model.named_parameters(), alone.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def test_cutting_the_batch_into_micro_batches_leaves_the_loss_as_it_is(tiny_model, tmp_path):
    whole = train(tiny_model, tmp_path)
    parts = train(tiny_model, tmp_path, per_device_train_batch_size=12, gradient_accumulation_steps=6)
    assert logged(whole, "loss")[0] == pytest.approx(logged(parts, "loss")[0], abs=1e-6)


def test_a_mean_over_tokens_is_one_over_the_tokens_of_the_answers(tiny_model, tmp_path):
    t = train(tiny_model, tmp_path, loss_type="dapo", beta=0.0)
    tokens = np.concatenate([row for rows in weighed(t) for row in rows])
    assert logged(t, "loss")[0] == pytest.approx(-tokens.mean(), abs=1e-6)


def test_what_is_logged_and_shown_are_answers_only(tiny_model, tmp_path):
    t = train(tiny_model, tmp_path)
    leaves = [(tree, i, leaf) for tree in t.trees for i, leaf in enumerate(tree.leaves)]
    lengths = [len(tree.completion_ids(i)) for tree, i, _ in leaves]
    rewards = [leaf.reward for _, _, leaf in leaves]
    assert len(leaves) == 52
    for key, value in {
        "completions/mean_length": np.mean(lengths),
        "completions/min_length": min(lengths),
        "completions/max_length": max(lengths),
        "completions/clipped_ratio": np.mean([leaf.stop == "length" for _, _, leaf in leaves]),
        "reward": np.mean(rewards),
        "rewards/mostly_agreed/mean": np.mean(rewards),
        "frac_reward_zero_std": 4 / 6,
        "num_tokens": sum(lengths) + sum(len(tree.prompt_ids) for tree, _, _ in leaves),
        "ibtpo/trajectories": 52,
        "ibtpo/eff_rate": 2 / 6,
        "ibtpo/generated_tokens": sum(tree.generated_tokens for tree in t.trees),
    }.items():
        assert logged(t, key)[0] == pytest.approx(value), key
    assert list(t._logs["completion"]) == [tree.completion_text(i) for tree, i, _ in leaves]
    assert list(t._logs["rewards"]["mostly_agreed"]) == rewards
    assert len(t._logs["prompt"]) == len(t._logs["advantages"]) == 52


@pytest.mark.thorough
def test_the_reference_policys_confidence_is_that_of_each_trees_own_rows(tiny_model, tmp_path):
    old = train(tiny_model, tmp_path)
    ref = train(tiny_model, tmp_path, ib_policy="ref")
    assert {len(tree.leaves) for tree in ref.trees} == {4, 8, 12}
    torch.testing.assert_close(old.inputs[0]["advantages"], ref.inputs[0]["advantages"], atol=1e-4, rtol=0)


def test_stored_trees_say_why_they_were_ended(tiny_model, tmp_path):
    t = train(tiny_model, tmp_path)
    why = {4: "all right", 8: "all wrong", 12: None}
    for tree in t.trees:
        assert tree.meta.get("stopped") == why[len(tree.leaves)]
        assert json.loads(json.dumps(tree.to_dict()))["meta"].get("stopped") == why[len(tree.leaves)]
