"""The trees as plain nested lists, for browsers without JavaScript.

Only the first trees are written this way, as many as `MOST_BYTES` hold; the page says how many are left out.
"""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from .._text import visible
from ..tree import ROOT, Leaf, ReasoningTree
from .data import tree_key

MOST_BYTES = 400_000  # of markup, for all trees together
MOST_TEXT = 4_000  # characters shown of a prompt or of a step


def leaf_mark(leaf: Leaf) -> str:
    """An answer's verdict as a sign and words: "✓ right", "✗ wrong, cut short", "⚠ verifier error", …"""
    if leaf.stop in ("verifier_error", "engine_error"):
        return "⚠ " + leaf.stop.replace("_", " ")
    cut = ", cut short" if leaf.stop == "length" else ""
    if leaf.correct is None:
        return "⚠ no reward" + cut
    return ("✓ right" if leaf.correct >= 1 else "✗ wrong" if leaf.correct <= 0 else f"◐ {leaf.correct:g}") + cut


def marks_of(tree: ReasoningTree) -> dict[int, list[str]]:
    """By node, the verdicts of the answers that end there; several where equal answers were sampled."""
    marks: dict[int, list[str]] = {}
    for leaf in tree.leaves:
        marks.setdefault(leaf.node, []).append(leaf_mark(leaf))
    return marks


def number(value: float | None, decimals: int = 3) -> str:
    """A score as people read it: with its sign and three decimals (from 1000 on, three digits), "–" for None."""
    if value is None:
        return "–"
    text = f"{value:+.{decimals}f}" if abs(value) < 1000 else f"{value:+.3g}"
    return text.replace("-", "−") if float(text) else text[1:]


def answers(tree: ReasoningTree) -> str:
    """How many answers a tree has, in words: "12 answers", "1 answer", "4 answers (stopped: all right)"."""
    why = tree.meta.get("stopped")
    stopped = f" (stopped: {visible(why, '')})" if isinstance(why, str) else ""  # anybody may have written the meta
    return f"{len(tree.leaves)} answer{'s' * (len(tree.leaves) != 1)}{stopped}"


class NestedLists:
    """Collects trees as nested lists until they fill `MOST_BYTES`.

    The first tree that does not fit ends the collection, so that what is shown are the first trees of the page.
    """

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._size = self._shown = self._all = 0

    def add(self, tree: ReasoningTree, step: int | None, record: Mapping[str, Any], label: str | None = None) -> None:
        """Adds a tree if there is still room, and counts it if not.

        tree: the tree.
        step: its training step, or None.
        record: its `tree_scores`.
        label: the label of its set, on a page of several sets.
        """
        self._all += 1
        if self._shown < self._all - 1:
            return
        part = _tree(tree, step, record, label, " open" if self._all == 1 else "")
        size = len(part.encode("utf-8", "replace"))
        if self._size + size > MOST_BYTES:
            return
        self._shown, self._size = self._all, self._size + size
        self._parts.append(part)

    def finish(self, notes: Sequence[str]) -> str:
        """The markup of all that was added, with a line that says how many trees are left out.

        notes: further lines, such as what could not be read.
        """
        left = self._all - self._shown
        which = f"the first {self._shown} of {self._all} trees" if left else "the trees"
        told = f"This browser runs no JavaScript: here are {which} as lists."
        if left:
            told += f" The other {left} are in this file too, and shown with JavaScript switched on."
        lines = "".join(f"<p>{html.escape(visible(n))}</p>" for n in notes)
        return f"<p>{told}</p>{lines}\n{''.join(self._parts)}"


def _tree(tree: ReasoningTree, step: int | None, record: Mapping[str, Any], label: str | None, opened: str) -> str:
    where = "".join(f"{p}, " for p in (label and html.escape(label), step is not None and f"step {step}") if p)
    reward, own = ("–" if (v := record[k]) is None else f"{v:.2f}" for k in ("avg_reward", "policy_rate"))
    return (
        f'<details id="{html.escape(tree_key(tree.id, step, label))}"{opened}><summary>{html.escape(visible(tree.id))} '
        f"<small>{where}{html.escape(answers(tree))}, average reward {reward}, first answers right {own}, "
        f"IB-Score {number(record['ib_score'])}</small></summary>\n"
        f"<pre>{_text(tree.prompt)}</pre>\n{_steps(tree, record)}</details>\n"
    )


def _steps(tree: ReasoningTree, record: Mapping[str, Any]) -> str:
    """The steps of a tree, one after another in a list, with lists inside it only where the tree forks.

    A stack of what is still to be written stands in for recursion, which deep trees would take too far.
    """
    marks, out = marks_of(tree), []
    stack: list[int | str] = _fork(tree.nodes[ROOT].children)
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            out.append(item)
            continue
        node, scores = tree.nodes[item], record["nodes"][item]
        told = ["given by the environment"] if node.step.given else []
        told += [f"p̂ {'–' if scores['p_hat'] is None else format(scores['p_hat'], '.2f')}"]
        told += [f"IB-Score {number(scores['ib_score'])}"] if node.children else []
        told += [f"{'given' if node.step.given else 'drawn'} {node.draws} times"] if node.draws > 1 else []
        told += marks.get(item, [])
        out.append(f"<li><small>{item}: {', '.join(told)}</small><pre>{_text(node.step.text)}</pre>")
        if len(node.children) > 1:
            stack += ["</li>\n", *_fork(node.children)]
        else:
            stack += [*node.children, "</li>\n"]
    return "".join(out)


def _fork(children: Sequence[int]) -> list[int | str]:
    """What to write for the branches of a fork, as a stack, the last piece first: a list of lists of steps."""
    branches = [part for child in reversed(children) for part in ("</ol></li>\n", child, "<li><ol>")]
    return ["</ul>\n", *branches, "<ul>"]


def _text(text: str) -> str:
    """A text as markup, cut at `MOST_TEXT` characters."""
    more = f" … [{len(text) - MOST_TEXT} more characters]" if len(text) > MOST_TEXT else ""
    return html.escape(visible(text[:MOST_TEXT].strip("\n"))) + more
