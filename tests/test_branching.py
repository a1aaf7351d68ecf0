"""Where each rule branches, on trees small enough to see."""

import random
from collections import Counter

import pytest

from helpers.trees import all_wrong, merged, step, three_leaf
from ibtpo._seeds import stable_hash
from ibtpo.branching import BRANCHING, BranchPoint, entropy, eptree, fixed_width, ib, independent
from ibtpo.branching import random as random_rule
from ibtpo.score import ScoreOptions, score_tree
from ibtpo.tree import ROOT, ReasoningTree

O = ScoreOptions()  # noqa: E741


def chains(*lengths: int, reward: float = 0.0, probability: float = 0.5) -> ReasoningTree:
    """Answers that share nothing; the i-th has that many one-token steps."""
    tree = ReasoningTree("chains", [1])
    for i, n in enumerate(lengths):
        tree.add(0, [step([100 * (i + 1) + j], [probability]) for j in range(n)], reward, "eos")
    return tree


def place(tree: ReasoningTree, point: BranchPoint) -> tuple[int, ...]:
    """The tokens in front of a place: the same place in every order of siblings."""
    before = tree.prefix_ids(point.node)
    size = len(tree.nodes[point.node].step.token_ids)
    return tuple(before[: len(before) - size + point.offset] if point.offset is not None else before)


# --- ib


def test_ib_picks_the_node_of_highest_score() -> None:
    # scores by hand (trees.py): root −9/20, node 1 3/10
    assert [(p.node, p.offset) for p in ib(three_leaf(), 1, O, 0)] == [(1, None)]
    points = ib(three_leaf(), 9, O, 0)
    assert [p.node for p in points] == [1, 0]
    assert [p.score for p in points] == pytest.approx([0.3, -0.45], rel=1e-12)


def test_ib_picks_the_root_when_it_scores_highest() -> None:
    tree = ReasoningTree("t", [1])
    tree.add(0, [step([2], [0.9]), step([3], [0.9])], 1.0, "eos")
    tree.add(0, [step([4], [0.1]), step([5], [0.9])], 0.0, "eos")
    # root: 6/2·((2 − 6/5)·0.9 − 6/5·0.1) = 1.8; below it −6/5·0.9 = −1.08 each
    assert ib(tree, 1, O, 0) == [BranchPoint(ROOT, None, pytest.approx(1.8))]
    assert {p.node for p in ib(tree, 3, O, 0)} == {0, 1, 3}


def test_with_single_children_ib_picks_the_least_confident_step() -> None:
    tree = ReasoningTree("t", [1])
    tree.add(0, [step([2], [0.9]), step([3], [0.5]), step([4], [0.2]), step([5], [0.7])], 0.0, "eos")
    # −6/5·π(child): the parent of the step drawn with probability 0.2 is node 2
    assert [p.node for p in ib(tree, 4, O, 0)] == [2, 1, 3, 0]


def test_ib_uses_the_score_options() -> None:
    tree = merged()  # draws: root 3/40, node 1 3/10; unique: root −10/40, node 1 −9/40
    assert [p.node for p in ib(tree, 2, ScoreOptions(weight="unique"), 0)] == [1, 0]
    tree = three_leaf()  # joint: root 0, node 1 3/10; head:1: root 9/40
    assert [p.score for p in ib(tree, 2, ScoreOptions(confidence="head:1"), 0)] == pytest.approx([0.3, 0.225])


def test_a_float_residue_does_not_break_a_tie() -> None:
    # Twelve chains whose second steps have the same confidence, √(0.4·0.9) = √(0.6·0.6) = 0.6.
    tree = ReasoningTree("t", [1])
    for i in range(6):
        tree.add(0, [step([10 + i], [0.9]), step([20 + i, 30], [0.4, 0.9])], 0.0, "eos")
        tree.add(0, [step([50 + i], [0.9]), step([60 + i, 30], [0.6, 0.6])], 0.0, "eos")
    scores = score_tree(tree).ib_score
    assert len(set(scores[[1, 3]])) == 2  # not equal to the last bit
    winners = Counter(ib(tree, 1, O, seed)[0].node for seed in range(600))
    assert len(winners) == 12
    assert min(winners.values()) > 20  # of 50 expected: neither half is preferred


@pytest.mark.parametrize("rule", BRANCHING)
def test_no_rule_cares_about_the_order_of_siblings(rule: str) -> None:
    rng = random.Random(0)
    rows = [
        ([step([10 + i % 3, 1], [0.5, 0.25]), step([20 + i], [0.5]), step([30, 31], [0.5, 0.25])], i % 2)
        for i in range(8)
    ]

    def places(order: list[int], seed: int) -> list[tuple[int, ...]]:
        tree = ReasoningTree("t", [1])
        for i in order:
            tree.add(0, rows[i][0], float(rows[i][1]), "eos")
        return [place(tree, p) for p in BRANCHING[rule](tree, 4, O, seed)]

    for seed in range(30):
        first = places(list(range(8)), seed)
        assert all(places(rng.sample(range(8), 8), seed) == first for _ in range(5))


@pytest.mark.parametrize("rule", ["ib", "random", "fixed_width", "entropy", "eptree"])
def test_ties_are_broken_differently_by_seed_and_by_prompt(rule: str) -> None:
    tree = chains(3, 3, 3, 3, 3, 3)
    by_seed = {BRANCHING[rule](tree, 1, O, seed)[0].node for seed in range(40)}
    assert len(by_seed) > 3
    again = [BRANCHING[rule](tree, 1, O, seed) for seed in range(40)]
    assert again == [BRANCHING[rule](tree, 1, O, seed) for seed in range(40)]
    other = chains(3, 3, 3, 3, 3, 3)
    other.id = "another prompt"
    assert [BRANCHING[rule](other, 1, O, seed) for seed in range(40)] != again


# --- entropy


def test_entropy_picks_the_least_likely_token_and_leaves_it_out() -> None:
    tree = ReasoningTree("t", [1])
    tree.add(0, [step([2, 3, 4], [0.5, 0.2, 0.9])], 0.0, "eos")
    tree.add(0, [step([5, 6], [0.5, 0.3])], 0.0, "eos")
    points = entropy(tree, 2, O, 0)
    assert [(p.node, p.offset) for p in points] == [(1, 1), (2, 1)]
    assert [place(tree, p) for p in points] == [(1, 2), (1, 5)]
    assert points[0].score == pytest.approx(1.6094379124341003)  # −log 0.2


def test_entropy_never_picks_the_first_token_of_a_branch() -> None:
    tree = ReasoningTree("t", [1])
    tree.add(0, [step([2, 3], [0.001, 0.9])], 0.0, "eos")
    tree.add(0, [step([4, 5], [0.001, 0.8])], 0.0, "eos")
    assert [(p.node, p.offset) for p in entropy(tree, 1, O, 0)] == [(2, 1)]


def test_entropy_sees_the_first_token_of_an_only_child_as_a_place_after_its_parent() -> None:
    tree = ReasoningTree("t", [1])
    tree.add(0, [step([2, 3], [0.5, 0.9]), step([4, 5], [0.1, 0.9])], 0.0, "eos")
    assert [(p.node, p.offset) for p in entropy(tree, 1, O, 0)] == [(1, None)]
    tree.add(1, [step([6], [0.1])], 0.0, "eos")  # branched there: not chosen again
    assert {(p.node, p.offset) for p in entropy(tree, 9, O, 0)} == {(1, 1), (2, 1)}


def test_entropy_gives_places_in_different_nodes_and_falls_back_when_there_is_none() -> None:
    tree = ReasoningTree("t", [1])
    tree.add(0, [step([2, 3, 4, 5], [0.5, 0.1, 0.1, 0.2])], 0.0, "eos")
    assert len(entropy(tree, 5, O, 0)) == 1
    short = chains(1, 1, 1)
    assert entropy(short, 2, O, 0) == [BranchPoint(ROOT)]


# --- eptree


def test_eptree_branches_every_first_answer_as_often_and_each_where_it_surprised_most() -> None:
    tree = ReasoningTree("t", [1])
    tree.add(0, [step([2, 3, 4], [0.5, 0.01, 0.02])], 0.0, "eos")
    tree.add(0, [step([5, 6, 7], [0.5, 0.3, 0.4])], 0.0, "eos")
    assert [(p.node, p.offset) for p in eptree(tree, 1, O, 0)] == [(1, 1)]
    assert [(p.node, p.offset) for p in eptree(tree, 2, O, 0)] == [(1, 1), (2, 1)]
    assert eptree(tree, 2, O, 0)[1].score == pytest.approx(1.2039728043259361)  # −log 0.3
    tree.split(1, 1, ("2", "3 4"))  # the second answer is node 3 now
    tree.add(1, [step([8, 9], [0.5, 0.001])], 0.0, "eos", round=1)
    # The first answer has its branch, so the second is next, though both steps of the first surprised more.
    assert [(p.node, p.offset) for p in eptree(tree, 1, O, 0)] == [(3, 1)]
    assert [(p.node, p.offset) for p in entropy(tree, 1, O, 0)] == [(4, 1)]
    tree.add(3, [step([10, 11], [0.5, 0.9])], 0.0, "eos", round=2)  # now both have one: a branch may be branched
    assert [(p.node, p.offset) for p in eptree(tree, 1, O, 0)] == [(4, 1)]


def test_eptree_counts_branches_by_first_answer_where_two_share_a_step() -> None:
    tree = ReasoningTree("t", [1])
    for tokens in ([4, 5], [6, 7]):
        tree.add(0, [step([2, 3], [0.5, 0.9]), step(tokens, [0.5, 0.8])], 0.0, "eos")
    tree.add(0, [step([8, 9], [0.5, 0.7])], 0.0, "eos")
    # One of the single answer first, for it surprised more; then two of the pair, before a branch has to go elsewhere.
    places = eptree(tree, 4, O, 0)
    assert [p.node for p in places[:1] + places[3:]] == [4, 1]
    assert {p.node for p in places[1:3]} == {2, 3}


def test_eptree_branches_any_place_where_no_first_answer_offers_a_token() -> None:
    assert eptree(chains(1, 1, 1), 2, O, 0) == [BranchPoint(ROOT)]


# --- fixed width


def test_fixed_width_widens_breadth_first() -> None:
    tree = chains(3, 3)  # nodes 1-2-3 and 4-5-6; the root has its fork already
    seen = []
    for i in range(4):
        (point,) = fixed_width(tree, 1, O, i)
        seen.append(len(tree.path(point.node)))
        tree.add(point.node, [step([900 + i], [0.5])], 0.0, "eos", round=i + 1)
    assert seen == [1, 1, 2, 2]
    assert [tree.nodes[n].draws for n in (1, 4)] == [1, 1]
    assert all(len(tree.nodes[n].children) == 2 for n in (1, 2, 4, 5))


def test_fixed_width_gives_what_a_short_answer_leaves_to_the_others() -> None:
    tree = chains(1, 3)  # node 1 is an answer; 2-3-4: of four paths from depth 1, all are to start at node 2
    seen = []
    for i in range(5):
        (point,) = fixed_width(tree, 1, O, i)
        seen.append(point.node)
        tree.add(point.node, [step([900 + i], [0.5])], 0.0, "eos", round=i + 1)
    assert seen == [2, 2, 2, 3, 3]  # then depth 2 has eight paths, all from node 3
    assert fixed_width(tree, 1, O, 0)[0].score == -3  # it was continued three times


def test_fixed_width_counts_a_merged_draw_as_a_continuation() -> None:
    tree = merged()  # node 1 was drawn three times and went on three times; four answers, so eight are to go on
    assert [(p.node, p.score) for p in fixed_width(tree, 9, O, 0)] == [(1, -1.0)]


def test_fixed_width_goes_back_into_finished_answers_when_every_depth_is_full() -> None:
    tree = chains(1, 2, 2)  # nodes 1; 2-3; 4-5
    for i, node in enumerate((2, 4, 2, 4)):
        tree.add(node, [step([900 + i], [0.5])], 0.0, "eos", round=i + 1)
    points = Counter(fixed_width(tree, 1, O, seed)[0] for seed in range(2000))
    assert set(points) == {BranchPoint(2), BranchPoint(4)}
    assert points[BranchPoint(2)] == pytest.approx(1000, abs=100)
    for leaf in tree.leaves[1:]:
        leaf.stop = "length" if tree.path(leaf.node)[0] == 4 else "eos"
    assert {fixed_width(tree, 1, O, seed)[0].node for seed in range(40)} == {2}  # no answer that was cut off
    assert fixed_width(chains(1, 1), 3, O, 0) == [BranchPoint(ROOT)]


def test_fixed_width_never_forks_the_root_while_a_depth_has_room() -> None:
    tree = chains(2, 4, 3)
    assert all(p.node != ROOT for seed in range(20) for p in fixed_width(tree, 9, O, seed))
    assert sorted(p.node for p in fixed_width(tree, 9, O, 0)) == [1, 3, 4, 5, 7, 8]
    assert [p.node for p in fixed_width(chains(3), 9, O, 0)] == [1, 2]  # one first answer: the root went on once too


# --- random and independent


def test_random_is_uniform_over_the_nodes_that_go_on() -> None:
    tree = chains(3, 2, 4)
    nodes = tree.branchable()
    assert nodes == [0, 1, 2, 4, 6, 7, 8]
    draws = 7000
    counts = Counter(random_rule(tree, 1, O, seed)[0].node for seed in range(draws))
    assert set(counts) == set(nodes)
    chi2 = sum((counts[n] - 1000) ** 2 / 1000 for n in nodes)
    assert chi2 < 22.5  # 6 degrees of freedom, p = 0.001


def test_random_draws_without_repeats_and_anew_each_round() -> None:
    tree = chains(3, 2, 4)
    points = [p.node for p in random_rule(tree, 7, O, 3)]
    assert sorted(points) == tree.branchable()
    assert len({tuple(p.node for p in random_rule(tree, 2, O, stable_hash(3, r))) for r in range(20)}) > 5


def test_independent_is_always_the_root() -> None:
    assert independent(three_leaf(), 5, O, 0) == [BranchPoint(ROOT)]


# --- all rules


@pytest.mark.parametrize("rule", BRANCHING)
def test_every_rule_finds_a_place_in_degenerate_trees(rule: str) -> None:
    failed = ReasoningTree("t", [1])  # every verifier failed
    empty = ReasoningTree("t", [1])  # every answer is empty
    for i in range(3):
        failed.add(0, [step([2 + i, 5], [0.5, 0.5]), step([6], [0.5])], None, "verifier_error")
        empty.add(0, [], 0.0, "eos")
    for tree in (failed, empty, all_wrong(), chains(1)):
        points = BRANCHING[rule](tree, 3, O, 0)
        assert 1 <= len(points) <= 3
        assert len({(p.node, p.offset) for p in points}) == len(points)
        assert all(0 <= p.node < len(tree.nodes) for p in points)
    assert BRANCHING[rule](empty, 3, O, 0)[0].node == ROOT


def test_ib_ranks_the_rest_when_one_subtree_has_no_known_reward() -> None:
    tree = three_leaf()
    tree.add(0, [step([30], [0.5]), step([31], [0.01])], None, "verifier_error")
    assert [p.node for p in ib(tree, 9, O, 0)] == [1, 0]
    assert score_tree(tree).leaf_count[5] == 0


def test_the_stable_hash_never_changes() -> None:
    # A change would silently grow other trees from the same seed.
    assert stable_hash(0, "a", (1, 2)) == 5658974743630531794
    assert stable_hash(0, "a", (1, 2)) != stable_hash(0, "a", (12,))
    assert 0 <= stable_hash() < 2**63
