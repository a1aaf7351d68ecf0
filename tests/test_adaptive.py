"""Budgets by need: when a tree ends early, where its answers start, and that nothing but the seed decides."""

import itertools
import random

import pytest

from helpers.laws import check_laws
from helpers.searches import EOS, Recorder, dicts, grow, next_token, options, prompts
from helpers.trees import FunctionVerifier, all_equal, merged, three_leaf
from ibtpo.branching import ADAPTIVE, BRANCHING, BranchPoint, agreement, by_need
from ibtpo.engines.scripted import ScriptedEngine
from ibtpo.metrics import tree_record
from ibtpo.score import ScoreOptions
from ibtpo.tree import ROOT, ReasoningTree, Step

O = ScoreOptions()  # noqa: E741
BASE = {f"{name}_adaptive": name for name in ("entropy", "ib", "independent")}


def with_correct(*correct: float | None) -> ReasoningTree:
    """A tree of independent answers of one token each, the i-th with the i-th raw correctness."""
    tree = ReasoningTree("t", [1])
    for i, c in enumerate(correct):
        tree.add(0, [Step((2 + i,), "", (-1.0,))], 0.5, "eos" if c is not None else "verifier_error", correct=c)
    return tree


def test_there_is_one_adaptive_rule_for_each_of_three_rules() -> None:
    assert set(ADAPTIVE) == set(BASE)
    assert set(ADAPTIVE) < set(BRANCHING)


@pytest.mark.parametrize(
    ("correct", "expected"),
    [
        ((1, 1, 1, 1), "all right"),
        ((0, 0, 0), "all wrong"),
        ((1, 0, 0, 0), None),
        ((0.5, 0.5), "all wrong"),  # raw correctness below 1 is not right
        ((0.5, 0.7), None),
        ((1, None, 1), "all right"),  # what could not be verified does not count
        ((None, None), "all wrong"),
    ],
)
def test_answers_agree_by_their_raw_correctness(correct: tuple[float | None, ...], expected: str | None) -> None:
    assert agreement(with_correct(*correct)) == expected


@pytest.mark.parametrize("name", ADAPTIVE)
def test_places_are_none_the_root_or_those_of_the_rule(name: str) -> None:
    rule, base = BRANCHING[name], BRANCHING[BASE[name]]
    assert rule(all_equal(1.0), 2, O, 0) == []
    assert rule(all_equal(0.0), 2, O, 0) == [BranchPoint(ROOT)]
    assert rule(with_correct(*[0] * 7), 1, O, 0) == [BranchPoint(ROOT)]
    assert rule(with_correct(*[0] * 8), 1, O, 0) == []
    for tree in (three_leaf(), merged(), with_correct(0, 0, 0, 0, 0, 0, 0, 1)):
        assert rule(tree, 2, O, 7) == base(tree, 2, O, 7)


def test_any_rule_can_be_made_adaptive() -> None:
    def last(tree: ReasoningTree, k: int, options: ScoreOptions, seed: int) -> list[BranchPoint]:
        return [BranchPoint(len(tree.nodes) - 1)]

    assert by_need(last)(three_leaf(), 1, O, 0) == [BranchPoint(4)]
    assert by_need(last)(all_equal(1.0), 1, O, 0) == []


# --- in a search

# Each answer is a step of two tokens and the end. What is right is judged by the first token of an answer: 5 or 6.
TABLE = {5: 0.5, 6: 0.5}


def script(ids: tuple[int, ...]) -> dict[int, float]:
    return (TABLE, {2: 1.0}, {EOS: 1.0})[len(ids) - 2]


def judged(right: set[int]) -> FunctionVerifier:
    return FunctionVerifier(lambda row: float(row["completion_ids"][0] in right))


@pytest.mark.parametrize("name", ADAPTIVE)
def test_all_right_ends_after_b0_all_wrong_after_eight_fresh_answers(name: str) -> None:
    o = options(branching=name)
    (right,) = grow(o, prompts(1), ScriptedEngine(script, [EOS]), judged({5, 6}))
    (wrong,) = grow(o, prompts(1), ScriptedEngine(script, [EOS]), judged(set()))
    for tree, n, why in ((right, 4, "all right"), (wrong, 8, "all wrong")):
        check_laws(tree)
        assert (len(tree.leaves), tree.meta["stopped"]) == (n, why)
        assert [r.at for r in tree.rollouts] == [ROOT] * n
        assert [r.round for r in tree.rollouts] == [0, 0, 0, 0, *range(1, n - 3)]
        assert tree.generated_tokens == tree_record(tree)["generated_tokens"] == 3 * n
        assert tree_record(tree)["trajectories"] == n


@pytest.mark.parametrize("name", ADAPTIVE)
def test_a_mixed_tree_is_the_base_rules_once_its_answers_differ(name: str) -> None:
    adaptive = grow(options(branching=name), prompts(60))
    whole = grow(options(branching=BASE[name]), prompts(60))
    mixed_at_once = 0
    for tree, base in zip(adaptive, whole, strict=True):
        first = [leaf.correct for leaf in base.leaves[:4]]
        if len(set(first)) == 2:
            mixed_at_once += 1
            assert len(tree.leaves) == 12
            assert "stopped" not in tree.meta
            mine, theirs = tree.to_dict(), base.to_dict()
            assert mine.pop("meta")["search"]["branching"] == name
            assert theirs.pop("meta")["search"]["branching"] == BASE[name]
            assert mine == theirs
        elif first == [1.0] * 4:
            assert (len(tree.leaves), tree.meta["stopped"]) == (4, "all right")
        else:
            until = next((i for i, leaf in enumerate(tree.leaves) if leaf.correct), None)
            fresh = tree.rollouts[4 : 8 if until is None else until + 1]
            assert {r.at for r in fresh} <= {ROOT}
            assert len(tree.leaves) == (8 if until is None else 12)
    assert 30 < mixed_at_once < 60


def test_fresh_answers_are_those_that_independent_sampling_would_have_drawn() -> None:
    trees = grow(options(branching="ib_adaptive"), prompts(5), verifier=judged(set()))
    groups = grow(options("8,1,1,1", branching="independent"), prompts(5), verifier=judged(set()))
    for tree, group in zip(trees, groups, strict=True):
        answers = [[t.completion_ids(i) for i in range(8)] for t in (tree, group)]
        assert answers[0] == answers[1]


@pytest.mark.parametrize("name", ADAPTIVE)
def test_the_same_seed_gives_the_same_trees_however_the_requests_run(name: str) -> None:
    rng = random.Random(0)

    def jitter(seed: int) -> float:
        return rng.random() * 2e-3  # another order of arrival in every run

    for lookahead in (0, 2):
        base = dicts(grow(options(branching=name, seed=7, lookahead=lookahead), prompts(15)))
        assert len({len(tree["leaves"]) for tree in base}) > 1
        for in_flight, deterministic in itertools.product((1, 3, 64), (False, True)):
            o = options(
                branching=name, seed=7, lookahead=lookahead, max_in_flight=in_flight, deterministic=deterministic
            )
            engine = ScriptedEngine(next_token, [EOS], delay=jitter)
            assert dicts(grow(o, prompts(15), engine)) == base


@pytest.mark.parametrize("lookahead", [1, 3])
def test_with_lookahead_a_tree_may_have_as_many_more_answers_as_were_under_way(lookahead: int) -> None:
    o = options(branching="ib_adaptive", lookahead=lookahead)
    (tree,) = grow(o, prompts(1), ScriptedEngine(script, [EOS]), judged(set()))
    assert (len(tree.leaves), tree.meta["stopped"]) == (8 + lookahead, "all wrong")
    # After the first four answers the rule still sees nothing but right ones: none is under way.
    (tree,) = grow(o, prompts(1), ScriptedEngine(script, [EOS]), judged({5, 6}))
    assert (len(tree.leaves), tree.meta["stopped"]) == (4, "all right")


def test_no_request_is_made_for_a_tree_that_has_ended() -> None:
    engine = Recorder(script, [EOS])
    grow(options(branching="ib_adaptive"), prompts(3), engine, judged({5, 6}))
    assert len(engine.log) == 12


def test_a_token_budget_holds_beside_the_rule() -> None:
    (tree,) = grow(
        options("4,2,1,1", 18, branching="ib_adaptive"), prompts(1), ScriptedEngine(script, [EOS]), judged(set())
    )
    assert (len(tree.leaves), "stopped" in tree.meta) == (6, False)  # 18 tokens are 6 answers of 3
