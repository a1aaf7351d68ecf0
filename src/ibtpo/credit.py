"""Step advantages: what each step of each trajectory is credited with.

`ibtpo` is the advantage of the paper (arXiv 2605.28109; docs/method.md, "One training step", point 3), from its two
parts `a_gl` and `a_ib`; the others are the baselines it is compared with. An advantage is a function of the form
`AdvantageFunction`: a tree in, one number out for each step on the path to each leaf. All tokens of a step get its
number. Where nothing is known of a step, because no reward is, it gets 0. So does a given step, which the model did not
choose, and which counts in no mean over steps. An advantage of your own is named by its dotted path
`package.module:function`, see docs/method.md, "Functions of your own".

Which standard deviation of rewards is meant, the paper leaves open. Here it is TRL's: that of a sample, plus 1e-4. So a
tree whose trajectories share nothing gives exactly TRL's GRPO advantages when λ is 0.

Shapes: N nodes, the root included; L leaves; D steps on the path to a leaf; T tokens of a trajectory.
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
from .tree import MOST_REWARD, ROOT, ReasoningTree

STD_FLOOR = 1e-4  # as in TRL: a standard deviation that is nearly 0 must not make a huge advantage

PathAdvantages = list[np.ndarray]  # L arrays; the i-th has shape (D_i,), a number for each step on the path to leaf i


class AdvantageFunction(Protocol):
    """The form of an advantage: a tree and the options in, the advantages of the steps along each path out.

    The function may also take a keyword `confidence`, (N,): another policy's confidence in the step of each node. It is
    given in training with `ib_policy="ref"`. The function may carry an attribute `batch_scale`, a `BatchScale`.
    """

    def __call__(self, tree: ReasoningTree, options: "CreditOptions", /) -> PathAdvantages:
        """Computes the advantages of one tree.

        Returns L arrays, of which the i-th, (D_i,), holds a finite number for each step on the path to leaf i. The
        numbers of given steps are not used.
        """
        ...


@dataclass(frozen=True, slots=True)
class BatchScale:
    """Divides the advantages of a whole batch by one number, to which all its trees contribute.

    values: `(tree, paths) -> floats`, what one tree contributes, any number of finite values. `paths` are its
        advantages as the function gave them, before `prefix_weight`.
    scale: `(values) -> float`, the divisor from what all trees of the batch contribute, over all processes; above 0.
    """

    values: Callable[[ReasoningTree, PathAdvantages], Sequence[float]]
    scale: Callable[[Sequence[float]], float]


@dataclass(frozen=True, slots=True)
class CreditOptions:
    """How rewards become step advantages.

    `ib_on_uniform_trees` and `prefix_weight` are choices that the paper leaves open (docs/method.md, "What the paper
    leaves open"), as are those of `score`.

    advantage: "ibtpo", "grpo", "treerl", "treepo", or a dotted path `package.module:function` to an
        `AdvantageFunction`, which is loaded when the options are made.
    lam: λ, the weight of the local term A_IB. The paper uses 0.1 and reports that 0.5 collapses.
    score: β, and how values and confidences are computed. Of the four names only "ibtpo" uses it.
    ib_on_uniform_trees: whether A_IB stays in a tree whose rewards are all equal. There A_GL is 0, and A_IB, without a
        `ratio_prior`, is −π/β: a push towards diversity.
    prefix_weight: how often a token that n trajectories share counts in the update: "trajectories" is n times, "sqrt"
        is √n times, and "once" is once.

    Raises `ConfigError` for a value out of range, an unknown name, and a function that cannot be loaded.
    """

    advantage: str = option("advantage")
    lam: float = option("lam")
    score: ScoreOptions = field(default_factory=ScoreOptions)
    ib_on_uniform_trees: bool = option("ib_on_uniform_trees")
    prefix_weight: str = option("prefix_weight")
    divisor: float | None = None

    def __post_init__(self) -> None:
        if not abs(self.lam) <= LARGEST:
            raise ConfigError(f"lam must be finite and within ±{LARGEST:g}, got {self.lam}")
        if self.divisor is not None and not 0 < self.divisor < math.inf:
            raise ConfigError(f"divisor must be a finite number > 0, got {self.divisor}")
        find_advantage(self.advantage)
        if self.prefix_weight not in OPTIONS["prefix_weight"].choices:
            raise unknown("prefix_weight", self.prefix_weight, OPTIONS["prefix_weight"].choices)


def leaf_rewards(tree: ReasoningTree) -> np.ndarray:
    """The (L,) rewards R(τ) of a tree's leaves, NaN where a reward is unknown."""
    return np.array([math.nan if leaf.reward is None else leaf.reward for leaf in tree.leaves])


def reward_std(rewards: np.ndarray) -> float:
    """std({R(τ)}), the sample standard deviation of the known rewards.

    rewards: (L,), NaN where unknown.

    Returns exactly 0 when fewer than two are known, or when all are equal up to rounding.
    """
    known = rewards[~np.isnan(rewards)]
    if len(known) < 2 or not effective(known.tolist()):
        return 0.0
    mean = math.fsum(known) / len(known)  # fsum rounds once, so the order of trajectories cannot change the result
    return math.sqrt(math.fsum((known - mean) ** 2) / (len(known) - 1))


def a_gl(tree: ReasoningTree, scores: Scores, divisor: float | None = None) -> np.ndarray:
    """Compares the value of each step with the value of the whole tree: the global part of the paper's advantage.

        A_GL(s) = (p̂(a*|s) − p̂(a*|q)) / (std({R(τ)}) + 1e-4)

    scores: the `score_tree` of the same tree. p̂(a*|q) is the value of the root.
    divisor: see `CreditOptions`.

    Returns (N,) advantages: all 0 when all rewards are equal, and NaN for given steps and where p̂ is unknown.
    """
    std = reward_std(leaf_rewards(tree))
    delta = np.where(_given(tree), math.nan, scores.p_hat - scores.p_hat[ROOT])
    return np.where(np.isnan(delta), math.nan, 0.0) if std == 0 else delta / (divisor or std + STD_FLOOR)


def a_ib(scores: Scores, confidence: np.ndarray | None = None) -> np.ndarray:
    """Compares the value of each step with that of its parent, that is, with its own siblings: the local part.

        A_IB(s) = (p̂(a*|s)/p̂(a*|s_parent) − (1 + 1/β)) · π(s) = η1(s) · π(s)

    The paper writes π_ref and leaves open which policy that is. By default it is the one that sampled the tree, π_old.

    scores: the `score_tree` of a tree.
    confidence: (N,) π(s) of another policy to use instead, such as the reference model's (`ib_policy="ref"`).

    Returns (N,) advantages, NaN for the root, for given steps, and where p̂ is unknown.
    """
    return scores.eta1 * (scores.eta2 if confidence is None else confidence)


def ibtpo(tree: ReasoningTree, options: CreditOptions, *, confidence: np.ndarray | None = None) -> PathAdvantages:
    """Compares each step with the whole tree and with its own siblings: the advantage of IB-TPO.

        A(s) = A_GL(s) + λ·A_IB(s)

    confidence: (N,) see `a_ib`.

    Returns L arrays, the i-th (D_i,).
    """
    return _along_paths(tree, node_advantage(tree, options, confidence=confidence))


def node_advantage(
    tree: ReasoningTree, options: CreditOptions, scores: Scores | None = None, confidence: np.ndarray | None = None
) -> np.ndarray:
    """The advantage A(s) = A_GL(s) + λ·A_IB(s) of each node, from which `ibtpo` takes those along each path.

    options: λ, `ib_on_uniform_trees`, and how the tree is scored.
    scores: the `score_tree` of the tree, if it is known already.
    confidence: (N,) see `a_ib`.

    Returns (N,) advantages, NaN for the root, for given steps, and where nothing is known.
    """
    scores = scores or score_tree(tree, options.score)
    total = a_gl(tree, scores, options.divisor)
    if options.ib_on_uniform_trees or reward_std(leaf_rewards(tree)) > 0:
        total = total + options.lam * a_ib(scores, confidence)
    total[ROOT] = math.nan
    return total


def grpo(tree: ReasoningTree, options: CreditOptions) -> PathAdvantages:
    """Compares each trajectory with all others of its tree: the advantage of GRPO (arXiv 2402.03300), as in TRL.

        A(τ) = (R(τ) − mean({R})) / (std({R}) + 1e-4)

    Returns L arrays, the i-th (D_i,), with the same number for each step of a trajectory: 0 in a tree whose rewards are
    all equal.
    """
    rewards = leaf_rewards(tree)
    known = rewards[~np.isnan(rewards)]
    std = reward_std(rewards)
    if std == 0:
        return _per_trajectory(tree, np.zeros(len(rewards)))
    return _per_trajectory(tree, (rewards - math.fsum(known) / len(known)) / (options.divisor or std + STD_FLOOR))


def treerl(tree: ReasoningTree, options: CreditOptions) -> PathAdvantages:
    """Compares the value of each segment with the whole tree's and with that of the segment before: TreeRL's advantage.

        A(s) = ((V(s) − V(root)) + (V(s) − V(parent))) / √n

    V is the mean reward of the leaves under a node, and n is how many there are under s. TreeRL's segments end where
    the tree branches, so the parent of a step is not the step before, but the last place above where the tree forks, or
    the root: all steps of a segment get the same number. Where the environment gave different answers to the same step,
    segments begin after its answers, so that no step is credited with what the environment did. It follows the paper
    (arXiv 2506.11902); how the code released with that differs stands in docs/method.md, "Departures".

    Returns L arrays, the i-th (D_i,).
    """
    scores = score_tree(tree, ScoreOptions(value="leaves"))
    forks, given = _forks(tree), _given(tree)
    above = np.zeros(len(tree.nodes), dtype=int)  # the id of the last fork above each node; a parent's id is lower
    for node in tree.nodes[1:]:
        above[node.id] = node.parent if forks[node.parent] else above[node.parent]
    step = np.full(len(tree.nodes), math.nan)
    v, count = scores.p_hat, scores.leaf_count
    with np.errstate(invalid="ignore", divide="ignore"):
        step[1:] = (2 * v[1:] - v[ROOT] - v[above[1:]]) / np.sqrt(count[1:])
    step[given] = math.nan
    return _along_paths(tree, step)


def _forks(tree: ReasoningTree) -> np.ndarray:
    """(N,) whether more than one continuation was sampled from a node, or a trajectory ended there; so is the root.

    Continuations that gave the same step are one child, but drawn more often than the node itself. A given step after a
    fork is one as well: what follows it is compared with what is known once the environment has answered.
    """
    forks = np.array(
        [sum(tree.nodes[c].draws for c in n.children) > n.draws or len(n.children) > 1 for n in tree.nodes]
    )
    forks[[ROOT, *(leaf.node for leaf in tree.leaves)]] = True
    for node in tree.nodes[1:]:
        forks[node.id] |= node.step.given and forks[node.parent]
    return forks


def _given(tree: ReasoningTree) -> np.ndarray:
    """(N,) whether the step of each node is given."""
    return np.array([n.step.given for n in tree.nodes])


def treepo(tree: ReasoningTree, options: CreditOptions) -> PathAdvantages:
    """Compares each trajectory with those that share its first steps: the advantage of TreePO (arXiv 2508.17445).

        A(τ) = mean over the nodes s on the path of τ, the root included, of R(τ) − mean(R of the leaves under s)

    A node below the root with a single leaf under it is left out, and so is a given step. TreePO then divides by a
    standard deviation over the batch; that is the `batch_scale` of this function (docs/method.md, "Departures").

    Returns L arrays, the i-th (D_i,), with the same number for each step of a trajectory: 0 in a tree whose rewards are
    all equal.
    """
    rewards = leaf_rewards(tree)
    scores = score_tree(tree, ScoreOptions(value="leaves"))
    out = np.zeros(len(rewards))
    for i, leaf in enumerate(tree.leaves):
        groups = [ROOT] + [n for n in tree.sampled_path(leaf.node) if scores.leaf_count[n] > 1]
        out[i] = rewards[i] - np.mean(scores.p_hat[groups])
    if reward_std(rewards) == 0:
        out[:] = 0
    return _per_trajectory(tree, out)


def _treepo_values(tree: ReasoningTree, paths: PathAdvantages) -> list[float]:
    """What a tree contributes to TreePO's divisor: its trajectories' advantages; nothing if all rewards are equal."""
    return [float(a[0]) for a in paths if len(a)] if reward_std(leaf_rewards(tree)) > 0 else []


def _treepo_scale(values: Sequence[float]) -> float:
    """TreePO's divisor: the sample standard deviation of all values, plus 1e-4."""
    return reward_std(np.asarray(values, dtype=float)) + STD_FLOOR


treepo.batch_scale = BatchScale(_treepo_values, _treepo_scale)  # type: ignore[attr-defined]


ADVANTAGES: dict[str, AdvantageFunction] = {
    "grpo": grpo,
    "ibtpo": ibtpo,
    "treepo": treepo,
    "treerl": treerl,
}


def find_advantage(name: str) -> AdvantageFunction:
    """The advantage that a name, or a dotted path `package.module:function`, stands for.

    Raises `ConfigError` for an unknown name, a function that cannot be loaded, and a `batch_scale` that is no
    `BatchScale`.
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
    """Whether the advantage called `name` takes the keyword `confidence`; only then can `ib_policy="ref"` be used."""
    try:
        parameter = inspect.signature(find_advantage(name)).parameters.get("confidence")
    except ValueError:  # a function written in C may not say what it takes
        return False
    return parameter is not None and parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)


def path_advantages(
    tree: ReasoningTree, options: CreditOptions, confidence: np.ndarray | None = None
) -> PathAdvantages:
    """The advantage that the options choose, along the path of each trajectory, after `prefix_weight`.

    A division by the batch's scale (`BatchScale`) is not part of it.

    options: the advantage, and what it depends on.
    confidence: (N,) see `a_ib`; only for an advantage that takes it.

    Returns L arrays, the i-th (D_i,). Raises `ConfigError` as `plain_advantages` does.
    """
    return weigh_prefixes(tree, plain_advantages(tree, options, confidence), options.prefix_weight)


def plain_advantages(
    tree: ReasoningTree, options: CreditOptions, confidence: np.ndarray | None = None
) -> PathAdvantages:
    """The advantage that the options choose, along the path of each trajectory, as its function gives it.

    options: the advantage, and what it depends on.
    confidence: (N,) see `a_ib`; only for an advantage that takes it.

    Returns L arrays, the i-th (D_i,), before `prefix_weight`.

    Raises `ConfigError`, naming the function, when one of the user's own fails or gives anything else than one finite
    number for each step of each path, and when `confidence` is given to one that does not take it.
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
    """What a user's own function gave, as arrays. Raises `ConfigError` for the first thing that is wrong with it."""
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
    """Scales the advantages of steps that n trajectories share, so that in all they count n times, √n times or once.

    The loss adds up trajectories, so without a weight a shared step counts n times; "sqrt" divides it by √n, and
    "once" by n.

    paths: L arrays, the i-th (D_i,); returned in the same form.
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
    """What the trees of this process contribute to the divisor of their batch.

    trees: this process's trees of the batch.
    paths: the `plain_advantages` of each.
    name: the advantage's name or dotted path.

    Returns their values in one list, or None for an advantage without a `BatchScale`.

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
    """The number by which the advantages of a batch are divided, for an advantage with a `BatchScale`.

    values: the `batch_values` of all trees of the batch, over all processes.
    name: the advantage's name or dotted path.

    Raises `ConfigError`, naming the advantage, unless its `BatchScale` gives a finite number above 0, and for one so
    small that 1, or the largest of the values, divided by it is beyond `MOST_REWARD`.
    """
    hook: BatchScale = find_advantage(name).batch_scale  # type: ignore[attr-defined]
    try:
        divisor = float(hook.scale(values))
    except Exception as e:
        raise ConfigError(f"advantage {name!r}: the scale of its batch_scale failed: {describe(e)}") from e
    if not 0 < divisor < math.inf:
        raise ConfigError(f"advantage {name!r}: the scale of its batch_scale must be finite and > 0, got {divisor}")
    # Advantages become 32-bit floats, and their squares are added up, so they are bounded as rewards are.
    least = max([1.0, *map(abs, values)]) / MOST_REWARD
    if divisor < least:
        raise ConfigError(
            f"advantage {name!r}: the scale of its batch_scale gave {divisor:g}, and advantages divided by it are too "
            f"large for a 32-bit float; here it must be at least {least:g}"
        )
    return divisor


def token_advantages(tree: ReasoningTree, paths: PathAdvantages) -> list[np.ndarray]:
    """Gives each sampled token of a trajectory the advantage of its step, and each given one 0.

    paths: L arrays, the i-th (D_i,), a number for each step; those of given steps are not used.

    Returns L arrays, the i-th (T_i,), a number for each token.
    """
    return [
        np.repeat(a, [len(tree.nodes[n].step.token_ids) for n in tree.path(leaf.node)]) * tree.completion_mask(i)
        for i, (a, leaf) in enumerate(zip(paths, tree.leaves, strict=True))
    ]


def _along_paths(tree: ReasoningTree, node_value: np.ndarray) -> PathAdvantages:
    """The (N,) values of nodes as values of the steps along each path, 0 where a value is NaN."""
    filled = np.nan_to_num(node_value, nan=0.0)
    return [filled[tree.path(leaf.node)] for leaf in tree.leaves]


def _per_trajectory(tree: ReasoningTree, value: np.ndarray) -> PathAdvantages:
    """The (L,) values of trajectories as values of each of their steps; 0 for given steps and where a value is NaN."""
    filled, sampled = np.nan_to_num(value, nan=0.0), ~_given(tree)
    return [filled[i] * sampled[tree.path(leaf.node)] for i, leaf in enumerate(tree.leaves)]
