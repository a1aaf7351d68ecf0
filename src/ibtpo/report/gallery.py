"""The trees that a report shows: some rescued by branching, the best and the worst, each with sample answers.

A tree is rescued if its first answers were all right or all wrong, and a branch made the group differ: without the
branch the rewards would have carried no signal.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import quote

from ..evaluation.statistics import FULL_MARKS
from ..metrics import correctness, rescued
from ..score import effective
from ..tree import ROOT, ReasoningTree
from ..viewer.page import tree_key

SHOWN = {"rescued": 6, "best": 3, "worst": 3}  # how many trees of each kind
MOST_TEXT = 3000  # characters of a prompt or an answer; the viewer has all of it


@dataclass(frozen=True)
class Sample:
    """An answer that the report shows.

    label: why it is shown, and how it ended unless it ended by itself.
    shared: the text before the branch it began with, which it has in common with an earlier answer.
    own: the rest of its text.
    cut: how many characters were left out at the end.
    link: its address in the viewer.
    """

    label: str
    shared: str
    own: str
    cut: int = 0
    link: str = ""


@dataclass(frozen=True)
class Example:
    """A tree that the report shows.

    step: the training step it was grown at.
    id: the id of its problem.
    summary: how many of its answers were right, in words.
    story: for a rescued tree, what the branch that made the difference did; else empty.
    prompt: the question, cut at `MOST_TEXT` characters.
    answer: the gold answer, if there is one.
    samples: some of its answers.
    link: its address in the viewer.
    """

    step: int
    id: str
    summary: str
    story: str
    prompt: str
    answer: str | None
    samples: list[Sample]
    link: str


@dataclass
class Gallery:
    """What the stored trees of a run held.

    trees: how many were read.
    branched: how many of them have a branch at all.
    rescued: how many were rescued by a branch.
    mixed: in how many the answers differ in correctness.
    files: how many tree files the run has, read or not.
    examples: the trees to show, by the keys of `SHOWN`.
    """

    trees: int = 0
    branched: int = 0
    rescued: int = 0
    mixed: int = 0
    files: int = 0
    examples: dict[str, list[Example]] = field(default_factory=dict)


def gallery(trees: Iterable[tuple[int, ReasoningTree]], viewer: str) -> Gallery:
    """Counts the trees of a run and chooses those to show.

    trees: (step, tree) pairs, in the order of the run.
    viewer: file name of the tree viewer beside the report, for the links.

    Of the rescued trees those of the latest steps are chosen. Best and worst are those with the largest and the
    smallest share of right answers; among equals the later step comes first, then the order in the file.
    """
    found = Gallery()
    kept: dict[str, list[tuple[tuple[float, ...], int, ReasoningTree]]] = {name: [] for name in SHOWN}
    for number, (step, tree) in enumerate(trees):
        known = correctness(tree)
        right = [c >= FULL_MARKS for c in known]
        saved = bool(tree.rollouts) and rescued(tree)
        found.trees += 1
        found.branched += any(rollout.round for rollout in tree.rollouts)
        found.rescued += saved
        found.mixed += effective(known)
        share = sum(right) / len(right) if right else math.nan
        if saved:
            kept["rescued"].append(((-step, -share, number), step, tree))
        if right:
            kept["best"].append(((-share, -step, number), step, tree))
            kept["worst"].append(((share, -step, number), step, tree))
        for name, rows in kept.items():  # cut after every tree, so that never more than a few are in memory
            rows.sort(key=lambda row: row[0])
            del rows[SHOWN[name] :]
    for name, rows in kept.items():
        found.examples[name] = [_example(step, tree, viewer, name == "rescued") for _, step, tree in rows]
    return found


def tree_link(viewer: str, step: int, id: str, node: int | None = None) -> str:
    """The address of a tree, or of one of its nodes, in the viewer.

    viewer: file name of the viewer's page.
    step: the training step the tree was grown at.
    id: the id of its problem.
    node: the node to open; None for the tree as a whole.
    """
    link = f"{quote(viewer)}#tree={tree_key(id, step)}"
    return link if node is None else f"{link}&node={node}"


def _example(step: int, tree: ReasoningTree, viewer: str, saved: bool) -> Example:
    """A tree and its samples: if `saved`, the answer of the branch that rescued it; then a right and a wrong one."""
    right = [None if c is None else c >= FULL_MARKS for c in tree.correct]
    known = [r for r in right if r is not None]
    story, turn = _story(tree, right) if saved else ("", None)
    samples = []
    if turn is not None:
        samples.append(_sample(tree, turn, "the answer whose branch made the difference", viewer, step))
    for wanted, word in ((True, "right"), (False, "wrong")):
        chosen = [i for i, r in enumerate(right) if r is wanted and i != turn]
        if chosen:
            surest = max(chosen, key=lambda i: (_mean_logprob(tree, i), -i))
            label = f"a {word} answer, the one the model was surest of"
            samples.append(_sample(tree, surest, label, viewer, step))
    unknown = len(right) - len(known)
    summary = f"{sum(known)} of {len(known)} right" + (f", {unknown} not graded" if unknown else "")
    return Example(
        step, tree.id, summary, story, tree.prompt[:MOST_TEXT], tree.answer, samples, tree_link(viewer, step, tree.id)
    )


def _story(tree: ReasoningTree, right: list[bool | None]) -> tuple[str, int | None]:
    """Tells in words what the branch did that first made a uniform group differ, and which leaf it ended in, or None.

    right: (L,) whether each leaf's answer is right, None where it was not graded.
    """
    first = [r for r, rollout in zip(right, tree.rollouts, strict=True) if rollout.round == 0 and r is not None]
    turn = next((i for i, r in enumerate(right) if r is not None and tree.rollouts[i].round and r != first[0]), None)
    if turn is None:  # rewards between 0 and 1 can differ without one answer being right and another wrong
        return "A branch made the answers differ.", None
    rollout = tree.rollouts[turn]
    word = "right" if first[0] else "wrong"
    depth = len(tree.sampled_path(rollout.at))
    place = "at the root" if rollout.at == ROOT else f"after step {depth} (node {rollout.at})"
    score = f", where the branching rule's score was {rollout.score:.3g}" if rollout.score is not None else ""
    outcome = "wrong" if first[0] else "right"
    many = f"All {len(first)} first answers were {word}" if len(first) > 1 else f"The first answer was {word}"
    return f"{many}. Round {rollout.round} branched {place}{score}, and its answer was {outcome}.", turn


def _sample(tree: ReasoningTree, leaf: int, label: str, viewer: str, step: int) -> Sample:
    """A leaf's answer, its text split where the rollout that led to it began, and cut at `MOST_TEXT` characters."""
    path = tree.path(tree.leaves[leaf].node)
    at = tree.rollouts[leaf].at if tree.rollouts else ROOT
    before = len(tree.path(at)) if at in path else 0
    shared = "".join(tree.nodes[n].step.text for n in path[:before])
    own = "".join(tree.nodes[n].step.text for n in path[before:])
    stop = {"eos": "", "length": "; cut by the length limit"}.get(tree.leaves[leaf].stop, f"; {tree.leaves[leaf].stop}")
    kept = shared[:MOST_TEXT]
    rest = own[: MOST_TEXT - len(kept)]
    cut = len(shared) + len(own) - len(kept) - len(rest)
    return Sample(label + stop, kept, rest, cut, tree_link(viewer, step, tree.id, tree.leaves[leaf].node))


def _mean_logprob(tree: ReasoningTree, leaf: int) -> float:
    """Mean log-probability of an answer's sampled tokens: how sure the model was of it."""
    sampled = tree.sampled_length(tree.leaves[leaf].node)
    return math.fsum(tree.completion_logprobs(leaf)) / sampled if sampled else -math.inf  # given tokens add 0
