"""The differences between two arms of the final test that neither is IB-TPO nor GRPO: writes pairs.md.

python pairs.py RUN OUTPUT, where RUN is a folder of `ibtpo compare training` and OUTPUT that of its result.
"""

import sys
from pathlib import Path

from ibtpo.compare.training_plan import load_plan
from ibtpo.compare.training_results import finished
from ibtpo.evaluation.statistics import difference, grade_table

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
            points, low, high = (f"{100 * value:+.1f}" for value in (found["diff"], *found["ci"]))
            lines.append(f"| {first} | {second} | {points} [{low}, {high}] | {len(seeds)} |")
    (output / "pairs.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
