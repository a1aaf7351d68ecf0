"""What table.md of the final test does not say: differences between other arms, and when an arm is ahead of GRPO.

python pairs.py RUN OUTPUT, where RUN is a folder of `ibtpo compare training` and OUTPUT that of its result. Writes
pairs.md.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np

from ibtpo.compare.training_plan import load_plan
from ibtpo.compare.training_results import Result, finished
from ibtpo.evaluation.statistics import difference, grade_table, nanmean

SURPRISE, EPTREE = "ibtpo,branching=entropy", "ibtpo,branching=eptree"
BY_SURPRISE, BY_IB = "treerl,branching=entropy", "treerl,branching=ib"
PAIRS = [
    ("treerl", BY_SURPRISE),
    ("treerl", BY_IB),
    (BY_SURPRISE, BY_IB),
    (BY_SURPRISE, f"{BY_IB},branch_beta=1,branch_value=draws"),
    (f"{SURPRISE},prefix_weight=sqrt", SURPRISE),
    (f"{SURPRISE},prefix_weight=sqrt", BY_SURPRISE),
    (f"{EPTREE},prefix_weight=sqrt", EPTREE),
    (f"{EPTREE},prefix_weight=sqrt", "treerl"),
    ("ibtpo,advantage=grpo", "ibtpo,lam=0"),
    ("ibtpo,advantage=grpo", "grpo,advantage=ibtpo"),
    ("ibtpo,advantage=grpo", "treerl"),
    ("ibtpo,lam=0", "ibtpo,lam=0.2"),
    ("ibtpo,lam=0", "ibtpo,lam=0.5"),
    ("ibtpo,ib_on_uniform_trees=false", "ibtpo"),
    ("ibtpo,lam=0.5,ib_on_uniform_trees=false", "ibtpo,lam=0.5"),
    ("ibtpo,lam=0.5,ib_on_uniform_trees=false", "ibtpo,lam=0"),
    ("ibtpo,lam=0.5,ib_beta=20", "ibtpo,lam=0.5"),
    ("ibtpo,lam=0.5,ib_beta=20", "ibtpo"),
]


def main(run: Path, output: Path) -> None:
    plan = load_plan(run)
    results = finished(plan, {arm: choice["learning_rate"] for arm, choice in plan.choices().items()})
    problems = list(results["grpo"][0].rows[-1]["grades"])
    lines = [
        "The first arm minus the second, points of accuracy, over the seeds that both have. Intervals as in table.md.",
        "",
        "| arm | minus | points | seeds |",
        "| --- | --- | --- | ---: |",
    ]
    for first, second in PAIRS:
        grades = [{r.seed: r.rows[-1]["grades"] for r in results.get(arm, [])} for arm in (first, second)]
        seeds = sorted(grades[0].keys() & grades[1].keys())
        if seeds:
            found = difference(*(grade_table([table[seed] for seed in seeds], problems) for table in grades))
            lines.append(f"| {first} | {second} | {_points(found)} | {len(seeds)} |")
    lines += [
        "",
        "Success in training, of the answers that no branch chose, in each third of the token budget, minus that of "
        "grpo with the same seeds; points, 95 % intervals over seeds (Student's t).",
        "",
        "| arm | first third | second | last | seeds |",
        "| --- | --- | --- | --- | ---: |",
        *(_ahead(arm, results[arm], results["grpo"]) for arm in results if arm != "grpo"),
    ]
    (output / "pairs.md").write_text("\n".join(lines) + "\n")


def _ahead(arm: str, mine: list[Result], theirs: list[Result]) -> str:
    """The row of an arm: by how much its success in training is above another's in each third of the budget."""
    ours, others = ({r.seed: _thirds(r) for r in results} for results in (mine, theirs))
    seeds = sorted(ours.keys() & others.keys())
    tables = (np.array([thirds[seed] for seed in seeds]) for thirds in (ours, others))
    found = [difference(mine[:, None], theirs[:, None]) for mine, theirs in zip(*(t.T for t in tables), strict=True)]
    return f"| {arm} | {' | '.join(map(_points, found))} | {len(seeds)} |"


def _points(found: dict[str, Any]) -> str:
    """A `difference` in points, with its interval."""
    points, low, high = (f"{100 * value:+.1f}" for value in (found["diff"], *found["ci"]))
    return f"{points} [{low}, {high}]"


def _thirds(result: Result) -> np.ndarray:
    """(3,) the mean of a run's policy rate in each third of the tokens it generated."""
    curves = result.run.curves
    third = np.minimum(3 * (curves.tokens - 1) // curves.tokens[-1], 2)
    return np.array([nanmean(curves["ibtpo/policy_rate"][third == part]) for part in range(3)])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
