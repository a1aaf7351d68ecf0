"""Trees stored under experiments/results hold what the format promises, and the token law."""

from collections import Counter
from pathlib import Path

import pytest

from ibtpo.engines.models import load_model
from ibtpo.errors import DependencyError
from ibtpo.tree import ROOT, read_trees

STORED = sorted((Path(__file__).parents[1] / "experiments" / "results").glob("*/trees.jsonl.gz"))


@pytest.mark.parametrize("path", STORED, ids=[p.parent.name for p in STORED])
def test_every_rollout_of_a_stored_tree_is_counted_once(path):
    trees = list(read_trees(path))
    assert len({t.id for t in trees}) == len(trees) > 0
    for tree in trees:
        assert len(tree.rollouts) == len(tree.leaves) == 12
        through: Counter[int] = Counter()
        started: Counter[int] = Counter(r.at for r in tree.rollouts)
        ended: Counter[int] = Counter(leaf.node for leaf in tree.leaves)
        for node in reversed(tree.nodes):  # what came in or started here goes on to a child or ends here
            through[node.id] = ended[node.id] + sum(tree.nodes[c].draws for c in node.children) - started[node.id]
            assert through[node.id] == (0 if node.id == ROOT else node.draws)


@pytest.mark.parametrize("path", [p for p in STORED if "smollm2" in p.parent.name], ids=lambda p: p.parent.name)
def test_texts_of_stored_smollm2_trees_are_their_tokens(path):
    try:
        _, tokenizer = load_model("smollm2-135m")
    except DependencyError as e:
        pytest.skip(str(e))
    for tree in read_trees(path):
        assert tokenizer.decode(list(tree.prompt_ids)) == tree.prompt
        for i in range(len(tree.leaves)):
            ids = tree.completion_ids(i)
            assert tree.prefix_ids(tree.leaves[i].node) == [*tree.prompt_ids, *ids]
            assert tokenizer.decode(ids, skip_special_tokens=True) == tree.completion_text(i)
