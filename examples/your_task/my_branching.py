"""A branching rule: go on where the answers so far are most evenly right and wrong."""

import math

import ibtpo


def most_mixed(tree, k, options, seed):
    """At most k places, best first; an empty list would end the tree.

    tree: as it has grown so far. options: `ibtpo.ScoreOptions`, for rules that look at scores.
    seed: differs from round to round, for rules that draw; this one does not.
    """
    value = ibtpo.score_tree(tree, options).p_hat  # (N,) share of right answers under each node, NaN if unknown
    nodes = [node for node in tree.branchable() if not math.isnan(value[node])]
    nodes.sort(key=lambda node: abs(value[node] - 0.5))
    root = ibtpo.BranchPoint(0)
    return [ibtpo.BranchPoint(node, score=float(value[node])) for node in nodes[:k]] or [root]
