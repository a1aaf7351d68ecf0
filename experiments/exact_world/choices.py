"""What each choice alone does to signal to noise: two arms that differ in it, on the same problems."""

from typing import Any

import numpy as np
from arms import CREDITS, GROWTHS
from gradient import VIEWS
from summarise import resamples, signal

Arm = tuple[str, str]  # growth, credit

CHOICES: dict[str, tuple[Arm, Arm]] = {
    "IBTree in place of independent answers, GRPO's advantage": (("IBTree", "grpo"), ("independent 8", "grpo")),
    "branch at random in place of by IB-Score": (("random", "ibtpo"), ("IBTree", "ibtpo")),
    "branch as fixed width in place of by IB-Score": (("fixed width", "ibtpo"), ("IBTree", "ibtpo")),
    "branch as EPTree in place of by IB-Score": (("EPTree", "ibtpo"), ("IBTree", "ibtpo")),
    "branch by surprise in place of as EPTree": (("surprise", "ibtpo"), ("EPTree", "ibtpo")),
    "branch as EPTree in place of by IB-Score, sqrt": (("EPTree", "ibtpo, sqrt"), ("IBTree", "ibtpo, sqrt")),
    "branching β 1 in place of 5": (("IBTree β 1", "ibtpo"), ("IBTree", "ibtpo")),
    "branching β 20 in place of 5": (("IBTree β 20", "ibtpo"), ("IBTree", "ibtpo")),
    "branch by draws in place of leaves": (("IBTree draws", "ibtpo"), ("IBTree", "ibtpo")),
    "λ 0.1 in place of 0": (("IBTree", "ibtpo"), ("IBTree", "ibtpo, λ 0")),
    "λ 0.5 in place of 0": (("IBTree", "ibtpo, λ 0.5"), ("IBTree", "ibtpo, λ 0")),
    "uniform trees masked": (("IBTree", "ibtpo, uniform masked"), ("IBTree", "ibtpo")),
    "credit by draws in place of leaves": (("IBTree", "ibtpo, draws"), ("IBTree", "ibtpo")),
    "shared steps weighted sqrt in place of trajectories": (("IBTree", "ibtpo, sqrt"), ("IBTree", "ibtpo")),
    "shared steps weighted once in place of trajectories": (("IBTree", "ibtpo, once"), ("IBTree", "ibtpo")),
    "EPTree, sqrt in place of trajectories": (("EPTree", "ibtpo, sqrt"), ("EPTree", "ibtpo")),
    "EPTree, TreeRL's credit in place of IB-TPO's": (("EPTree", "treerl"), ("EPTree", "ibtpo")),
    "EPTree, TreeRL's credit in place of IB-TPO's sqrt": (("EPTree", "treerl"), ("EPTree", "ibtpo, sqrt")),
    "IBTree, TreeRL's credit in place of IB-TPO's": (("IBTree", "treerl"), ("IBTree", "ibtpo")),
    "IBTree, a budget by need": (("IBTree adaptive", "ibtpo"), ("IBTree", "ibtpo")),
    "surprise, a budget by need": (("surprise adaptive", "ibtpo"), ("surprise", "ibtpo")),
    "independent answers, a budget by need": (("independent adaptive", "grpo"), ("independent 8", "grpo")),
}


def choice_rows(data: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """A row for each choice: the ratio of signal to noise in each view, with a paired bootstrap interval."""
    weights = resamples(len(data["success"]))
    names, credits = list(GROWTHS), list(CREDITS)
    rows = []
    for choice, (new, old) in CHOICES.items():
        ratios = {}
        for v, view in enumerate(VIEWS):
            mine, theirs = (signal(weights, data, names.index(g), v)[:, credits.index(c)] for g, c in (new, old))
            ratio = mine / theirs
            ratios[view] = [float(ratio[0]), *np.quantile(ratio[1:], [0.025, 0.975]).tolist()]
        rows.append({"choice": choice, "ratio": ratios})
    return rows
