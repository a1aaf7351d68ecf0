"""Given tokens in training: the model reads them, and they are in no loss, no gradient and no count of tokens."""

from contextlib import nullcontext
from copy import deepcopy
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from datasets import Dataset  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402
from trl.trainer.utils import add_fused_lm_head  # noqa: E402

from helpers.engine_models import FAMILIES  # noqa: E402
from helpers.training import ONE_PLAIN_STEP  # noqa: E402
from helpers.trees import given, observed, replies, three_leaf  # noqa: E402
from ibtpo.credit import path_advantages, token_advantages  # noqa: E402
from ibtpo.training.config import IBTPOConfig  # noqa: E402
from ibtpo.training.packed import PackedForward  # noqa: E402
from ibtpo.training.token_rows import hide_absent, lengths, loss_mask, token_rows  # noqa: E402
from ibtpo.training.trainer import IBTPOTrainer  # noqa: E402
from ibtpo.tree import ROOT, ReasoningTree  # noqa: E402


def read(model: Any, prompt: Any, completion: list[int]) -> tuple[Any, Any]:
    """(T,) log-probs and entropies of a completion's tokens, the model having read all before each of them."""
    ids = torch.tensor([[*prompt, *completion]])
    logs = torch.log_softmax(model(ids).logits[0, len(prompt) - 1 : -1].float(), -1)
    return logs.gather(1, torch.tensor(completion)[:, None])[:, 0], -(logs.exp() * logs).sum(-1)


# --- the parts by hand


def test_rows_hold_given_tokens_and_the_mask_leaves_them_out() -> None:
    ids, logprobs, sampled = token_rows([replies(), three_leaf()], 4, 0)
    assert ids == [
        [10, 50, 11],
        [10, 50, 12],
        [10, 51, 52, 53, 11],
        [20, 54],
        [10, 11, 12],
        [20, 21],
        [10, 11, 13],
        [0],
    ]
    assert sampled == [[1, 0, 1], [1, 0, 1], [1, 0, 0, 0, 1], [1, 0], [1, 1, 1], [1, 1], [1, 1, 1], [0]]
    assert list(map(len, logprobs)) == list(map(len, ids))
    assert [p[1] for p in logprobs[:4]] == [0, 0, 0, 0]
    assert lengths([replies(), three_leaf()]) == [2, 2, 2, 1, 3, 2, 3]


def test_the_model_reads_given_tokens_and_no_absent_row() -> None:
    # an answer with a given token, one without, and an absent row; TRL pads its mask of tools with 1
    output = {
        "completion_mask": torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0]]),
        "tool_mask": torch.tensor([[1, 0, 1], [1, 1, 1], [0, 1, 1]]),
    }
    hide_absent(output)
    assert output["completion_mask"].tolist() == [[1, 1, 1], [1, 1, 0], [0, 0, 0]]
    assert loss_mask(output).tolist() == [[1, 0, 1], [1, 1, 0], [0, 0, 0]]
    assert loss_mask({"completion_mask": output["completion_mask"]}) is output["completion_mask"]


def test_the_packed_loss_of_trees_with_given_steps_and_every_gradient_are_those_of_the_trajectories() -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(deepcopy(FAMILIES["llama"]))
    add_fused_lm_head(model, temperature=1.0, outputs=("log_probs", "entropy"))
    trees = [observed(), replies()]
    rows = [(t.prompt_ids, t.completion_ids(i), t.completion_mask(i)) for t in trees for i in range(len(t.leaves))]
    p, c = max(len(r[0]) for r in rows), max(len(r[1]) for r in rows)

    def padded(values: list[tuple[Any, Any]]) -> Any:
        return torch.tensor([[0] * (p - len(a)) + [*a, *b] + [0] * (c - len(b)) for a, b in values])

    ids = padded([(prompt, completion) for prompt, completion, _ in rows])
    attention = padded([([1] * len(prompt), [1] * len(completion)) for prompt, completion, _ in rows])
    sampled = padded([(prompt, mask) for prompt, _, mask in rows])[:, p:]
    weights = torch.randn(sampled.shape, generator=torch.Generator().manual_seed(1))

    def loss_of(i: int, logps: Any, entropies: Any) -> Any:
        """A weight for each token, and a term of each kind that TRL's loss has."""
        n = len(rows[i][1])
        per_token = weights[i, :n] * (logps[:n] + 0.3 * entropies[:n]) + 0.1 * torch.exp(0.1 * logps[:n])
        return (per_token * sampled[i, :n]).sum() / sampled[i].sum() / len(rows)

    def gradients(loss: Any) -> dict[str, Any]:
        model.zero_grad()
        loss.backward()
        return {n: q.grad.clone() for n, q in model.named_parameters() if q.grad is not None}

    accelerator = SimpleNamespace(
        num_processes=1, mixed_precision="no", autocast=nullcontext, unwrap_model=lambda model: model
    )
    packed = PackedForward(8192, accelerator)
    packed.checked.add(model)  # nothing is compared with TRL's forward, which is not there
    logps, entropies, _ = packed(lambda *_: pytest.fail("fell back"), model, ids, attention, c, compute_entropy=True)
    assert packed.disabled is None
    assert packed.computed < 0.6  # of 7 rows of 7 columns
    ours = sum(loss_of(i, logps[i], entropies[i]) for i in range(len(rows)))
    theirs = sum(loss_of(i, *read(model, prompt, completion)) for i, (prompt, completion, _) in enumerate(rows))
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    after, before = gradients(ours), gradients(theirs)
    assert after.keys() == before.keys()
    for name, gradient in before.items():
        torch.testing.assert_close(after[name], gradient, atol=1e-5, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    assert max(g.abs().max() for g in before.values()) > 1e-2


# --- the trainer


PROMPTS = Dataset.from_list([{"prompt": "abc"[i % 3] + "defg"[i % 4] + "hij"} for i in range(12)])


def mostly_agreed(prompts: Any, completions: Any, **kwargs: Any) -> list[float]:
    """Right for every answer to the prompts with an a, wrong for those with a b, and else by the answer's letters."""
    fixed = {"a": 1.0, "b": 0.0}
    return [fixed.get(p[0], float(c.count("a") > c.count("b"))) for p, c in zip(prompts, completions, strict=True)]


def told(tree: ReasoningTree) -> ReasoningTree:
    """The tree as if something had answered each step that has one after it."""
    out = ReasoningTree(tree.id, tree.prompt_ids, tree.prompt, tree.answer, tree.meta)
    for leaf in tree.leaves:
        steps = [tree.nodes[n].step for n in tree.path(leaf.node)]
        parts = [part for s in steps[:-1] for part in (s, given(2 + s.token_ids[0] % 9, 13))]
        out.add(ROOT, [*parts, *steps[-1:]], leaf.reward, leaf.stop, correct=leaf.correct)
    return out


class Told(IBTPOTrainer):
    """Trains on trees with given steps, and keeps what the loss was given."""

    async def _grow(self, search: Any, prompts: Any) -> list[ReasoningTree]:
        return [told(tree) for tree in await super()._grow(search, prompts)]

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Any:
        self.inputs = {k: v.clone() for k, v in inputs.items() if v is not None}
        return super()._compute_loss(model, inputs)


def build(model: Any, folder: Any, **options: Any) -> Told:
    defaults = {**ONE_PLAIN_STEP, "splitter": "tokens:4", "per_device_train_batch_size": 36, "beta": 0.0}
    return Told(str(model), mostly_agreed, IBTPOConfig(output_dir=str(folder), **{**defaults, **options}), PROMPTS)


def test_a_step_of_training_is_that_of_the_sampled_tokens_after_all_that_was_read(
    tiny_model: Any, tmp_path: Any
) -> None:
    t = build(tiny_model, tmp_path)
    t.train()
    assert t._packed is not None
    assert t._packed.disabled is None
    log = t.state.log_history[0]
    assert len({len(tree.leaves) for tree in t.trees}) > 1  # there are absent rows as well
    # The loss, and from it the new weights, by hand.
    before = build(tiny_model, tmp_path).model
    loss, means = torch.zeros(()), []
    for tree in t.trees:
        credit = token_advantages(tree, path_advantages(tree, t.args.credit_options()))
        for i, row in enumerate(credit):
            mask = torch.tensor(tree.completion_mask(i))
            assert not row[mask.numpy() == 0].any()
            means.append(12 / len(credit) * float(row.sum()) / float(mask.sum()))  # a smaller tree's answers weigh more
            logps, _ = read(before, tree.prompt_ids, tree.completion_ids(i))
            ratio = torch.exp(logps - logps.detach())
            loss = loss - (torch.tensor(row) * ratio * mask).sum() / mask.sum() / len(credit) / len(t.trees)
    assert abs(loss.item()) > 1e-4
    assert log["loss"] == pytest.approx(loss.item(), abs=1e-6)
    loss.backward()
    norm = torch.sqrt(sum((p.grad**2).sum() for p in before.parameters() if p.grad is not None))
    assert log["grad_norm"] == pytest.approx(float(norm), rel=1e-4)
    clip = min(1.0, t.args.max_grad_norm / float(norm))
    with torch.no_grad():
        for (name, mine), after in zip(before.named_parameters(), t.model.parameters(), strict=True):
            step = 1e-2 * clip * mine.grad if mine.grad is not None else 0
            torch.testing.assert_close(after, mine - step, atol=1e-6, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    # What is counted and shown is what was sampled.
    sizes = lengths(t.trees)
    count = sum(tree.given_tokens for tree in t.trees)
    assert count > 20
    assert log["ibtpo/given_tokens"] == count
    assert log["ibtpo/generated_tokens"] == sum(sizes)
    assert log["completions/mean_length"] == pytest.approx(np.mean(sizes))
    assert log["num_tokens"] == sum(sizes) + sum(len(tree.leaves) * len(tree.prompt_ids) for tree in t.trees)
    assert list(t._logs["advantages"]) == pytest.approx(means, abs=1e-6)
    assert int(loss_mask(t.inputs).sum()) == sum(sizes)


def test_with_given_tokens_the_shared_update_is_that_of_every_answer_by_itself(tiny_model: Any, tmp_path: Any) -> None:
    more = {"max_steps": 2, "beta": 0.01, "regularizer": "ibro", "ib_policy": "ref"}
    shared, alone = (build(tiny_model, tmp_path, packed_tokens=n, **more) for n in (8192, 0))
    shared.train()
    alone.train()
    assert shared._packed is not None
    assert shared._packed.disabled is None
    for key in ("loss", "grad_norm", "kl"):
        ours, theirs = ([row[key] for row in t.state.log_history if key in row] for t in (shared, alone))
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    for (name, a), b in zip(shared.model.named_parameters(), alone.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
