"""Rounds started before the running one has returned: what they see, what they may not change, and the token law."""

import asyncio
import random
from collections import Counter

import pytest

from helpers.laws import check_laws
from helpers.searches import EOS, Recorder, decode, dicts, grow, next_token, options, parity, prompts
from helpers.trees import FunctionVerifier
from ibtpo.branching import ADAPTIVE, BRANCHING, BranchPoint, ib
from ibtpo.engines.scripted import ScriptedEngine
from ibtpo.errors import ConfigError, EngineError
from ibtpo.score import ScoreOptions
from ibtpo.search import Prompt, TreeSearch
from ibtpo.tree import ReasoningTree

SEEN: list[tuple[int, int]] = []  # (trajectories in the tree, places asked for) of each choice


def watched(tree: ReasoningTree, k: int, score: ScoreOptions, seed: int) -> list[BranchPoint]:
    """IBTree's rule, with notes."""
    SEEN.append((len(tree.leaves), k))
    return ib(tree, k, score, seed)


def inside_then_behind(tree: ReasoningTree, k: int, score: ScoreOptions, seed: int) -> list[BranchPoint]:
    """In turn the end of the longest step, then a place inside it: it is cut while a rollout from its end runs."""
    node = max(tree.nodes[1:], key=lambda n: (len(n.step.token_ids), -n.id))
    SEEN.append((len(tree.leaves), k))
    inside = len(SEEN) % 2 == 0 and len(node.step.token_ids) > 1
    return [BranchPoint(node.id, 1 if inside else None)]


@pytest.mark.parametrize("lookahead", [0, 1, 3, 20])
def test_a_round_sees_all_but_the_rounds_it_may_overtake(lookahead: int) -> None:
    SEEN.clear()
    (tree,) = grow(options("4,7,2,1", branching=f"{__name__}:watched", lookahead=lookahead), prompts(1))
    assert len(tree.leaves) == 16
    rounds = range(1, 7)
    known = [4 + 2 * max(0, r - 1 - lookahead) for r in rounds]
    assert [leaves for leaves, _ in SEEN] == known
    assert [r.round for r in tree.rollouts] == [0] * 4 + [r for r in rounds for _ in range(2)]


@pytest.mark.parametrize("lookahead", [0, 1, 3])
def test_so_many_requests_of_one_prompt_are_in_flight(lookahead: int) -> None:
    engine = ScriptedEngine(next_token, [EOS], delay=lambda seed: 1e-3)
    grow(options("1,9,1,1", lookahead=lookahead), prompts(1), engine)
    assert engine.max_seen == 1 + lookahead


def test_running_rounds_start_at_different_places_while_there_are_any() -> None:
    trees = grow(options("4,4,1,1", lookahead=2, max_completion_length=30), prompts(40))
    for tree in trees:
        first = ReasoningTree(tree.id, tree.prompt_ids)
        assert len({r.at for r in tree.rollouts if r.round in (1, 2, 3)}) == min(3, _places_after_round_0(tree, first))


def _places_after_round_0(tree: ReasoningTree, copy: ReasoningTree) -> int:
    for leaf, rollout in zip(tree.leaves, tree.rollouts, strict=True):
        if rollout.round == 0:
            copy.add(0, [tree.nodes[n].step for n in tree.path(leaf.node)], leaf.reward, leaf.stop)
    return len(copy.branchable())


@pytest.mark.parametrize("lookahead", [1, 3])
@pytest.mark.parametrize("branching", [*BRANCHING, f"{__name__}:inside_then_behind"])
def test_every_leaf_reads_what_the_engine_was_given_plus_what_it_sampled(branching: str, lookahead: int) -> None:
    engine = Recorder(next_token, [EOS], delay=lambda seed: seed % 5 * 1e-4)
    trees = grow(options("3,8,1,1", branching=branching, lookahead=lookahead), prompts(60), engine)
    asked = Counter((*prompt, *completion.token_ids) for prompt, _, completion in engine.log)
    read: Counter[tuple[int, ...]] = Counter()
    for tree in trees:
        check_laws(tree)
        assert len(tree.leaves) == 10 or branching in ADAPTIVE
        read.update((*tree.prompt_ids, *tree.completion_ids(i)) for i in range(len(tree.leaves)))
    assert read == asked


@pytest.mark.parametrize("branching", BRANCHING)
def test_the_same_seed_gives_the_same_trees_whatever_the_timing(branching: str) -> None:
    base = dicts(grow(options("4,5,2,1", branching=branching, seed=7, lookahead=2), prompts(10)))
    rng = random.Random(0)
    for in_flight in (1, 5, 64):
        engine = ScriptedEngine(next_token, [EOS], delay=lambda seed: rng.random() * 2e-3)
        o = options("4,5,2,1", branching=branching, seed=7, lookahead=2, max_in_flight=in_flight)
        assert dicts(grow(o, prompts(10), engine)) == base
    assert base[0]["meta"]["search"]["lookahead"] == 2


@pytest.mark.parametrize("lookahead", [0, 1, 4])
def test_a_token_budget_counts_what_running_rollouts_are_expected_to_take(lookahead: int) -> None:
    fixed = [1, 2, 1, 2, 1, EOS]  # every answer is three steps of two tokens

    def script(ids: tuple[int, ...]) -> dict[int, float]:
        return {fixed[len(ids) - 1]: 1.0}

    tree = grow(
        options("2,1,1,1", 30, branching="independent", lookahead=lookahead),
        [Prompt("p", (5,), "q")],
        ScriptedEngine(script, [EOS]),
    )[0]
    assert tree.generated_tokens == 30


def test_a_failure_in_a_round_cancels_those_that_overtook_it() -> None:
    class Failing(ScriptedEngine):
        calls = active = 0

        async def generate(self, prompt_ids, sampling, seed, max_new_tokens):  # type: ignore[no-untyped-def]
            self.calls += 1
            self.active += 1
            try:
                if self.calls == 3:  # the first branch; those after it are still at work
                    await asyncio.sleep(0.01)
                    raise EngineError("gone")
                await asyncio.sleep(0 if self.calls < 3 else 10)
                return await super().generate(prompt_ids, sampling, seed, max_new_tokens)
            finally:
                self.active -= 1

    engine = Failing(next_token, [EOS])
    search = TreeSearch(engine, FunctionVerifier(parity), decode, options("2,9,1,1", lookahead=3, retries=0))
    with pytest.raises(EngineError, match="gone"):
        asyncio.run(asyncio.wait_for(search.grow(prompts(1)[0]), 5))
    assert (engine.calls, engine.active) == (2 + 4, 0)


def test_a_negative_lookahead_is_refused() -> None:
    with pytest.raises(ConfigError, match="lookahead must be >= 0 rounds, got -1"):
        options(lookahead=-1)
