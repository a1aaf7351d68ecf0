"""Branching rules: where the next rollouts of a tree start.

`ib` is the rule of the paper (arXiv 2605.28109; docs/method.md, "One training step", point 2); the others are the
baselines it is compared with. A rule is a function of the form `BranchingRule`. It sees the tree alone, and not which
rollouts are under way. Which of two equal scores comes first, the paper leaves open. Here a hash of the place's tokens
decides, so that the order of siblings cannot matter. The rules in `ADAPTIVE` are ours: they spend a question's budget
where it may bring a signal (docs/method.md, "Beyond the paper: a budget per prompt").

Where a given step follows, the environment speaks, and would only answer the same again. No rule chooses such a place,
nor one inside a given step; the place after the given step is the one to choose.
"""

import inspect
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np

from ._seeds import stable_hash
from ._text import describe, short
from .errors import ConfigError
from .incremental import running_ib_scores
from .score import ScoreOptions, effective
from .tree import ROOT, ReasoningTree


@dataclass(frozen=True, slots=True)
class BranchPoint:
    """A place to branch.

    node: the id of the node; a new rollout continues right after its step, which no given step may follow.
    offset: where it is there, the rollout starts inside the step instead, before the token with this index. It must be
        above 0 and below the step's number of tokens. The root, whose step is the prompt, has none, nor has a given
        step.
    score: the finite number for which the rule chose the place, or None. It is stored with the rollouts that start
        there.
    """

    node: int
    offset: int | None = None
    score: float | None = None


# A rule takes (tree, k, options, seed) and gives at most k different places, the best first, no two of them in one
# step. An empty list says that the tree needs no more answers: it is finished, whatever is left of its budget.
#   tree: the tree so far, with at least one trajectory.
#   k: how many places are asked for.
#   options: how the tree is scored.
#   seed: the source of all randomness; the same seed and tree give the same places.
BranchingRule = Callable[[ReasoningTree, int, ScoreOptions, int], list[BranchPoint]]


def _tie(tree: ReasoningTree, node: int, seed: int) -> int:
    """A hash of the tokens after the prompt down to `node`: it orders equal scores, whatever ids the nodes have."""
    return stable_hash(seed, tree.id, tuple(tree.prefix_ids(node)[len(tree.prompt_ids) :]))


def _top(
    tree: ReasoningTree, nodes: Sequence[int] | np.ndarray, score: Sequence[float] | np.ndarray, k: int, seed: int
) -> list[BranchPoint]:
    """The places after the k nodes of the highest score, the best first; scores equal to ten digits are ties.

    nodes: (M,) ids.
    score: (M,) their scores, finite.
    """
    values = np.asarray(score, dtype=float)
    k = min(k, len(values))
    least = values.max() if k == 1 else np.partition(values, -k)[-k]
    # Rounding and hashing are slow, so only the nodes that may be chosen go through them.
    best = np.flatnonzero(values >= least - 1e-9 * abs(least)).tolist()
    ranked = sorted(best, key=lambda i: (-float(f"{values[i]:.10g}"), _tie(tree, int(nodes[i]), seed)))
    return [BranchPoint(int(nodes[i]), None, float(values[i])) for i in ranked[:k]]


def independent(tree: ReasoningTree, k: int, options: ScoreOptions, seed: int) -> list[BranchPoint]:
    """Always the root, so that all answers of a tree are independent, as in GRPO."""
    return [BranchPoint(ROOT)]


def random(tree: ReasoningTree, k: int, options: ScoreOptions, seed: int) -> list[BranchPoint]:
    """k nodes after which the model went on, the root among them, uniformly at random. It is the paper's RandTree."""
    nodes = tree.branchable() or [ROOT]  # no node has children if all answers so far are empty
    ranked = sorted(nodes, key=lambda n: stable_hash(seed, tree.id, len(tree.leaves), _tie(tree, n, seed)))
    return [BranchPoint(n) for n in ranked[:k]]


def fixed_width(tree: ReasoningTree, k: int, options: ScoreOptions, seed: int) -> list[BranchPoint]:
    """The rule of TreePO (arXiv 2508.17445): the number of paths doubles at each depth, until the tree is wide enough.

    Of B0 first answers, B0·2^d paths are to go on from depth d. They are shared evenly among the paths that get there,
    so that what an answer that ends early leaves goes to the others. TreePO samples segment by segment and forks where
    a segment ends. To sample on and branch at that end later gives the same distribution, so the rule takes the
    shallowest depth that has too few paths, and there the step that was continued least. When no depth has too few, it
    goes back to a random step inside a random finished answer, as TreePO does. TreePO's segments have a fixed length,
    for which there is the splitter "tokens:512". What else is left out stands in docs/method.md, "Departures".
    """
    first = sum(r.round == 0 for r in tree.rollouts)
    depths: dict[int, list[int]] = defaultdict(list)
    for n in tree.branchable():
        if n != ROOT:
            depths[len(tree.sampled_path(n))].append(n)
    points: list[BranchPoint] = []
    for depth, nodes in sorted(depths.items()):
        continued = [sum(tree.nodes[c].draws for c in tree.nodes[n].children) for n in nodes]
        room = min(first * 2**depth - sum(continued), k - len(points))
        if room > 0:
            share = [-paths / tree.nodes[n].draws for n, paths in zip(nodes, continued, strict=True)]
            points += _top(tree, nodes, share, room, seed)
    return points or [_inside_an_answer(tree, seed)]


def _inside_an_answer(tree: ReasoningTree, seed: int) -> BranchPoint:
    """A random step, but the last, of a random answer that was not cut off; the root if no answer has two steps."""
    ends = [tree.path(leaf.node)[:-1] for leaf in tree.leaves if leaf.stop == "eos"]
    paths = [[n for n in path if not tree.is_answered(n)] for path in ends]
    paths = sorted((path for path in paths if path), key=lambda path: _tie(tree, path[-1], seed))
    if not paths:
        return BranchPoint(ROOT)
    source = stable_hash(seed, tree.id, len(tree.leaves))
    path = paths[source % len(paths)]
    return BranchPoint(path[source // len(paths) % len(path)])


def _surprises(tree: ReasoningTree) -> dict[int, BranchPoint]:
    """Each node's most surprising token as a place, by the node's id; nodes without a candidate are left out.

    Places are tokens, not ends of steps: the chosen token is left out of the prefix and drawn again. A place where the
    tree branches already is no candidate. The score of a place is −log π of its token.
    """
    places = {}
    for node in tree.nodes[1:]:
        # Its own first token is a place of its parent. To draw an only child's first token again is to branch right
        # after this node's step. Given steps have no log-probs, so none of their tokens is a candidate.
        inside = node.step.logprobs[1:]
        after = tree.nodes[node.children[0]].step.logprobs[:1] if len(node.children) == 1 else ()
        if candidates := [*inside, *after]:
            size = len(node.step.token_ids)
            offset = size - len(inside) + candidates.index(min(candidates))
            places[node.id] = BranchPoint(node.id, offset if offset < size else None, -min(candidates))
    return places


def _most_surprising(tree: ReasoningTree, places: Sequence[BranchPoint], k: int, seed: int) -> list[BranchPoint]:
    """The k places of the highest score, in as many nodes."""
    of = {place.node: place for place in places}
    return [of[p.node] for p in _top(tree, list(of), [float(p.score or 0) for p in places], k, seed)]


def entropy(tree: ReasoningTree, k: int, options: ScoreOptions, seed: int) -> list[BranchPoint]:
    """The tokens of the whole tree that surprised the model most, −log π(token), first: EPTree's measure.

    Each node offers its best token only, so that k places lie in k nodes.
    """
    places = list(_surprises(tree).values())
    return _most_surprising(tree, places, k, seed) if places else random(tree, k, options, seed)


def eptree(tree: ReasoningTree, k: int, options: ScoreOptions, seed: int) -> list[BranchPoint]:
    """EPTree, the rule of TreeRL (arXiv 2506.11902): `entropy` within each of the first answers, all branched as often.

    TreeRL grows a tree from each first answer and gives all of them as many branches. Here first answers with the same
    first step share a node, so what is compared is branches a first answer below each such node. What TreeRL has
    besides stands in docs/method.md, "Departures".
    """
    first: dict[int, int] = defaultdict(int)  # rollouts, by the first step of their answer
    branches: dict[int, int] = defaultdict(int)
    for rollout, leaf in zip(tree.rollouts, tree.leaves, strict=True):
        if leaf.node != ROOT:
            count = branches if rollout.round else first
            count[tree.path(leaf.node)[0]] += 1
    places: dict[int, list[BranchPoint]] = defaultdict(list)
    for node, place in _surprises(tree).items():
        if (top := tree.path(node)[0]) in first:
            places[top].append(place)
    found: list[BranchPoint] = []
    while len(found) < k and any(places.values()):
        fewest = min(branches[top] / first[top] for top in places if places[top])
        offered = [p for top in places if branches[top] / first[top] == fewest for p in places[top]]
        (best,) = _most_surprising(tree, offered, 1, seed)
        top = tree.path(best.node)[0]
        places[top].remove(best)
        branches[top] += 1
        found.append(best)
    return found or random(tree, k, options, seed)


def ib(tree: ReasoningTree, k: int, options: ScoreOptions, seed: int) -> list[BranchPoint]:
    """IBTree, the paper's rule: the k nodes with the highest IB-Score (see score.py), the root among them.

    Only nodes after which the model went on have a score. While no reward is known, there is none at all, and the rule
    is `random`.
    """
    ib_score = running_ib_scores(tree, options)
    nodes = np.flatnonzero(~np.isnan(ib_score))
    if not len(nodes):  # the verifier has failed for every answer so far
        return random(tree, k, options, seed)
    return _top(tree, nodes, ib_score[nodes], k, seed)


# After so many answers, all wrong, a question is given up. The number is that of the prototype in the exactly solvable
# world (experiments/exact_world) that showed what a budget per prompt is worth; it has not been tuned.
MOST_WRONG = 8
ALL_RIGHT, ALL_WRONG = "all right", "all wrong"


def agreement(tree: ReasoningTree) -> str | None:
    """What all answers so far have in common: `ALL_RIGHT`, `ALL_WRONG`, or None where they differ.

    It is judged by raw correctness, of which anything below 1 is wrong here. An answer that could not be verified does
    not count; where none could, all are taken for wrong.
    """
    correct = [c for c in tree.correct if c is not None]
    if effective(correct):
        return None
    return ALL_RIGHT if correct and min(correct) >= 1 else ALL_WRONG


def by_need(rule: BranchingRule) -> BranchingRule:
    """Makes a rule that spends no more on a question than it may be worth. It is ours, not the paper's.

    While all answers are right it asks for none, so a tree whose first B0 answers are all right stops there. While all
    are wrong it asks for fresh answers from the root, until there are `MOST_WRONG` or more; then it gives up. As soon
    as answers differ, the places are those of `rule`.

    rule: the rule for a tree whose answers differ.
    """

    def adaptive(tree: ReasoningTree, k: int, options: ScoreOptions, seed: int) -> list[BranchPoint]:
        alike = agreement(tree)
        if alike is None:
            return rule(tree, k, options, seed)
        if alike == ALL_RIGHT or len(tree.leaves) >= MOST_WRONG:
            return []
        return [BranchPoint(ROOT)]

    return adaptive


ADAPTIVE: dict[str, BranchingRule] = {
    "entropy_adaptive": by_need(entropy),
    "ib_adaptive": by_need(ib),
    "independent_adaptive": by_need(independent),
}
BRANCHING: dict[str, BranchingRule] = {
    "entropy": entropy,
    "eptree": eptree,
    "fixed_width": fixed_width,
    "ib": ib,
    "independent": independent,
    "random": random,
    **ADAPTIVE,
}
# Their choices do not depend on rewards.
NEEDS_NO_REWARD = ("entropy", "eptree", "fixed_width", "independent", "random")


def choose_places(
    rule: BranchingRule, name: str, tree: ReasoningTree, k: int, options: ScoreOptions, seed: int
) -> list[BranchPoint]:
    """The places that a rule chooses, or none if it ends the tree; checked, since the rule may be the user's own.

    rule: the function; the arguments after `name` are given to it.
    name: what it is called in messages.

    Raises `ConfigError` that names the rule when it fails, or gives something that is no place of this tree.
    """
    of = f"branching rule {name!r}"
    try:
        given: Any = rule(tree, k, options, seed)
        points = list(given) if isinstance(given, Iterable) else None  # a generator may fail only here
    except Exception as e:
        raise ConfigError(f"{of} failed: {describe(e)}") from e
    if points is None:
        if inspect.iscoroutine(given):
            given.close()  # else Python warns that it was never awaited
        raise ConfigError(
            f"{of} gave {short(given, 60)}; it must be a plain function that returns a list of BranchPoint"
        )
    offsets: dict[int, int | None] = {}
    for point in points:
        if wrong := _wrong_place(point, tree):
            raise ConfigError(f"{of} gave {short(point, 80)} for tree {tree.id!r}; {wrong}")
        # Both would be looked for in the step as it is before the first of them cuts it.
        if offsets.setdefault(point.node, point.offset) != point.offset:
            raise ConfigError(f"{of} gave two places in node {point.node} of tree {tree.id!r}; give one a node")
    return points


def _wrong_place(point: Any, tree: ReasoningTree) -> str | None:
    """What would be allowed, if `point` is no place of the tree, or None if it is one."""
    if not isinstance(point, BranchPoint):
        return "each place must be a BranchPoint"
    if not isinstance(point.node, Integral) or not 0 <= point.node < len(tree.nodes):
        return f"node must be the id of a node, from 0 to {len(tree.nodes) - 1}"
    if point.offset is None and tree.is_answered(point.node):
        return "the environment answered that step and would do so again: give the node of its answer"
    if point.offset is not None:
        size = len(tree.nodes[point.node].step.token_ids)
        if point.node == ROOT:
            return "the root is the prompt, which cannot be cut: leave the offset out"
        if tree.nodes[point.node].step.given:
            return "that step was given by the environment and cannot be cut: leave the offset out"
        if size < 2:
            return "that step has one token and cannot be cut: leave the offset out"
        if not isinstance(point.offset, Integral) or not 0 < point.offset < size:
            return f"offset must be inside the step of {size} tokens, from 1 to {size - 1}"
    if point.score is not None and not (isinstance(point.score, int | float) and math.isfinite(point.score)):
        return "score must be a finite int or float, or None"
    return None
