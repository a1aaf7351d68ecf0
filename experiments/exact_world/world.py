"""A world that can be solved exactly: problems are decision trees with four actions at each step, rewarded at the end.

The policy is a softmax over θ_d · z(state, action): random features z that all problems draw from one distribution, and
one parameter block θ_d a step, so that what is learned on one problem serves on another. An action is as good as its
features point along a hidden direction w, plus noise that no policy can learn. An answer is right if the sum of its
actions' quality is among the best; where the line is drawn sets how often the first policy succeeds.

Layers of more than `Shape.width` states would not fit in memory, so deep problems merge prefixes: the 4·width
continuations of a full layer are sorted by the quality they have summed up so far, and each four neighbours share a
state of the next layer. Values, gradients and success stay exact.

S states of a problem, D steps, K features, four actions.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

ACTIONS = 4
NOISE = 0.5  # standard deviation of the part of an action's quality that its features do not show


@dataclass(frozen=True, slots=True)
class Shape:
    """How large a problem is.

    depth: D, steps of an answer. width: most states of a layer, a power of 4. features: K.
    """

    depth: int = 6
    width: int = 4096
    features: int = 16

    def layers(self) -> np.ndarray:
        """(D + 1,) the id of the first state of each layer; the last entry is the number of states."""
        return np.cumsum([0] + [min(ACTIONS**d, self.width) for d in range(self.depth)])


@dataclass(slots=True)
class Problem:
    """One problem. State 0 is the start.

    features: (S, 4, K). child: (S, 4) the state an action leads to, −1 in the last layer. reward: (n, 4) of the last
    layer's actions, 0 or 1. layers: (D + 1,) see `Shape.layers`.
    """

    id: str
    features: np.ndarray
    child: np.ndarray
    reward: np.ndarray
    layers: np.ndarray

    @property
    def depth(self) -> int:
        return len(self.layers) - 1

    def layer(self, d: int) -> slice:
        """The states at step d."""
        return slice(self.layers[d], self.layers[d + 1])

    def follow(self, actions: Iterable[int]) -> int:
        """The state that `actions` lead to from the start, −1 after the last step."""
        state = 0
        for a in actions:
            state = self.child[state, a]
        return int(state)


@dataclass(slots=True)
class Solution:
    """A policy in a problem, solved: probabilities (S, 4), action values q (S, 4), values v (S,), visits (S,)."""

    probs: np.ndarray
    q: np.ndarray
    v: np.ndarray
    visits: np.ndarray

    @property
    def success(self) -> float:
        return float(self.v[0])

    def state_gradient(self) -> np.ndarray:
        """(S, 4) gradient of the success rate with respect to each state's own logits."""
        return self.visits[:, None] * self.probs * (self.q - self.v[:, None])


def directions(rng: np.random.Generator, shape: Shape, sharpness: float, aligned: float = 0.2) -> tuple:
    """θ (D, K), the first policy, and w (K,), the hidden direction of quality.

    sharpness: length of θ_d; 1.2 gives a policy that still explores, 4 a peaked one. aligned: cosine between θ_d and w.
    """
    w, other = rng.standard_normal((2, shape.features))
    w /= np.linalg.norm(w)
    other -= other @ w * w
    other /= np.linalg.norm(other)
    theta = sharpness * (aligned * w + np.sqrt(1 - aligned**2) * other)
    return np.tile(theta, (shape.depth, 1)), w


def softmax(logits: np.ndarray) -> np.ndarray:
    p = np.exp(logits - logits.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def policy(problem: Problem, theta: np.ndarray) -> np.ndarray:
    """(S, 4) action probabilities of the policy θ (D, K)."""
    slices = [problem.layer(d) for d in range(problem.depth)]
    return softmax(np.concatenate([problem.features[s] @ t for s, t in zip(slices, theta, strict=True)]))


def solve(problem: Problem, theta: np.ndarray) -> Solution:
    """Exact values by backward induction, exact visits forward."""
    probs = policy(problem, theta)
    q, v, visits = np.zeros_like(probs), np.zeros(len(probs)), np.zeros(len(probs))
    for d in range(problem.depth - 1, -1, -1):
        here = problem.layer(d)
        q[here] = problem.reward if d == problem.depth - 1 else v[problem.child[here]]
        v[here] = (probs[here] * q[here]).sum(1)
    visits[0] = 1
    for d in range(problem.depth - 1):
        here, below = problem.layer(d), problem.layer(d + 1)
        flow = visits[here, None] * probs[here]
        to = problem.child[here] - below.start
        visits[below] = np.bincount(to.ravel(), flow.ravel(), below.stop - below.start)
    return Solution(probs, q, v, visits)


def exact_gradient(problem: Problem, solution: Solution) -> np.ndarray:
    """(D, K) gradient of the success rate with respect to θ."""
    weight = solution.state_gradient()
    slices = [problem.layer(d) for d in range(problem.depth)]
    return np.stack([np.tensordot(weight[s], problem.features[s], 2) for s in slices])


def make_problem(
    rng: np.random.Generator, shape: Shape, theta: np.ndarray, w: np.ndarray, success: float, id: str = "0"
) -> Problem:
    """A random problem that the policy θ solves with probability `success`, as nearly as whole answers allow.

    The line between right and wrong falls on one side or the other of the answer that crosses it, at random, such that
    the expected success is `success`.
    """
    layers = shape.layers()
    features = rng.standard_normal((layers[-1], ACTIONS, shape.features), dtype=np.float32)
    quality = features @ w + NOISE * rng.standard_normal((layers[-1], ACTIONS))
    child = np.full((layers[-1], ACTIONS), -1, dtype=np.int64)
    reward = np.zeros((layers[-1] - layers[-2], ACTIONS))
    problem = Problem(id, features, child, reward, layers)
    total, mass = np.zeros(1), np.ones(1)
    probs = policy(problem, theta)
    for d in range(shape.depth):
        here = problem.layer(d)
        total = (total[:, None] + quality[here]).ravel()
        mass = (mass[:, None] * probs[here]).ravel()
        if d == shape.depth - 1:
            break
        size = problem.layers[d + 2] - problem.layers[d + 1]
        group = len(total) // size
        slot = np.arange(len(total)) if group == 1 else np.argsort(np.argsort(total)) // group
        child[here] = layers[d + 1] + slot.reshape(-1, ACTIONS)
        total = np.bincount(slot, total) / group
        mass = np.bincount(slot, mass)
    order = np.argsort(-total)
    reached = np.append(0, np.cumsum(mass[order]))  # success if the best 0, 1, 2, … answers are right
    k = int(np.searchsorted(reached[1:], success))
    if k < len(mass):
        k += rng.random() * (reached[k + 1] - reached[k]) < success - reached[k]
    reward.ravel()[order[:k]] = 1
    return problem
