"""The laws that every reasoning tree obeys."""

from collections import Counter

from ibtpo.tree import NO_PARENT, ROOT, ReasoningTree


def check_laws(tree: ReasoningTree) -> None:
    """Asserts what holds of every tree, however it was grown and cut into steps.

    Ids count up from the root; parents and children name each other; every node but the root has tokens, each with a
    log-probability if it was sampled; and every rollout that comes to a node goes on to a child or ends there.
    """
    assert [n.id for n in tree.nodes] == list(range(len(tree.nodes)))
    assert tree.nodes[ROOT].parent == NO_PARENT
    ended, started = Counter(f.node for f in tree.leaves), Counter(r.at for r in tree.rollouts)
    for node in tree.nodes:
        assert sorted(node.children) == [n.id for n in tree.nodes if n.parent == node.id]
        assert all(c > node.id for c in node.children)
        if node.id != ROOT:
            assert len(node.step.token_ids) >= 1
            assert len(node.step.logprobs) == (0 if node.step.given else len(node.step.token_ids))
        # A rollout comes to a node's end by being drawn from the node's parent, or by starting there as a branch.
        arrived = started[node.id] + (node.draws if node.id != ROOT else 0)
        assert sum(tree.nodes[c].draws for c in node.children) + ended[node.id] == arrived
    assert len(tree.rollouts) == len(tree.leaves)
