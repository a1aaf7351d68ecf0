"""What table.md of the final test does not say: other differences, success while training, and diagnostics.

python pairs.py RUN OUTPUT, where RUN is a folder of `ibtpo compare training` and OUTPUT that of its result. Writes
pairs.md.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ibtpo.compare.training_plan import load_plan
from ibtpo.compare.training_results import METRICS, Result, finished, paired
from ibtpo.evaluation.statistics import difference, nanmean

SURPRISE, EPTREE = "ibtpo,branching=entropy", "ibtpo,branching=eptree"
BY_SURPRISE, BY_IB = "treerl,branching=entropy", "treerl,branching=ib"
TREE = "ibtpo,advantage=grpo"
PAIRS = [
    (TREE, "ibtpo"),
    (TREE, "ibtpo,lam=0"),
    (TREE, "grpo,advantage=ibtpo"),
    (TREE, "treerl"),
    (f"{SURPRISE},prefix_weight=sqrt", TREE),
    (f"{SURPRISE},prefix_weight=sqrt", SURPRISE),
    (f"{SURPRISE},prefix_weight=sqrt", BY_SURPRISE),
    (BY_SURPRISE, "treerl"),
    (BY_SURPRISE, BY_IB),
    (BY_SURPRISE, f"{BY_IB},branch_beta=1,branch_value=draws"),
    ("treerl", BY_IB),
    (EPTREE, "ibtpo"),
    (EPTREE, "treerl"),
    (SURPRISE, EPTREE),
    (f"{EPTREE},prefix_weight=sqrt", EPTREE),
    (f"{EPTREE},prefix_weight=sqrt", "treerl"),
    ("ibtpo,lam=0", "ibtpo"),
    ("ibtpo,lam=0", "ibtpo,lam=0.2"),
    ("ibtpo,lam=0", "ibtpo,lam=0.5"),
    ("ibtpo,lam=0.5,ib_beta=20", "ibtpo,lam=0.5"),
    ("ibtpo,lam=0.5,ib_beta=20", "ibtpo"),
    ("ibtpo,ib_beta=1", "ibtpo"),
    ("ibtpo,ib_beta=1", "ibtpo,lam=0.5"),
    ("ibtpo,ib_on_uniform_trees=false", "ibtpo"),
    ("ibtpo,lam=0.5,ib_on_uniform_trees=false", "ibtpo,lam=0.5"),
    ("ibtpo,lam=0.5,ib_on_uniform_trees=false", "ibtpo,lam=0"),
    ("ibtpo,branching=ib_adaptive", "ibtpo"),
]
COMMON = range(12)  # the seeds that every arm has
PART = 20  # the budget's first and last parts, in which diagnostics are averaged, are one of so many

Arms = dict[str, list[Result]]


def main(run: Path, output: Path) -> None:
    plan = load_plan(run)
    arms = finished(plan, {arm: choice["learning_rate"] for arm, choice in plan.choices().items()})
    others = [arm for arm in arms if arm != "grpo"]
    level = 1 - 0.05 / max(1, len(others))
    sections = [
        "The first arm minus the second, points of accuracy, over the seeds that both have. Intervals as in table.md.",
        _table(["arm", "minus", "points", "seeds"], [_pair(arms, *p) for p in PAIRS if set(p) <= arms.keys()]),
        f"Each arm minus grpo, points of accuracy. The second interval is Bonferroni's for the {len(others)} arms "
        f"together; the last column has the seeds 0 to {COMMON[-1]} only, which all arms have once they are finished.",
        _table(
            ["arm", "points", "for all arms together", "seeds", f"seeds 0 to {COMMON[-1]}"],
            [
                [
                    arm,
                    _points(found),
                    _interval(_minus(arms, arm, "grpo", level=level)),
                    len(found["seed_numbers"]),
                    _points(_minus(arms, arm, "grpo", COMMON)),
                ]
                for arm in others
                for found in [_minus(arms, arm, "grpo")]
            ],
        ),
        "Success in training, of the answers that no branch chose, in each third of the token budget, minus that of "
        "grpo with the same seeds; points, 95 % intervals over seeds (Student's t).",
        _table(["arm", "first third", "second", "last", "last minus first"], [_thirds(arms, arm) for arm in others]),
        f"Diagnostics in the first {100 / PART:g} % of the tokens and in the last, means over seeds, and the change "
        "with its 95 % interval (Student's t). Eff-Rate is that of groups of 8 (independent answers) or of up to 12 "
        "(trees), in %; entropy in nats.",
        _table(
            ["arm", "seeds", "Eff-Rate", "Cov(η1, η2)", "entropy", "truncated, %"],
            [[arm, len(results), *_ends(results)] for arm, results in arms.items()],
        ),
    ]
    (output / "pairs.md").write_text("\n\n".join(sections) + "\n")


def _table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _minus(
    arms: Arms, first: str, second: str, among: Sequence[int] | None = None, level: float = 0.95
) -> dict[str, Any]:
    """What `paired` finds for two arms. among: these seeds only."""
    mine = [r for r in arms[first] if among is None or r.seed in among]
    found = paired(mine, arms[second], list(mine[0].rows[-1]["grades"]), level=level)
    assert found is not None, (first, second)
    return found


def _pair(arms: Arms, first: str, second: str) -> list[object]:
    found = _minus(arms, first, second)
    return [first, second, _points(found), len(found["seed_numbers"])]


def _thirds(arms: Arms, arm: str) -> list[object]:
    """The row of an arm: by how much its success in training is above grpo's in each third, and how that changes."""
    mine, theirs = ({r.seed: _rate_by_third(r) for r in arms[name]} for name in (arm, "grpo"))
    seeds = sorted(mine.keys() & theirs.keys())
    columns = zip(*(np.array([rates[seed] for seed in seeds]).T for rates in (mine, theirs)), strict=True)
    return [arm, *(_points(difference(a[:, None], b[:, None])) for a, b in columns)]


def _rate_by_third(result: Result) -> list[float]:
    """A run's mean policy rate in each third of the tokens it generated, and the last minus the first."""
    thirds = [_mean_of_part(result, "ibtpo/policy_rate", part, 3) for part in range(3)]
    return [*thirds, thirds[2] - thirds[0]]


def _mean_of_part(result: Result, name: str, part: int, of: int) -> float:
    """The mean of a metric over the steps of one of `of` equal parts of the tokens that a run generated."""
    curves = result.run.curves
    return float(nanmean(curves[name][of * (curves.tokens - 1) // curves.tokens[-1] == part]))


def _ends(results: Sequence[Result]) -> list[str]:
    """An arm's diagnostics at both ends of its runs, as texts "first → last, change [interval]"."""
    found = []
    for name, scale, digits in (
        (METRICS["eff_rate"], 100, 1), (METRICS["cov_eta"], 1, 3), (METRICS["entropy"], 1, 3),
        ("completions/clipped_ratio", 100, 1),
    ):  # fmt: skip
        ends = scale * np.array([[_mean_of_part(r, name, part, PART) for part in (0, PART - 1)] for r in results])
        change = difference(ends[:, 1:], ends[:, :1])
        first, last = ends.mean(axis=0)
        changed = f"{change['diff']:+.{digits}f} {_interval(change, 1, digits)}"
        found.append(f"{first:.{digits}f} → {last:.{digits}f}, {changed}")
    return found


def _points(found: dict[str, Any]) -> str:
    """A `difference` in points, with its interval."""
    return f"{100 * found['diff']:+.1f} {_interval(found)}"


def _interval(found: dict[str, Any], scale: float = 100, digits: int = 1) -> str:
    """Of one seed alone, and without problems, there is none."""
    if np.isnan(found["ci"]).any():
        return "[–]"
    low, high = (f"{scale * end:+.{digits}f}" for end in found["ci"])
    return f"[{low}, {high}]"


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
