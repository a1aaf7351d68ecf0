"""An advantage: what each step changed, p̂(step) − p̂(step before), on the scale of the whole batch."""

import math

import numpy as np

import ibtpo


def progress(tree, options):
    """L arrays, one an answer; the i-th is (D_i,), an advantage for each step on the path to answer i.

    options: `ibtpo.CreditOptions`; `options.score` are those of the scores.
    """
    value = ibtpo.score_tree(tree, options.score).p_hat
    change = np.array([0.0] + [value[node.id] - value[node.parent] for node in tree.nodes[1:]])
    change = np.nan_to_num(change)  # where no answer could be judged nothing is known: no push either way
    return [change[tree.path(leaf.node)] for leaf in tree.leaves]


def step_changes(tree, paths):
    """What one tree adds to the batch: every step's advantage."""
    return [float(advantage) for path in paths for advantage in path]


def root_mean_square(values):
    """What the advantages of a batch are divided by. values: the contributions of all its trees."""
    return math.sqrt(sum(v * v for v in values) / max(1, len(values))) + 1e-4


# Optional. Without it a tree's advantages depend on this tree alone, as in GRPO.
progress.batch_scale = ibtpo.BatchScale(step_changes, root_mean_square)
