"""Step advantages: what each step of each trajectory is credited with.

Every function returns, for each of the L leaves, the (D,) advantages of the D steps on its path; all tokens of a step
get the step's value. A trajectory whose reward is unknown gets 0 wherever nothing is known.

TRL's constants are kept (sample standard deviation plus 1e-4), so that a tree whose trajectories share nothing gives
exactly TRL's GRPO advantages.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ._options import OPTIONS, option
from .errors import ConfigError, unknown
from .score import LARGEST, ScoreOptions, Scores, effective, score_tree
from .tree import ROOT, ReasoningTree

STD_FLOOR = 1e-4  # TRL's: keeps a float residue in the standard deviation from becoming a huge advantage

PathAdvantages = list[np.ndarray]


@dataclass(frozen=True, slots=True)
class CreditOptions:
    """How the reward becomes step advantages.

    advantage: "ibtpo", "grpo", "treerl" or "treepo".
    lam: λ, the weight of the local IB term (paper: 0.1; 0.5 collapses).
    score: β, value, confidence, … of the scores underneath.
    ib_on_uniform_trees: keep A_IB = −π/β in trees whose leaves are all right or all wrong (a push towards diversity).
    prefix_weight: how often a token shared by n trajectories counts: "trajectories" n times, "sqrt" √n, "once" 1.
    """

    advantage: str = option("advantage")
    lam: float = option("lam")
    score: ScoreOptions = field(default_factory=ScoreOptions)
    ib_on_uniform_trees: bool = option("ib_on_uniform_trees")
    prefix_weight: str = option("prefix_weight")

    def __post_init__(self) -> None:
        if not abs(self.lam) <= LARGEST:
            raise ConfigError(f"lam must be finite and within ±{LARGEST:g}, got {self.lam}")
        if self.advantage not in ADVANTAGES:
            raise unknown("advantage", self.advantage, ADVANTAGES)
        if self.prefix_weight not in OPTIONS["prefix_weight"].choices:
            raise unknown("prefix_weight", self.prefix_weight, OPTIONS["prefix_weight"].choices)


def leaf_rewards(tree: ReasoningTree) -> np.ndarray:
    """(L,) rewards, NaN where unknown."""
    return np.array([math.nan if leaf.reward is None else leaf.reward for leaf in tree.leaves])


def reward_std(rewards: np.ndarray) -> float:
    """Sample standard deviation of the known rewards; 0 for fewer than two."""
    known = rewards[~np.isnan(rewards)]
    if len(known) < 2 or not effective(known.tolist()):
        return 0.0
    mean = math.fsum(known) / len(known)  # exactly rounded: the order of trajectories cannot change the result
    return math.sqrt(math.fsum((known - mean) ** 2) / (len(known) - 1))


def a_gl(tree: ReasoningTree, scores: Scores) -> np.ndarray:
    """(N,) global advantage (p̂(a*|s) − p̂(a*|q)) / std({R(τ)}): the step's value against the whole tree's.

    0 when all rewards are equal; NaN where p̂ is unknown.
    """
    std = reward_std(leaf_rewards(tree))
    delta = scores.p_hat - scores.p_hat[ROOT]
    return np.where(np.isnan(delta), math.nan, 0.0) if std == 0 else delta / (std + STD_FLOOR)


def a_ib(scores: Scores, confidence: np.ndarray | None = None) -> np.ndarray:
    """(N,) local advantage (p̂(a*|s)/p̂(a*|parent) − (1 + 1/β)) · π(s): the step against its own siblings.

    confidence: (N,) π to use in place of the sampling policy's, e.g. the reference model's. NaN for the root.
    """
    return scores.eta1 * (scores.eta2 if confidence is None else confidence)


def ibtpo(
    tree: ReasoningTree, options: CreditOptions, scores: Scores | None = None, confidence: np.ndarray | None = None
) -> PathAdvantages:
    """A(s) = A_GL(s) + λ·A_IB(s). Compares a step with the whole tree and with its own siblings."""
    return _along_paths(tree, node_advantage(tree, options, scores, confidence))


def node_advantage(
    tree: ReasoningTree, options: CreditOptions, scores: Scores | None = None, confidence: np.ndarray | None = None
) -> np.ndarray:
    """(N,) the IB-TPO advantage of each node; NaN for the root and where nothing is known."""
    scores = scores or score_tree(tree, options.score)
    total = a_gl(tree, scores)
    if options.ib_on_uniform_trees or reward_std(leaf_rewards(tree)) > 0:
        total = total + options.lam * a_ib(scores, confidence)
    total[ROOT] = math.nan
    return total


def grpo(tree: ReasoningTree, options: CreditOptions) -> PathAdvantages:
    """A = (R − mean) / (std + 1e-4), the same for every step of a trajectory. Compares whole trajectories."""
    rewards = leaf_rewards(tree)
    known = rewards[~np.isnan(rewards)]
    std = reward_std(rewards)
    if std == 0:
        return _per_trajectory(tree, np.zeros(len(rewards)))
    return _per_trajectory(tree, (rewards - math.fsum(known) / len(known)) / (std + STD_FLOOR))


def treerl(tree: ReasoningTree, options: CreditOptions) -> PathAdvantages:
    """TreeRL (arXiv 2506.11902): ((V(s) − V(root)) + (V(s) − V(parent))) / √(leaves under s), V the mean reward."""
    scores = score_tree(tree, ScoreOptions(value="leaves"))
    parents = [n.parent for n in tree.nodes[1:]]
    step = np.full(len(tree.nodes), math.nan)
    v, count = scores.p_hat, scores.leaf_count
    with np.errstate(invalid="ignore", divide="ignore"):
        step[1:] = (2 * v[1:] - v[ROOT] - v[parents]) / np.sqrt(count[1:])
    return _along_paths(tree, step)


def treepo(tree: ReasoningTree, options: CreditOptions) -> PathAdvantages:
    """TreePO (arXiv 2508.17445): mean over the sub-groups sharing each ancestor of R − mean(R of the sub-group).

    One value a trajectory. The root's sub-group is the whole tree; a sub-group of one below it is skipped. The paper
    divides by a standard deviation over the batch: `batch_scale` gives it.
    """
    rewards = leaf_rewards(tree)
    scores = score_tree(tree, ScoreOptions(value="leaves"))
    out = np.zeros(len(rewards))
    for i, leaf in enumerate(tree.leaves):
        groups = [ROOT] + [n for n in tree.path(leaf.node) if scores.leaf_count[n] > 1]
        out[i] = rewards[i] - np.mean(scores.p_hat[groups])
    if reward_std(rewards) == 0:
        out[:] = 0
    return _per_trajectory(tree, out)


ADVANTAGES: dict[str, Callable[..., PathAdvantages]] = {
    "grpo": grpo,
    "ibtpo": ibtpo,
    "treepo": treepo,
    "treerl": treerl,
}


def path_advantages(
    tree: ReasoningTree, options: CreditOptions, confidence: np.ndarray | None = None
) -> PathAdvantages:
    """The chosen advantage along each trajectory's path, weighted for shared prefixes.

    confidence: see `a_ib`; used by "ibtpo" alone.
    """
    if options.advantage == "ibtpo":
        paths = ibtpo(tree, options, confidence=confidence)
    else:
        paths = ADVANTAGES[options.advantage](tree, options)
    if options.prefix_weight == "trajectories":
        return paths
    through = np.zeros(len(tree.nodes))
    for leaf in tree.leaves:
        through[tree.path(leaf.node)] += 1
    power = -1.0 if options.prefix_weight == "once" else -0.5
    return [a * through[tree.path(leaf.node)] ** power for a, leaf in zip(paths, tree.leaves, strict=True)]


def treepo_values(trees: Sequence[ReasoningTree]) -> list[float]:
    """TreePO's value of each trajectory of the trees that carry a signal, before any weight of shared prefixes."""
    live = [t for t in trees if reward_std(leaf_rewards(t)) > 0]
    return [float(a[0]) for t in live for a in treepo(t, CreditOptions(advantage="treepo")) if len(a)]


def batch_scale(trajectory_advantages: Sequence[float]) -> float:
    """The divisor TreePO applies to all trajectories of a batch: their sample standard deviation plus 1e-4.

    trajectory_advantages: `treepo_values` of the whole batch; prompts without a signal are left out, as in TreePO.
    """
    return reward_std(np.asarray(trajectory_advantages, dtype=float)) + STD_FLOOR


def token_advantages(tree: ReasoningTree, paths: PathAdvantages) -> list[np.ndarray]:
    """L arrays, the i-th (T_i,): each token of trajectory i gets its step's advantage."""
    return [
        np.repeat(a, [len(tree.nodes[n].step.token_ids) for n in tree.path(leaf.node)])
        for a, leaf in zip(paths, tree.leaves, strict=True)
    ]


def _along_paths(tree: ReasoningTree, node_value: np.ndarray) -> PathAdvantages:
    filled = np.nan_to_num(node_value, nan=0.0)
    return [filled[tree.path(leaf.node)] for leaf in tree.leaves]


def _per_trajectory(tree: ReasoningTree, value: np.ndarray) -> PathAdvantages:
    filled = np.nan_to_num(value, nan=0.0)
    return [np.full(len(tree.path(leaf.node)), filled[i]) for i, leaf in enumerate(tree.leaves)]
