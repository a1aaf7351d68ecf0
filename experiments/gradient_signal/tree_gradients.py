"""The methods that are measured, and the policy gradients that they make of trees."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ibtpo.credit import CreditOptions, path_advantages, token_advantages
from ibtpo.score import ScoreOptions
from ibtpo.search import Budget
from ibtpo.training.packed import ancestor_mask
from ibtpo.training.trie import NO_LABEL, lay_out
from ibtpo.tree import ReasoningTree

TREE = Budget(4, 9, 1, 1)


def groups(score: ScoreOptions) -> dict[str, tuple[str, Budget, ScoreOptions]]:
    """Branching rule, budget and score options of each kind of group. score: the options but for β."""
    return {
        "independent, 8": ("independent", Budget(8, 1), score),
        "independent, 12": ("independent", Budget(12, 1), score),
        "random": ("random", TREE, score),
        "fixed width": ("fixed_width", TREE, score),
        "entropy": ("entropy", TREE, score),
        "eptree": ("eptree", TREE, score),
        "ib": ("ib", TREE, score),
        "ib, β 1": ("ib", TREE, replace(score, ib_beta=1)),
        "ib, draws": ("ib", TREE, replace(score, value="draws")),
        "ib, draws, joint, β 1": ("ib", TREE, ScoreOptions(ib_beta=1, value="draws", confidence="joint")),
        "ib, unique": ("ib", TREE, replace(score, weight="unique")),
        "ib, geomean": ("ib", TREE, replace(score, confidence="geomean")),
        "ib, adaptive": ("ib_adaptive", TREE, score),
        "entropy, adaptive": ("entropy_adaptive", TREE, score),
        "independent, adaptive": ("independent_adaptive", TREE, score),
    }


def advantages(score: ScoreOptions) -> dict[str, CreditOptions]:
    """The advantages by name. score: the options that IB-TPO's are computed with."""
    return {
        "grpo": CreditOptions("grpo"),
        "ibtpo": CreditOptions(score=score),
        "ibtpo, λ 0": CreditOptions(score=score, lam=0),
        "ibtpo, λ 0.5": CreditOptions(score=score, lam=0.5),
        "ibtpo, β 1": CreditOptions(score=replace(score, ib_beta=1)),
        "ibtpo, draws": CreditOptions(score=replace(score, value="draws")),
        "ibtpo, mixed trees only": CreditOptions(score=score, ib_on_uniform_trees=False),
        "ibtpo, sqrt": CreditOptions(score=score, prefix_weight="sqrt"),
        "ibtpo, once": CreditOptions(score=score, prefix_weight="once"),
        "treerl": CreditOptions("treerl"),
        "treepo": CreditOptions("treepo"),
    }


Weights = Callable[[ReasoningTree], list[np.ndarray]]


def of_method(options: CreditOptions) -> Weights:
    """Weights each token as TRL's loss does: by its advantage, over the answer's length and the group's size."""

    def weights(tree: ReasoningTree) -> list[np.ndarray]:
        advantages = token_advantages(tree, path_advantages(tree, options))
        return [a / len(a) / len(advantages) for a in advantages]

    return weights


def of_success(tree: ReasoningTree) -> list[np.ndarray]:
    """The weights whose gradient is that of the success rate, without bias.

    The tree must hold independent answers. The baseline of each is the mean reward of the others.
    """
    rewards = np.array([leaf.reward for leaf in tree.leaves], dtype=float)
    n = len(rewards)
    advantages = (rewards - rewards.mean()) * n / (n - 1)
    return [np.full(len(tree.completion_ids(i)), advantages[i] / n) for i in range(n)]


def gradients(
    model: Any, trees: Sequence[ReasoningTree], weightings: Sequence[Weights], *, temperature: float = 1.0
) -> list[np.ndarray]:
    """The gradient of the mean over trees of Σ weight · log-prob, for each weighting.

    model: the model that the log-probs are computed with. Prefixes that answers share are computed once.
    trees: the groups of a batch.
    weightings: functions from a tree to the weights of each answer's tokens.
    temperature: of the policy.

    Returns, for each weighting, (P,) the gradient with respect to all P parameters that are trained.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    found = [np.zeros(sum(p.numel() for p in parameters)) for _ in weightings]
    for tree in trees:
        rows = [np.array([*tree.prompt_ids, *tree.completion_ids(i)]) for i in range(len(tree.leaves))]
        order = sorted(range(len(rows)), key=lambda i: rows[i].tolist())
        start = len(tree.prompt_ids)
        layout = lay_out([rows[i] for i in order], [start] * len(rows))
        wanted = np.flatnonzero(layout.labels != NO_LABEL)
        device = model.device
        logits = model(
            input_ids=torch.from_numpy(layout.input_ids).to(device)[None],
            position_ids=torch.from_numpy(layout.position_ids).to(device)[None],
            attention_mask=ancestor_mask(layout.end, model.dtype, device),
            logits_to_keep=torch.from_numpy(wanted).to(device),
        ).logits[0]
        labels = torch.from_numpy(layout.labels[wanted]).to(device)
        logprobs = (logits.float() / temperature).log_softmax(-1).gather(-1, labels[:, None])[:, 0]
        for k, weighting in enumerate(weightings):
            weight, values = np.zeros(len(layout.labels)), weighting(tree)
            for i, path in zip(order, layout.paths, strict=True):
                weight[path[start - 1 :]] += values[i]
            loss = logprobs @ torch.from_numpy(weight[wanted]).to(logprobs) / len(trees)
            parts = torch.autograd.grad(loss, parameters, retain_graph=k < len(weightings) - 1)
            found[k] += torch.cat([part.flatten() for part in parts]).double().cpu().numpy()
    return found
