"""Shows trees in the terminal, for people who work over SSH and have no browser at hand."""

import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from .._text import visible
from ..errors import DataError, unknown
from ..metrics import correctness, rescued
from ..tree import ROOT, ReasoningTree
from .data import index_entry
from .matching import matches, summary
from .sources import Source, open_sources
from .without_script import answers, marks_of, number

MOST_TEXT = 400  # characters of a step's text; a narrower terminal cuts it further
CHANGED = 20  # problems listed of those that changed
NAMED = 10  # how many other trees are named below the one shown


def print_tree(
    source: str | Path | Sequence[str | Path],
    wanted: str | None = None,
    options: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> None:
    """Prints one tree, or, of several sets without a wanted tree, which problems changed most.

    source: what `open_sources` takes: a path, or several to compare.
    wanted: the tree's id, or STEP:ID in a run folder, where an id alone means the first tree that has it; None means
        the first tree of all. Of several sets, the tree of each is printed.
    options: options to score the tree with in place of those stored in it, as in `write_viewer`.
    console: where to print; default the standard output.

    Control characters in the model's texts are shown as signs, so that none of them reaches the terminal as a command.
    Raises `DataError` for a wrong file, and `ConfigError` for an id that is not there or a wrong option.
    """
    sets = open_sources([source] if isinstance(source, str | Path) else source)
    console = console or Console(highlight=False, markup=False, emoji=False)
    if len(sets) > 1 and wanted is None:
        _print_changes(sets, options, console)
        return
    for found in sets:
        if len(sets) > 1:
            console.print(Text(visible(found.label, ""), "bold reverse"))
        _print_one(found, wanted, options, console)


def _print_one(found: Source, wanted: str | None, options: Mapping[str, Any] | None, console: Console) -> None:
    shown: ReasoningTree | None = None
    names: list[str] = []
    for step, tree in found.trees():
        if shown is not None and len(names) > NAMED:
            break  # a large file is not read to its end only for the names of its trees
        name = tree.id if step is None else f"{step}:{tree.id}"
        if shown is None and wanted in (None, name, tree.id):
            shown, title, names = tree, name, []
        else:
            names.append(name)
    for note in found.notes:
        print(f"left out: {visible(note)}", file=sys.stderr)
    if shown is None and not names:
        raise DataError(f"{found.path} holds no tree that can be read")
    if shown is None:
        near = get_close_matches(wanted or "", names, n=1) or names[:NAMED]  # a run can hold thousands of names
        raise unknown("tree", wanted or "", [visible(n, "") for n in near])
    console.print(_as_rich_tree(shown, title, found.scored(shown, options)[1]))
    if names and wanted is None:
        others = ", ".join(visible(n, "") for n in names[:NAMED]) + (", …" if len(names) > NAMED else "")
        print(f"this is the first tree; --tree shows another: {others}", file=sys.stderr)


def _print_changes(sets: Sequence[Source], options: Mapping[str, Any] | None, console: Console) -> None:
    """Prints what changed from the first set to the last, and the problems that changed most, a line each."""
    entries = [
        index_entry(tree, place, step, found.scored(tree, options)[1])
        for place, found in ((0, sets[0]), (1, sets[-1]))
        for step, tree in found.trees()
    ]
    for note in (note for found in sets for note in found.notes):
        print(f"left out: {visible(note)}", file=sys.stderr)
    changed = matches(entries, 0, 1)
    first, last = (visible(found.label, "") for found in (sets[0], sets[-1]))
    console.print(Text(summary(changed, first, last)))
    if not changed:
        return
    drawn = Table("", "change", "problem", "prompt", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for column in drawn.columns[:2]:
        column.justify, column.no_wrap, column.min_width = "right", True, 6
    drawn.columns[0].min_width = len("0.00 → 0.00")
    for column in drawn.columns[2:]:
        column.no_wrap, column.overflow = True, "ellipsis"
    for m in changed[:CHANGED]:
        change = "–" if m.change is None else number(m.change, 2)
        style = "" if not m.change else "bold blue" if m.change > 0 else "bold yellow"
        prompt = " ".join(m.before["prompt"][: 4 * MOST_TEXT].split())[:MOST_TEXT]
        drawn.add_row(
            f"{_share(m.before['success'])} → {_share(m.after['success'])}",
            Text(change, style),
            Text(visible(m.before["id"], "")),
            Text(visible(prompt, "")),
        )
    console.print(drawn)
    more = len(changed) - CHANGED
    print(f"{f'and {more} more; ' if more > 0 else ''}--tree ID shows the trees of a problem", file=sys.stderr)


def _as_rich_tree(tree: ReasoningTree, title: str, record: Mapping[str, Any]) -> Tree:
    """The tree as `rich` draws it: a line of facts on top, then a line a step."""
    marks = marks_of(tree)
    told = [answers(tree), f"average reward {_share(record['avg_reward'])}"]
    told += [f"first answers right {_share(record['policy_rate'])}"]
    told += [f"IB-Score {number(record['ib_score'])}", f"Cov(η1, η2) {number(record['cov_eta'])}"]
    if correctness(tree):  # a tree without any graded answer is neither effective nor uniform
        told += ["rescued" if rescued(tree) else "effective"] if record["effective"] else ["uniform"]
    top = Text(visible(title, ""), "bold")
    top.append("  " + ", ".join(told), "not bold dim")
    drawn = Tree(Text.assemble(top, "\n", _step(tree, ROOT, record["nodes"][ROOT], marks)), guide_style="dim")
    branches = {ROOT: drawn}
    stack = list(reversed(tree.nodes[ROOT].children))
    # Depth first. An only child stands below its parent, not deeper, or long answers would leave the screen.
    while stack:
        node = stack.pop()
        parent = tree.nodes[tree.nodes[node].parent]
        alone = len(parent.children) == 1 and parent.id != ROOT
        at = branches[parent.id]
        line = _step(tree, node, record["nodes"][node], marks)
        if alone:
            assert isinstance(at.label, Text)
            at.label = Text.assemble(at.label, "\n", line, overflow="ellipsis", no_wrap=True)
            branches[node] = at
        else:
            branches[node] = at.add(line)
        stack.extend(reversed(tree.nodes[node].children))
    return drawn


def _step(tree: ReasoningTree, node: int, scores: Mapping[str, Any], marks: Mapping[int, list[str]]) -> Text:
    """The line of one step: its number, whether the environment gave it, how often it was drawn, its scores, the
    answers that end here, its text."""
    step = tree.nodes[node]
    line = Text(no_wrap=True, overflow="ellipsis")
    line.append(f"{node:>3} " if node else "", "dim")
    line.append("given " if step.step.given else "", "bold cyan")
    line.append(f"×{step.draws} " if step.draws > 1 else "", "bold")
    line.append(f"p̂ {_share(scores['p_hat'])} ", "cyan")
    if step.children:
        line.append(f"IB {number(scores['ib_score'])} ")
    for mark in marks.get(node, []):
        line.append(f"{mark} ", {"✓": "bold blue", "✗": "bold yellow"}.get(mark[0], "bold magenta"))
    line.append(visible(" ".join(step.step.text[: 4 * MOST_TEXT].split())[:MOST_TEXT], ""))
    return line


def _share(value: float | None) -> str:
    """A number with two decimals, "–" for none."""
    return "–" if value is None else f"{value:.2f}"
