"""The trees a report shows: rescued by branching, best and worst, each with sample answers."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import quote

from ..metrics import correctness, rescued
from ..score import effective
from ..tree import ROOT, ReasoningTree
from ..viewer.page import tree_key

SHOWN = {"rescued": 6, "best": 3, "worst": 3}
MOST_TEXT = 3000  # characters of a prompt or an answer; the viewer has all of it
FULL_MARKS = 1 - 1e-6


@dataclass(frozen=True)
class Sample:
    """One answer. shared: what it has in common with an earlier one, before the branch; own: the rest."""

    label: str
    shared: str
    own: str
    cut: int = 0  # characters left out
    link: str = ""


@dataclass(frozen=True)
class Example:
    """One tree. summary: how many answers were right. story: what the branch did. link: its address in the viewer."""

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
    """What the stored trees held. counts: of the trees read: all, branched at all, rescued, mixed (answers differ in
    correctness)."""

    trees: int = 0
    branched: int = 0
    rescued: int = 0
    mixed: int = 0
    files: int = 0
    examples: dict[str, list[Example]] = field(default_factory=dict)


def gallery(trees: Iterable[tuple[int, ReasoningTree]], viewer: str) -> Gallery:
    """Chooses examples from (step, tree) pairs. viewer: file name of the tree viewer beside the report.

    Best and worst are by the share of right answers; among equals the later step counts, then the order in the file.
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
        for name, rows in kept.items():  # never more than a few trees in memory
            rows.sort(key=lambda row: row[0])
            del rows[SHOWN[name] :]
    for name, rows in kept.items():
        found.examples[name] = [_example(step, tree, viewer, name == "rescued") for _, step, tree in rows]
    return found


def tree_link(viewer: str, step: int, id: str, node: int | None = None) -> str:
    """Address of a tree, or of a node of it, in the viewer."""
    link = f"{quote(viewer)}#tree={tree_key(id, step)}"
    return link if node is None else f"{link}&node={node}"


def _example(step: int, tree: ReasoningTree, viewer: str, saved: bool) -> Example:
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
    """What the first branch did that made a uniform group differ, and the leaf it ended in."""
    first = [r for r, rollout in zip(right, tree.rollouts, strict=True) if rollout.round == 0 and r is not None]
    turn = next((i for i, r in enumerate(right) if r is not None and tree.rollouts[i].round and r != first[0]), None)
    if turn is None:  # the reward is no matter of right and wrong
        return "A branch made the answers differ.", None
    rollout = tree.rollouts[turn]
    word = "right" if first[0] else "wrong"
    depth = len(tree.path(rollout.at))
    place = "at the root" if rollout.at == ROOT else f"after step {depth} (node {rollout.at})"
    score = f", where the branching rule's score was {rollout.score:.3g}" if rollout.score is not None else ""
    outcome = "wrong" if first[0] else "right"
    many = f"All {len(first)} first answers were {word}" if len(first) > 1 else f"The first answer was {word}"
    return f"{many}. Round {rollout.round} branched {place}{score}, and its answer was {outcome}.", turn


def _sample(tree: ReasoningTree, leaf: int, label: str, viewer: str, step: int) -> Sample:
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
    logprobs = tree.completion_logprobs(leaf)
    return math.fsum(logprobs) / len(logprobs) if len(logprobs) else -math.inf
