"""A problem's trees and their gradients.

Places to branch, scores and advantages are the library's own. A step is one token, the action's number.
"""

import math
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from arms import Growth
from world import ACTIONS, Problem

from ibtpo._seeds import stable_hash
from ibtpo.credit import CreditOptions, path_advantages, token_advantages
from ibtpo.engines import Completion, Sampling
from ibtpo.search import find_rule
from ibtpo.tree import ROOT, ReasoningTree, Step

PROMPT = (ACTIONS,)  # a prompt's single token
POWERS = {"trajectories": 0.0, "sqrt": -0.5, "once": -1.0}  # of the number of trajectories through a step


def sample(
    problem: Problem, probs: np.ndarray, before: Sequence[int], seed: int
) -> tuple[list[int], list[float], float]:
    """What follows the actions `before` under `probs` (S, 4): actions, their log-probabilities, and the reward."""
    draw = random.Random(seed).random
    state = problem.follow(before)
    actions: list[int] = []
    logprobs: list[float] = []
    for _ in range(problem.depth - len(before)):
        row = probs[state].tolist()
        u, a = draw(), 0
        while a < ACTIONS - 1 and u >= row[a]:
            u -= row[a]
            a += 1
        actions.append(a)
        logprobs.append(math.log(row[a]))
        last, state = state, problem.child[state, a]
    return actions, logprobs, float(problem.reward[last - problem.layers[-2], a])


class WorldEngine:
    """A policy in one problem as an engine for `TreeSearch`; see `ibtpo.engines.Engine`."""

    def __init__(self, problem: Problem, probs: np.ndarray) -> None:
        self.problem, self.probs = problem, probs

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, seed: int, max_new_tokens: int
    ) -> Completion:
        """Answers are sampled from the policy as it is: temperature, top-p and top-k play no part."""
        actions, logprobs, _ = sample(self.problem, self.probs, prompt_ids[1:], seed)
        return Completion(actions, logprobs, None, "eos")


def grow(problem: Problem, probs: np.ndarray, growth: Growth, seed: int) -> ReasoningTree:
    """The tree that `TreeSearch` grows with `WorldEngine`, rollout for rollout, without its event loop."""
    rule, budget = find_rule(growth.rule), growth.budget
    tree = ReasoningTree(problem.id, PROMPT)
    started: Counter[tuple[int, ...]] = Counter()

    def rollouts(node: int, count: int, round: int, score: float | None = None) -> None:
        before = tuple(tree.prefix_ids(node)[1:])
        for _ in range(count):
            seed_here = stable_hash(seed, tree.id, before, started[before])
            started[before] += 1
            actions, logprobs, reward = sample(problem, probs, before, seed_here)
            steps = [Step((a,), "", (p,)) for a, p in zip(actions, logprobs, strict=True)]
            tree.add(node, steps, reward, "eos", round=round, score=score)

    rollouts(ROOT, budget.b0, 0)
    for round in range(1, budget.rounds):
        places = rule(tree, budget.k, growth.score, stable_hash(seed, round))
        if not places:  # the rule ends the tree
            break
        for place in places:
            rollouts(place.node, budget.b, round, place.score)
    return tree


def node_weights(tree: ReasoningTree, credit: CreditOptions) -> np.ndarray:
    """(N,) the weight of each node's log-probability in the gradient: the mean over answers of the mean over steps."""
    paths = token_advantages(tree, path_advantages(tree, credit))
    weights = np.zeros(len(tree.nodes))
    for advantages, leaf in zip(paths, tree.leaves, strict=True):
        weights[tree.path(leaf.node)] += advantages / len(advantages)
    return weights / len(tree.leaves)


def all_weights(tree: ReasoningTree, credits: Iterable[CreditOptions]) -> np.ndarray:
    """(R, N) `node_weights` of each credit; those that differ in `prefix_weight` alone are computed once and scaled."""
    through = np.ones(len(tree.nodes))
    through[1:] = 0
    for leaf in tree.leaves:
        through[tree.path(leaf.node)] += 1
    plain: dict[CreditOptions, np.ndarray] = {}
    rows = []
    for credit in credits:
        unscaled = replace(credit, prefix_weight="trajectories")
        if unscaled not in plain:
            plain[unscaled] = node_weights(tree, unscaled)
        rows.append(plain[unscaled] * through ** POWERS[credit.prefix_weight])
    return np.stack(rows)


@dataclass(slots=True)
class Visited:
    """A tree's N − 1 steps as states and actions of its problem, in the order of its nodes."""

    state: np.ndarray
    action: np.ndarray
    depth: np.ndarray


def visited(problem: Problem, tree: ReasoningTree) -> Visited:
    """Where each node but the root stands in the problem: the state it left, its action, that state's layer."""
    after, depth = [0] * len(tree.nodes), [0] * len(tree.nodes)
    state = np.empty(len(tree.nodes) - 1, dtype=np.int64)
    action = np.array([n.step.token_ids[0] for n in tree.nodes[1:]])
    for node in tree.nodes[1:]:
        state[node.id - 1] = after[node.parent]
        depth[node.id] = depth[node.parent] + 1
        after[node.id] = problem.child[after[node.parent], action[node.id - 1]]
    return Visited(state, action, np.array(depth[1:]) - 1)


def gradient(problem: Problem, probs: np.ndarray, steps: Visited, weights: np.ndarray) -> np.ndarray:
    """(R, D, K) gradients with respect to θ of Σ weight · log-probability, for R rows of weights (R, N)."""
    features = problem.features[steps.state]
    expected = (probs[steps.state][:, :, None] * features).sum(1)
    score = features[np.arange(len(steps.action)), steps.action] - expected  # of a step's log-probability, for its θ_d
    layers = steps.depth == np.arange(problem.depth)[:, None]
    return (weights[:, None, 1:] * layers) @ score


def state_gradient(probs: np.ndarray, steps: Visited, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(U,) the states visited, and (R, U, 4) gradients with respect to each state's own logits."""
    states, slot = np.unique(steps.state, return_inverse=True)
    where = np.zeros((len(slot), len(states) * ACTIONS))
    where[np.arange(len(slot)), slot * ACTIONS + steps.action] = 1
    rows = (weights[:, 1:] @ where).reshape(len(weights), len(states), ACTIONS)
    return states, rows - rows.sum(2, keepdims=True) * probs[states]
