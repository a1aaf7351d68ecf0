"""Counts why answers to walks fail: by the rules of the task, or by the choice of moves.

python count.py OUTPUT_FOLDER, where OUTPUT_FOLDER/run/trees holds files ARM-seedN.jsonl.gz of independent answers, and
base.jsonl.gz of the untrained model's. Writes summary.json and table.md.
"""

import json
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

from ibtpo.evaluation.statistics import accuracy
from ibtpo.tasks.walk import DONE, MAX_MOVES, STUCK, VALUES
from ibtpo.tree import ReasoningTree, read_trees

STEP = re.compile(r"([+-]\d+) = (\d+)\.")
ID = re.compile(r"walk-(\d+)-(\d+)-(.+)")  # of a problem: start, target, moves
# What an answer comes to, in the table's order. `BROKEN` names those that break a rule that the base model was taught.
FAULTS = {
    "right": "right",
    "lost": "keeps the rules, misses the target",
    "sum": "wrong sum",
    "move": "move not offered",
    "many": f"more than {MAX_MOVES} moves",
    "cut": "cut",
    "form": "other",
}
BROKEN = ("sum", "move", "many", "form")


def fault(text: str, stop: str, start: int, target: int, moves: list[int]) -> str:
    """The first fault of an answer, or what it comes to without one: a key of `FAULTS`.

    text: the completion.
    stop: why it ended, see `Leaf.stop`.
    start, target, moves: the problem's.
    """
    value, made = start, 0
    for part in filter(None, text.split("\n\n")):
        step = STEP.fullmatch(part)
        if not step:
            if part == DONE and value == target:
                return "right"
            if part in (STUCK, DONE):
                return "lost"
            return "cut" if stop == "length" else "form"
        move, after = int(step[1]), int(step[2])
        if move not in moves:
            return "move"
        if value + move != after:
            return "sum"
        value, made = after, made + 1
        if value not in VALUES:
            return "form"
        if made > MAX_MOVES:
            return "many"
    return "cut" if stop == "length" else "form"


def shares(trees: list[ReasoningTree]) -> dict[str, float]:
    """The share of each fault among all answers of all trees.

    Raises `ValueError` if what is counted as right is not what the task's verifier gave a reward.
    """
    counts: Counter[str] = Counter()
    for tree in trees:
        found = ID.fullmatch(tree.id)
        assert found, tree.id
        moves = [int(move) for move in re.findall(r"[+-]\d+", found[3])]
        for i, leaf in enumerate(tree.leaves):
            kind = fault(tree.completion_text(i), leaf.stop, int(found[1]), int(found[2]), moves)
            if (kind == "right") != (leaf.reward == 1):
                raise ValueError(f"{tree.id}: {tree.completion_text(i)!r} is {kind}, but its reward is {leaf.reward}")
            counts[kind] += 1
    return {kind: counts[kind] / counts.total() for kind in FAULTS}


def main(output: Path) -> None:
    """Counts all files, and writes the results."""
    arms: dict[str, dict[str, dict[str, float]]] = defaultdict(dict)
    for path in sorted((output / "run" / "trees").glob("*.jsonl.gz")):
        arm, _, seed = path.name.removesuffix(".jsonl.gz").partition("-seed")
        arms[arm][seed] = shares(list(read_trees(path)))
    rows = [_row(arm, list(seeds.values())) for arm, seeds in arms.items()]
    rows.sort(key=lambda row: row["broken"])
    trained = np.array([(run["right"], _broken(run)) for arm in arms if arm != "base" for run in arms[arm].values()])
    correlation = float(np.corrcoef(trained.T)[0, 1])
    summary = {"seeds": arms, "rows": rows, "correlation": correlation}
    (output / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    (output / "table.md").write_text(_table(rows, len(trained), correlation))


def _broken(run: dict[str, float]) -> float:
    """The share of a run's answers that break a rule."""
    return sum(run[kind] for kind in BROKEN)


def _row(arm: str, runs: list[dict[str, float]]) -> dict[str, object]:
    """The mean over the runs of an arm; `broken` is the share of answers that break a rule, with a 95 % interval."""
    broken = np.array([_broken(run) for run in runs])
    means = {kind: float(np.mean([run[kind] for run in runs])) for kind in FAULTS}
    found = accuracy(broken[:, None])
    ci = [max(0.0, found["ci"][0]), min(1.0, found["ci"][1])] if len(runs) > 1 else None
    return {"arm": arm, "seeds": len(runs), **means, "broken": found["acc"], "broken_ci": ci}


def _table(rows: list[dict], runs: int, correlation: float) -> str:
    heads = ["arm", "seeds", *FAULTS.values(), "breaks a rule"]
    lines = [
        "What answers come to, in % of all: the first fault decides. The last column adds up wrong sums, moves not "
        f"offered, more than {MAX_MOVES} moves, and other text. 95 % intervals over seeds, Student's t.",
        "",
        f"| {' | '.join(heads)} |",
        f"| --- |{' ---: |' * (len(heads) - 2)} --- |",
    ]
    for row in rows:
        ends = "" if row["broken_ci"] is None else " [{:.1f}, {:.1f}]".format(*(100 * end for end in row["broken_ci"]))
        means = " | ".join(f"{100 * row[kind]:.1f}" for kind in FAULTS)
        lines.append(f"| {row['arm']} | {row['seeds']} | {means} | {100 * row['broken']:.1f}{ends} |")
    lines += ["", f"Over the {runs} trained models, right and breaking a rule correlate by {correlation:.2f}."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
