"""What is compared: how trees grow, how their answers are credited, and the arms of the learning curves."""

from dataclasses import dataclass, field

from ibtpo.credit import CreditOptions
from ibtpo.score import ScoreOptions
from ibtpo.search import Budget


@dataclass(frozen=True, slots=True)
class Growth:
    """How a tree grows: a branching rule, a budget, and the score options that choose where to branch."""

    rule: str
    budget: Budget
    score: ScoreOptions = field(default_factory=ScoreOptions)


TREE = Budget(4, 9, 1, 1)
GROWTHS = {
    "independent 8": Growth("independent", Budget(8, 1)),
    "independent 12": Growth("independent", Budget(12, 1)),
    "random": Growth("random", TREE),
    "fixed width": Growth("fixed_width", TREE),
    "EPTree": Growth("eptree", TREE),
    "surprise": Growth("entropy", TREE),
    "IBTree": Growth("ib", TREE),
    "IBTree β 1": Growth("ib", TREE, ScoreOptions(ib_beta=1)),
    "IBTree β 20": Growth("ib", TREE, ScoreOptions(ib_beta=20)),
    "IBTree draws": Growth("ib", TREE, ScoreOptions(value="draws")),
    "IBTree draws, β 1": Growth("ib", TREE, ScoreOptions(value="draws", ib_beta=1)),
    # These may end early, so how many tokens a tree has depends on how hard its problem is.
    "IBTree adaptive": Growth("ib_adaptive", TREE),
    "surprise adaptive": Growth("entropy_adaptive", TREE),
    "independent adaptive": Growth("independent_adaptive", TREE),
}


def _credits() -> dict[str, CreditOptions]:
    found = {}
    for weight in ("trajectories", "sqrt", "once"):
        suffix = "" if weight == "trajectories" else f", {weight}"
        found["grpo" + suffix] = CreditOptions("grpo", prefix_weight=weight)
        for value in ("leaves", "draws"):
            of = "" if value == "leaves" else ", draws"
            for lam in (0.1, 0.0):
                name = "ibtpo" + (", λ 0" if lam == 0 else "") + of + suffix
                options = CreditOptions(lam=lam, score=ScoreOptions(value=value), prefix_weight=weight)
                found[name] = options
        found["treerl" + suffix] = CreditOptions("treerl", prefix_weight=weight)
        found["treepo" + suffix] = CreditOptions("treepo", prefix_weight=weight)
    found["ibtpo, λ 0.5"] = CreditOptions(lam=0.5)
    found["ibtpo, uniform masked"] = CreditOptions(ib_on_uniform_trees=False)
    return found


CREDITS = _credits()

ARMS = {
    "GRPO": ("independent 8", "grpo"),
    "IB-TPO": ("IBTree", "ibtpo"),
    "IB-TPO, branching β 1": ("IBTree β 1", "ibtpo"),
    "IB-TPO, sqrt": ("IBTree", "ibtpo, sqrt"),
    "EPTree + IB-TPO": ("EPTree", "ibtpo"),
    "TreeRL": ("EPTree", "treerl"),
    "surprise + IB-TPO": ("surprise", "ibtpo"),
    "surprise + TreeRL": ("surprise", "treerl"),
    "independent + IB-TPO": ("independent 8", "ibtpo"),
    "IBTree + GRPO": ("IBTree", "grpo"),  # the gradient is that of IB-TPO with λ 0
    "IB-TPO, λ 0.5": ("IBTree", "ibtpo, λ 0.5"),
    "TreePO": ("fixed width", "treepo"),
    "random + IB-TPO": ("random", "ibtpo"),
    "IB-TPO, branching by draws, β 1": ("IBTree draws, β 1", "ibtpo"),
    "IB-TPO, credit by draws": ("IBTree", "ibtpo, draws"),
    "IB-TPO, once": ("IBTree", "ibtpo, once"),
    "EPTree + IB-TPO, sqrt": ("EPTree", "ibtpo, sqrt"),
    "surprise + IB-TPO, sqrt": ("surprise", "ibtpo, sqrt"),
    "GRPO, groups of 12": ("independent 12", "grpo"),
    "IB-TPO, budget by need": ("IBTree adaptive", "ibtpo"),
    "surprise + IB-TPO, budget by need": ("surprise adaptive", "ibtpo"),
    "GRPO, budget by need": ("independent adaptive", "grpo"),
}
CORE = tuple(ARMS)[:9]  # learned at every depth, too
SETS = {"core": CORE, "all": tuple(ARMS)}

# Two arms of the learning curves that differ in one choice.
LEARNED = {
    "branching β 1 in place of 5": ("IB-TPO, branching β 1", "IB-TPO"),
    "EPTree in place of IB-Score": ("EPTree + IB-TPO", "IB-TPO"),
    "surprise in place of EPTree": ("surprise + IB-TPO", "EPTree + IB-TPO"),
    "surprise in place of EPTree, TreeRL's credit": ("surprise + TreeRL", "TreeRL"),
    "TreeRL's credit in place of IB-TPO's, EPTree": ("TreeRL", "EPTree + IB-TPO"),
    "TreeRL's credit in place of IB-TPO's, surprise trees": ("surprise + TreeRL", "surprise + IB-TPO"),
    "shared steps weighted sqrt, IBTree": ("IB-TPO, sqrt", "IB-TPO"),
    "shared steps weighted sqrt, EPTree": ("EPTree + IB-TPO, sqrt", "EPTree + IB-TPO"),
    "shared steps weighted sqrt, surprise trees": ("surprise + IB-TPO, sqrt", "surprise + IB-TPO"),
    "λ 0.1 in place of 0": ("IB-TPO", "IBTree + GRPO"),
    "λ 0.5 in place of 0": ("IB-TPO, λ 0.5", "IBTree + GRPO"),
    "budget by need, IBTree": ("IB-TPO, budget by need", "IB-TPO"),
    "budget by need, surprise trees": ("surprise + IB-TPO, budget by need", "surprise + IB-TPO"),
}
