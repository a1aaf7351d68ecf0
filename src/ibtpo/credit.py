"""Step advantages: what each step of each trajectory is credited with.

An advantage is a function `(tree, options) -> PathAdvantages`: for each of the L leaves the (D,) advantages of the D
steps on its path; all tokens of a step get the step's value. A trajectory whose reward is unknown gets 0 wherever
nothing is known. The functions here have names; one of your own is named by its dotted path `package.module:function`.

TRL's constants are kept (sample standard deviation plus 1e-4), so that a tree whose trajectories share nothing gives
exactly TRL's GRPO advantages.
"""

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ._extras import load_object
from ._options import OPTIONS, option
from ._text import describe
from .errors import ConfigError, unknown
from .score import LARGEST, ScoreOptions, Scores, effective, score_tree
from .tree import ROOT, ReasoningTree

STD_FLOOR = 1e-4  # TRL's: keeps a float residue in the standard deviation from becoming a huge advantage

PathAdvantages = list[np.ndarray]  # L arrays, the i-th (D_i,): a number for each step on the path to leaf i


class AdvantageFunction(Protocol):
    """An advantage: a tree and the options in, the advantages of the steps along each path out.

    The function may take a keyword `confidence` besides: (N,) another policy's confidence in each node's step, handed
    to it when training with `ib_policy="ref"`. It may carry an attribute `batch_scale`, a `BatchScale`.
    """

    def __call__(self, tree: ReasoningTree, options: "CreditOptions", /) -> PathAdvantages:
        """L arrays, the i-th (D_i,): a finite number for each step on the path to leaf i."""
        ...


@dataclass(frozen=True, slots=True)
class BatchScale:
    """Divides the advantages of a whole batch by one number, which all its trees together decide.

    values: `(tree, paths) -> floats`, what one tree contributes; paths are its advantages as the function gave them,
        before any weight of shared prefixes.
    scale: the divisor, not 0, from the contributions of all trees of the batch, over all processes.
    """

    values: Callable[[ReasoningTree, PathAdvantages], Sequence[float]]
    scale: Callable[[Sequence[float]], float]


@dataclass(frozen=True, slots=True)
class CreditOptions:
    """How the reward becomes step advantages.

    advantage: "ibtpo", "grpo", "treerl", "treepo", or a dotted path `package.module:function` to an
        `AdvantageFunction`, which is loaded when the options are made.
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
        find_advantage(self.advantage)
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


def ibtpo(tree: ReasoningTree, options: CreditOptions, *, confidence: np.ndarray | None = None) -> PathAdvantages:
    """A(s) = A_GL(s) + λ·A_IB(s). Compares a step with the whole tree and with its own siblings.

    confidence: see `a_ib`.
    """
    return _along_paths(tree, node_advantage(tree, options, confidence=confidence))


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
    divides by a standard deviation over the batch, which is the `batch_scale` of this function.
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


def _treepo_values(tree: ReasoningTree, paths: PathAdvantages) -> list[float]:
    """The value of each trajectory with steps; none of a tree without a signal, which TreePO leaves out."""
    return [float(a[0]) for a in paths if len(a)] if reward_std(leaf_rewards(tree)) > 0 else []


def _treepo_scale(values: Sequence[float]) -> float:
    """The sample standard deviation of all values plus 1e-4."""
    return reward_std(np.asarray(values, dtype=float)) + STD_FLOOR


treepo.batch_scale = BatchScale(_treepo_values, _treepo_scale)  # type: ignore[attr-defined]


ADVANTAGES: dict[str, AdvantageFunction] = {
    "grpo": grpo,
    "ibtpo": ibtpo,
    "treepo": treepo,
    "treerl": treerl,
}


def find_advantage(name: str) -> AdvantageFunction:
    """An advantage by name or dotted path `package.module:function`.

    Raises `ConfigError` for an unknown name, a function that cannot be loaded, and a `batch_scale` that is none.
    """
    if name in ADVANTAGES:
        return ADVANTAGES[name]
    if ":" not in name:
        raise unknown("advantage", name, ADVANTAGES)
    function: AdvantageFunction = load_object(name, "advantage")
    scale = getattr(function, "batch_scale", None)
    if scale is not None and not isinstance(scale, BatchScale):
        raise ConfigError(f"advantage {name!r}: its batch_scale must be a BatchScale, got {type(scale).__name__}")
    return function


def takes_confidence(name: str) -> bool:
    """Whether an advantage takes the keyword `confidence`, so that `ib_policy="ref"` means something to it."""
    try:
        parameter = inspect.signature(find_advantage(name)).parameters.get("confidence")
    except ValueError:  # a function written in C may not say what it takes
        return False
    return parameter is not None and parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)


def path_advantages(
    tree: ReasoningTree, options: CreditOptions, confidence: np.ndarray | None = None
) -> PathAdvantages:
    """The chosen advantage along each trajectory's path, weighted for shared prefixes; see `plain_advantages`."""
    return weigh_prefixes(tree, plain_advantages(tree, options, confidence), options.prefix_weight)


def plain_advantages(
    tree: ReasoningTree, options: CreditOptions, confidence: np.ndarray | None = None
) -> PathAdvantages:
    """The chosen advantage along each trajectory's path as its function gives it.

    confidence: (N,) see `a_ib`; only for an advantage that takes it.

    Raises `ConfigError`, naming the function, when one of the user's fails or gives anything else than one finite
    number for each step of each path.
    """
    name, function = options.advantage, find_advantage(options.advantage)
    given: dict[str, Any] = {} if confidence is None else {"confidence": confidence}
    if given and not takes_confidence(name):
        raise ConfigError(f"advantage {name!r} takes no confidence: give its function a keyword of that name")
    if name in ADVANTAGES:
        return function(tree, options, **given)
    try:
        result = function(tree, options, **given)
    except Exception as e:
        raise ConfigError(f"advantage {name!r} failed on tree {tree.id!r}: {describe(e)}") from e
    return _checked(tree, result, name)


def _checked(tree: ReasoningTree, result: Any, name: str) -> PathAdvantages:
    """What a user's function gave, as arrays. Raises `ConfigError` for the first thing that is wrong with it."""
    of = f"of tree {tree.id!r}"
    try:
        paths = [np.asarray(a, dtype=float) for a in result]
    except (TypeError, ValueError) as e:
        raise ConfigError(
            f"advantage {name!r} must give a list of numbers for each trajectory {of}: {describe(e)}"
        ) from e
    if len(paths) != len(tree.leaves):
        raise ConfigError(f"advantage {name!r} gave {len(paths)} paths for the {len(tree.leaves)} trajectories {of}")
    for i, (path, leaf) in enumerate(zip(paths, tree.leaves, strict=True)):
        steps = len(tree.path(leaf.node))
        if path.shape != (steps,):
            raise ConfigError(
                f"advantage {name!r} gave an array of shape {path.shape} for trajectory {i} {of}; it has {steps} "
                f"steps, so the shape must be ({steps},)"
            )
        if not np.isfinite(path).all():
            step = int(np.flatnonzero(~np.isfinite(path))[0])
            raise ConfigError(
                f"advantage {name!r} gave {path[step]} for step {step} of trajectory {i} {of}; give a finite number, "
                f"0 where nothing is known"
            )
    return paths


def weigh_prefixes(tree: ReasoningTree, paths: PathAdvantages, prefix_weight: str) -> PathAdvantages:
    """The advantages of steps that n trajectories share, so weighted that they count n times, √n times or once.

    prefix_weight: see `CreditOptions`.
    """
    if prefix_weight == "trajectories":
        return paths
    through = np.zeros(len(tree.nodes))
    for leaf in tree.leaves:
        through[tree.path(leaf.node)] += 1
    power = -1.0 if prefix_weight == "once" else -0.5
    return [a * through[tree.path(leaf.node)] ** power for a, leaf in zip(paths, tree.leaves, strict=True)]


def batch_values(trees: Sequence[ReasoningTree], paths: Sequence[PathAdvantages], name: str) -> list[float] | None:
    """What trees contribute to the divisor of their batch; None for an advantage without a `BatchScale`.

    trees: of this process. paths: their `plain_advantages`. name: of the advantage.

    Raises `ConfigError`, naming the advantage, when a contribution is no finite number.
    """
    hook: BatchScale | None = getattr(find_advantage(name), "batch_scale", None)
    if hook is None:
        return None
    try:
        values = [float(v) for tree, path in zip(trees, paths, strict=True) for v in hook.values(tree, path)]
    except Exception as e:
        raise ConfigError(f"advantage {name!r}: the values of its batch_scale failed: {describe(e)}") from e
    wrong = [v for v in values if not math.isfinite(v)]
    if wrong:
        raise ConfigError(f"advantage {name!r}: the values of its batch_scale must be finite, got {wrong[0]}")
    return values


def batch_divisor(values: Sequence[float], name: str) -> float:
    """The number by which a batch's advantages are divided.

    values: `batch_values` of all trees of the batch, over all processes. name: of the advantage.

    Raises `ConfigError`, naming the advantage, unless its `BatchScale` gives a finite number other than 0.
    """
    hook: BatchScale = find_advantage(name).batch_scale  # type: ignore[attr-defined]
    try:
        divisor = float(hook.scale(values))
    except Exception as e:
        raise ConfigError(f"advantage {name!r}: the scale of its batch_scale failed: {describe(e)}") from e
    if divisor == 0 or not math.isfinite(divisor):
        raise ConfigError(f"advantage {name!r}: the scale of its batch_scale must be finite and not 0, got {divisor}")
    return divisor


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
