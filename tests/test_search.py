"""Growing trees: token law, budgets, determinism, no barrier, failures. Everything runs on scripted engines."""

import asyncio
import gc
import itertools
import math
import random
import weakref
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from helpers.laws import check_laws
from helpers.searches import EOS, VOCABULARY, Recorder, decode, dicts, grow, next_token, options, parity, prompts
from helpers.trees import FunctionVerifier
from ibtpo.branching import ADAPTIVE, BRANCHING
from ibtpo.credit import ADVANTAGES, CreditOptions, path_advantages
from ibtpo.engines import Completion, Sampling
from ibtpo.engines.scripted import ScriptedEngine
from ibtpo.errors import ConfigError, EngineError
from ibtpo.metrics import summarise, tree_record
from ibtpo.score import ScoreOptions, score_tree
from ibtpo.search import Budget, Prompt, SearchOptions, TreeSearch
from ibtpo.steps import make_splitter
from ibtpo.tree import ROOT, ReasoningTree
from ibtpo.verify import Verdict
from ibtpo.verify.rewards import RewardFunctions

WHOLE = [name for name in BRANCHING if name not in ADAPTIVE]  # the rules that never end a tree early

# --- law 1


@pytest.mark.parametrize("branching", BRANCHING)
def test_every_leaf_reads_what_the_engine_was_given_plus_what_it_sampled(branching: str) -> None:
    for splitter, budget, n in (
        ("blank_line", "4,9,1,1", 150),
        ("tokens:3", "2,4,2,2", 60),
        ("sentence", "3,3,4,1", 60),
    ):
        engine = Recorder(next_token, [EOS])
        verifier = FunctionVerifier(parity)
        o = options(budget, branching=branching, splitter=splitter)
        trees = grow(o, prompts(n), engine, verifier)
        leaves: Counter[tuple[int, ...]] = Counter()
        for tree, prompt in zip(trees, prompts(n), strict=True):
            check_laws(tree)
            assert tree.prompt_ids == prompt.ids
            for i, leaf in enumerate(tree.leaves):
                ids = tree.completion_ids(i)
                whole = (*tree.prompt_ids, *ids)
                leaves[whole] += 1
                assert len(ids) <= 12
                assert leaf.reward == parity({"completion_ids": ids})
                assert leaf.stop == ("eos" if ids[-1] == EOS else "length")
                assert tree.completion_text(i) == decode(ids)
        assert leaves == Counter((*given, *c.token_ids) for given, _, c in engine.log)
        assert sum(t.generated_tokens for t in trees) == sum(len(c.token_ids) for _, _, c in engine.log)
        # The verifier was asked once a leaf, about the very tokens and text of it.
        rows = Counter((row["prompt"], tuple(row["completion_ids"]), row["completion"]) for row in verifier.rows)
        assert rows == Counter(
            (t.prompt, tuple(t.completion_ids(i)), decode(t.completion_ids(i)))
            for t in trees
            for i in range(len(t.leaves))
        )


@pytest.mark.parametrize("branching", BRANCHING)
def test_every_token_keeps_the_log_prob_and_entropy_it_was_sampled_with(branching: str) -> None:
    for tree in grow(options(branching=branching), prompts(40)):
        for i in range(len(tree.leaves)):
            ids, logs = tree.completion_ids(i), tree.completion_logprobs(i)
            entropies = [h for n in tree.path(tree.leaves[i].node) for h in tree.nodes[n].step.entropies or ()]
            before = list(tree.prompt_ids)
            for token, log, h in zip(ids, logs, entropies, strict=True):
                table = next_token(tuple(before))
                assert log == pytest.approx(math.log(table[token]), abs=1e-12)
                assert h == pytest.approx(-sum(p * math.log(p) for p in table.values()), abs=1e-12)
                before.append(token)


@pytest.mark.parametrize("branching", ["independent", "random", "fixed_width", "ib"])
def test_steps_of_a_grown_tree_are_those_of_the_whole_answer(branching: str) -> None:
    for splitter in ("blank_line", "tokens:3", "regex: b"):
        for tree in grow(options(branching=branching, splitter=splitter), prompts(40)):
            for i, leaf in enumerate(tree.leaves):
                ids = tree.completion_ids(i)
                pieces = [VOCABULARY[t] for t in ids]
                pieces[0] = pieces[0].removeprefix(" ")
                sizes = [len(tree.nodes[n].step.token_ids) for n in tree.path(leaf.node)]
                assert list(itertools.accumulate(sizes)) == make_splitter(splitter)(pieces)


def test_entropy_branches_inside_a_step_and_cuts_it_there() -> None:
    trees = grow(options(branching="entropy"), prompts(60))
    inside = [n for t in trees for n in t.nodes[1:] if len(n.children) > 1 and "\n\n" not in n.step.text]
    assert len(inside) > 60
    for tree in trees:
        for n in tree.nodes[1:]:
            text = decode(tree.prefix_ids(n.id)[2:])
            assert text.endswith(n.step.text)  # each part keeps its own text


def test_a_merged_answer_is_counted_not_stored_twice() -> None:
    certain = {(5,): {1: 1.0}, (5, 1): {2: 1.0}, (5, 1, 2): {EOS: 1.0}}
    (tree,) = grow(options("3,3,1,1"), [Prompt("x", (5,), "q")], ScriptedEngine(certain.__getitem__, [EOS]))
    check_laws(tree)
    assert [n.step.token_ids for n in tree.nodes[1:]] == [(1, 2), (EOS,)]
    assert [leaf.node for leaf in tree.leaves] == [2] * 5
    assert tree.nodes[1].draws + sum(r.at == 1 for r in tree.rollouts) == tree.nodes[2].draws == 5
    assert tree.generated_tokens == sum(3 if r.at == ROOT else 1 for r in tree.rollouts)


# --- budgets


@pytest.mark.parametrize("branching", WHOLE)
@pytest.mark.parametrize("budget", ["4,9,1,1", "1,1,1,1", "1,5,2,3", "2,3,50,1", "3,2,1,4", "4,2,1,1"])
def test_a_tree_has_exactly_g_trajectories(branching: str, budget: str) -> None:
    b0, rounds, k, b = map(int, budget.split(","))
    g = b0 + (rounds - 1) * k * b
    assert Budget.parse(budget).trajectories == g
    for tree in grow(options(budget, branching=branching, max_completion_length=6), prompts(2)):
        assert len(tree.leaves) == len(tree.rollouts) == g
        by_round = Counter(r.round for r in tree.rollouts)
        assert by_round == Counter({0: b0, **dict.fromkeys(range(1, rounds), k * b)})
        assert all(r.at == ROOT for r in tree.rollouts if r.round == 0)
        check_laws(tree)


@pytest.mark.parametrize("branching", WHOLE)
def test_a_token_budget_stops_before_the_branch_that_would_exceed_it(branching: str) -> None:
    def script(ids: tuple[int, ...]) -> Mapping[int, float]:
        # Every answer is four steps of two tokens and the end: 9 tokens, whatever is sampled.
        place = len(ids) - 1
        if place == 8:
            return {EOS: 1.0}
        return {2: 0.5, 3: 0.5} if place % 2 else {1: 0.4, 5: 0.3, 6: 0.3}

    for budget in (36, 37, 80, 100):
        (tree,) = grow(
            options("4,2,1,1", budget, branching=branching), [Prompt("x", (1,), "q")], ScriptedEngine(script, [EOS])
        )
        assert all(len(tree.completion_ids(i)) == 9 for i in range(len(tree.leaves)))
        assert tree.generated_tokens <= budget  # what a branch costs is certain here
        assert tree.generated_tokens > budget - 9  # the next one might have cost up to 9 tokens
        assert len(tree.leaves) >= budget // 9


def test_a_token_budget_replaces_the_number_of_rounds_and_cannot_stop_the_first_answers() -> None:
    (tree,) = grow(options("4,2,1,1", 400), prompts(1))
    assert max(r.round for r in tree.rollouts) > 1
    (tree,) = grow(options("4,2,1,1", 1), prompts(1))
    assert len(tree.leaves) == 4


class Silent:
    """An engine whose answers are empty."""

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, seed: int, max_new_tokens: int
    ) -> Completion:
        await asyncio.sleep(0)
        return Completion([], [], [], "eos")


@pytest.mark.parametrize("branching", BRANCHING)
def test_empty_answers_end_at_the_root_and_every_search_comes_to_an_end(branching: str) -> None:
    for tokens in (None, 20):
        (tree,) = grow(options("2,4,1,1", tokens, branching=branching), prompts(1), Silent())
        assert len(tree.nodes) == 1
        assert {leaf.node for leaf in tree.leaves} == {ROOT}
        if branching in ADAPTIVE:
            assert (len(tree.leaves), tree.meta["stopped"]) == (2, "all right")  # no token 1: an even number of them
        elif tokens is None:
            assert len(tree.leaves) == 5
        record = tree_record(tree)
        assert record["generated_tokens"] == 0
        assert math.isnan(record["ib_score"])
        for rule in ADVANTAGES:
            assert [a.shape for a in path_advantages(tree, CreditOptions(advantage=rule))] == [(0,)] * len(tree.leaves)


@pytest.mark.parametrize("cap", [1, 3, 8])
def test_no_more_requests_than_the_cap_are_ever_in_flight(cap: int) -> None:
    engine = ScriptedEngine(next_token, [EOS], delay=lambda seed: seed % 5 * 1e-4)
    grow(options("4,4,2,2", max_in_flight=cap), prompts(12), engine)
    assert engine.max_seen == cap


def test_all_first_answers_and_all_branches_of_a_round_are_in_flight_together() -> None:
    engine = ScriptedEngine(next_token, [EOS], delay=lambda seed: 1e-3)
    grow(options("6,1,1,1"), prompts(1), engine)
    assert engine.max_seen == 6
    engine = ScriptedEngine(next_token, [EOS], delay=lambda seed: 1e-3)
    grow(options("1,2,2,4"), prompts(1), engine)
    assert engine.max_seen == 8


def test_independent_answers_are_asked_for_all_at_once() -> None:
    engine = ScriptedEngine(next_token, [EOS], delay=lambda seed: 1e-3)
    in_rounds = grow(options("4,9,1,1", branching="independent"), prompts(1), engine)[0]
    assert engine.max_seen == 12
    together = grow(options("12,1,1,1", branching="independent"), prompts(1))[0]
    assert [in_rounds.completion_ids(i) for i in range(12)] == [together.completion_ids(i) for i in range(12)]
    assert [rollout.round for rollout in in_rounds.rollouts] == [0] * 4 + list(range(1, 9))
    engine = ScriptedEngine(next_token, [EOS], delay=lambda seed: 1e-3)
    grow(options("4,9,1,1", branching="independent", max_in_flight=3), prompts(5), engine)
    assert engine.max_seen == 3


# --- law 5


@pytest.mark.parametrize("branching", BRANCHING)
def test_the_same_seed_gives_the_same_trees_however_the_requests_run(branching: str) -> None:
    n = 15
    base = dicts(grow(options("4,4,2,1", branching=branching, seed=7), prompts(n)))
    rng = random.Random(0)

    def jitter(seed: int) -> float:
        return rng.random() * 2e-3  # another order of arrival in every run

    for in_flight, deterministic in itertools.product((1, 3, 64), (False, True)):
        o = options("4,4,2,1", branching=branching, seed=7, max_in_flight=in_flight, deterministic=deterministic)
        delay = None if in_flight == 1 else jitter
        assert dicts(grow(o, prompts(n), ScriptedEngine(next_token, [EOS], delay=delay))) == base
    o = options("4,4,2,1", branching=branching, seed=7)
    order = rng.sample(range(n), n)
    shuffled = dicts(grow(o, [prompts(n)[i] for i in order]))
    assert shuffled == [base[i] for i in order]
    workers = [dicts(grow(o, prompts(n)[w::3])) for w in range(3)]
    assert [workers[i % 3][i // 3] for i in range(n)] == base
    assert dicts(grow(options("4,4,2,1", branching=branching, seed=8), prompts(n))) != base


def test_no_seed_is_used_twice_and_places_with_equal_tokens_draw_anew() -> None:
    engine = Recorder(next_token, [EOS])
    grow(options("4,9,1,2", branching="independent"), prompts(30), engine)
    seeds = [seed for _, seed, _ in engine.log]
    assert len(set(seeds)) == len(seeds) == 30 * 20
    engine = Recorder(next_token, [EOS])
    grow(options("4,5,3,2"), prompts(30), engine)
    assert len({seed for _, seed, _ in engine.log}) == len(engine.log)


def test_two_prompts_with_equal_text_get_different_trees_and_equal_ids_are_refused() -> None:
    a, b = grow(options(), [Prompt("a", (1, 2), "q"), Prompt("b", (1, 2), "q")])
    assert a.to_dict()["nodes"] != b.to_dict()["nodes"]
    with pytest.raises(ConfigError, match="'a' occurs twice"):
        grow(options(), [Prompt("a", (1,), "q"), Prompt("a", (2,), "r")])


def test_how_requests_are_run_is_not_written_into_the_tree() -> None:
    (tree,) = grow(options(seed=3), prompts(1))
    search = tree.meta["search"]
    assert search["seed"] == 3
    assert search["budget"] == {"b0": 4, "rounds": 9, "k": 1, "b": 1, "tokens": None}
    assert search["score"]["ib_beta"] == 5.0
    assert not {"max_in_flight", "retries", "deterministic"} & set(search)


# --- no barrier


def test_a_slow_prompt_does_not_hold_up_another() -> None:
    async def scenario() -> None:
        others_done = asyncio.Event()

        class Gate(ScriptedEngine):
            async def generate(self, prompt_ids: Sequence[int], *args: Any) -> Completion:
                if prompt_ids[0] == 6:
                    await others_done.wait()  # the slow prompt's answers come when all other trees are grown
                return await super().generate(prompt_ids, *args)

        grown: dict[str, ReasoningTree] = {}

        def on_tree(tree: ReasoningTree) -> None:
            grown[tree.id] = tree
            if len(grown) == 5:
                others_done.set()

        questions = [Prompt(f"p{i}", (6 - i,), "q") for i in range(6)]  # p0 is the slow one
        search = TreeSearch(Gate(next_token, [EOS]), FunctionVerifier(parity), decode, options("2,6,1,1"))
        await asyncio.wait_for(search.grow_each(questions, on_tree), 20)
        assert list(grown)[-1] == "p0"
        assert dicts([grown[q.id] for q in questions]) == dicts(
            await TreeSearch(
                ScriptedEngine(next_token, [EOS]), FunctionVerifier(parity), decode, options("2,6,1,1")
            ).grow_all(questions)
        )

    asyncio.run(scenario())


def test_a_slow_verdict_does_not_hold_up_the_next_request_of_another_prompt() -> None:
    async def scenario() -> None:
        release = asyncio.Event()
        done: list[str] = []

        class Slow(FunctionVerifier):
            async def ascore(self, rows: Sequence[dict[str, Any]]) -> list:
                if rows[0]["prompt"] == "slow":
                    await release.wait()
                return self.score(rows)

        def on_tree(tree: ReasoningTree) -> None:
            done.append(tree.id)
            release.set()

        o = options("2,3,1,1", max_in_flight=2)
        search = TreeSearch(ScriptedEngine(next_token, [EOS]), Slow(parity), decode, o)
        await asyncio.wait_for(search.grow_each([Prompt("s", (1,), "slow"), Prompt("f", (2,), "fast")], on_tree), 20)
        assert done == ["f", "s"]

    asyncio.run(scenario())


def test_each_rollout_is_announced_with_its_reward_before_the_next_round_starts() -> None:
    seen: list[tuple[int, int]] = []

    def on_rollout(tree: ReasoningTree, leaf: int) -> None:
        assert leaf == len(tree.leaves) - 1
        assert tree.leaves[leaf].reward is not None
        seen.append((leaf, tree.rollouts[leaf].round))

    grow(options("3,3,1,2"), prompts(1), on_rollout=on_rollout)
    assert seen == [(0, 0), (1, 0), (2, 0), (3, 1), (4, 1), (5, 2), (6, 2)]


def test_the_score_a_branch_was_chosen_by_is_kept() -> None:
    (tree,) = grow(options("2,2,1,1"), prompts(1))
    first = ReasoningTree(tree.id, tree.prompt_ids)
    assert [r.score is None for r in tree.rollouts] == [True, True, False]
    for i in range(2):
        path = tree.path(tree.leaves[i].node)
        first.add(0, [tree.nodes[n].step for n in path], tree.leaves[i].reward, "eos")
    best = np.nanmax(score_tree(first, ScoreOptions()).ib_score)
    assert tree.rollouts[2].score == pytest.approx(best, rel=1e-9)


@pytest.mark.thorough
def test_growing_each_tree_keeps_neither_trees_nor_verdicts() -> None:
    class Noted(Verdict):
        """A verdict that can be referred to weakly."""

    class Verifier(FunctionVerifier):
        def score(self, rows: Sequence[dict[str, Any]]) -> list[Verdict]:
            found: list[Verdict] = [Noted(v.reward, v.per_function) for v in super().score(rows)]
            verdicts.extend(map(weakref.ref, found))
            return found

    trees: list[weakref.ref[ReasoningTree]] = []
    verdicts: list[weakref.ref[Verdict]] = []
    most = 0  # trees alive at once

    def on_tree(tree: ReasoningTree) -> None:
        nonlocal most
        trees.append(weakref.ref(tree))
        gc.collect()
        most = max(most, sum(ref() is not None for ref in trees))

    o = options("2,3,1,1", max_in_flight=1, deterministic=True)  # one tree after the other
    search = TreeSearch(ScriptedEngine(next_token, [EOS]), Verifier(parity), decode, o)
    asyncio.run(search.grow_each(prompts(10), on_tree))
    gc.collect()
    assert most == 1
    assert [ref() for ref in trees] == [None] * 10
    assert [ref() for ref in verdicts] == [None] * 40
    assert search.verdicts == {}


def test_growing_each_tree_grows_the_trees_of_growing_all() -> None:
    grown: dict[str, ReasoningTree] = {}
    o = options(max_in_flight=3)
    search = TreeSearch(ScriptedEngine(next_token, [EOS]), FunctionVerifier(parity), decode, o)
    asyncio.run(search.grow_each(prompts(6), lambda tree: grown.update({tree.id: tree})))
    assert dicts([grown[p.id] for p in prompts(6)]) == dicts(grow(o, prompts(6)))


def test_an_exception_of_the_callback_ends_the_search() -> None:
    def full(tree: ReasoningTree) -> None:
        raise OSError("the disk is full")

    search = TreeSearch(ScriptedEngine(next_token, [EOS]), FunctionVerifier(parity), decode, options())
    with pytest.raises(OSError, match="the disk is full"):
        asyncio.run(search.grow_each(prompts(3), full))


# --- failures


def test_a_request_that_fails_once_is_retried_and_the_tree_is_the_same() -> None:
    failed: set[int] = set()

    def first_time(seed: int) -> bool:
        if seed % 17 == 0 and seed not in failed:
            failed.add(seed)
            return True
        return False

    engine = ScriptedEngine(next_token, [EOS], fail=first_time)
    trees = grow(options(), prompts(6), engine)
    assert failed
    assert engine.requests == 6 * 12 + len(failed)
    assert dicts(trees) == dicts(grow(options(), prompts(6)))


@pytest.mark.parametrize(("retries", "attempts"), [(0, 1), (1, 2)])
def test_a_request_that_always_fails_ends_the_search_naming_the_prompt(retries: int, attempts: int) -> None:
    async def scenario() -> None:
        class Broken(ScriptedEngine):
            tries = 0

            async def generate(self, prompt_ids: Sequence[int], *args: Any) -> Completion:
                if prompt_ids[0] == 6 and len(prompt_ids) > 2:  # the second round of one prompt
                    await asyncio.sleep(0.05)
                    self.tries += 1
                    raise EngineError("the server is gone")
                return await super().generate(prompt_ids, *args)

        engine = Broken(next_token, [EOS])
        done: list[ReasoningTree] = []
        o = options("2,4,1,1", retries=retries, branching="fixed_width")
        search = TreeSearch(engine, FunctionVerifier(parity), decode, o)
        questions = [Prompt(f"p{i}", (i + 1, 1), "q") for i in range(6)]
        with pytest.raises(EngineError, match=f"prompt 'p5': a rollout failed {attempts} times: the server is gone"):
            await search.grow_each(questions, done.append)
        assert engine.tries == attempts
        assert sorted(t.id for t in done) == ["p0", "p1", "p2", "p3", "p4"]
        assert all(len(t.leaves) == 5 for t in done)

    asyncio.run(scenario())


def test_nothing_lives_on_after_a_failed_search() -> None:
    async def scenario() -> None:
        cancelled = []

        class Broken(ScriptedEngine):
            async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, seed: int, room: int) -> Completion:
                if prompt_ids[0] == 6:
                    await asyncio.sleep(0.01)
                    raise EngineError("gone")
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    cancelled.append(seed)
                    raise
                return self._sample(prompt_ids, seed, room)

        class Mixed(Broken):
            count = 0

            async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, seed: int, room: int) -> Completion:
                self.count += 1
                ids = (6,) if self.count == 1 else (1,)  # one of a tree's own requests fails, the others hang
                return await super().generate(ids, sampling, seed, room)

        for engine, n in ((Broken(next_token, [EOS]), 6), (Mixed(next_token, [EOS]), 1)):
            cancelled.clear()
            search = TreeSearch(engine, FunctionVerifier(parity), decode, options("3,2,1,1", retries=0))
            with pytest.raises(EngineError, match="gone"):
                await search.grow_all([Prompt(f"p{i}", (i + 1,), "q") for i in range(n)])
            assert len(cancelled) == (15 if n == 6 else 2)
            assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(scenario())


def sometimes(row: dict[str, Any]) -> float:
    if sum(row["completion_ids"]) % 3 == 0:
        raise ValueError("the verifier broke")
    return parity(row)


def always(row: dict[str, Any]) -> float:
    raise ValueError("the verifier broke")


def test_a_verifier_error_is_recorded_and_is_no_zero() -> None:
    trees = grow(options(), prompts(30), verifier=FunctionVerifier(sometimes))
    failed = 0
    for tree in trees:
        bad = [sum(tree.completion_ids(i)) % 3 == 0 for i in range(12)]
        failed += sum(bad)
        for leaf, broken in zip(tree.leaves, bad, strict=True):
            assert (leaf.reward is None) == (leaf.stop == "verifier_error") == broken
        assert tree.meta.get("verifier_errors", []) == ["the verifier broke"] * sum(bad)
        assert tree_record(tree)["verifier_errors"] == sum(bad)
        known = [f.reward for f in tree.leaves if f.reward is not None]
        if known:
            assert score_tree(tree).p_hat[ROOT] == pytest.approx(sum(known) / len(known), rel=1e-12)
    assert failed > 20


@pytest.mark.parametrize("branching", BRANCHING)
def test_a_tree_of_nothing_but_verifier_errors_breaks_no_rule_score_credit_or_diagnostic(branching: str) -> None:
    trees = grow(options("3,4,2,1", branching=branching), prompts(4), verifier=FunctionVerifier(always))
    for tree in trees:
        check_laws(tree)
        assert len(tree.leaves) == 9
        assert {(leaf.reward, leaf.stop) for leaf in tree.leaves} == {(None, "verifier_error")}
        assert np.isnan(score_tree(tree).ib_score).all()
        for rule in ADVANTAGES:
            for a in path_advantages(tree, CreditOptions(advantage=rule)):
                assert (a == 0).all()
        ReasoningTree.from_dict(tree.to_dict())
    summary = summarise([tree_record(t) for t in trees])
    assert summary["verifier_errors"] == 36
    assert summary["eff_rate"] == 0
    assert math.isnan(summary["avg_rate"])


def test_raw_correctness_and_all_verdicts_are_kept_beside_a_shaped_reward() -> None:
    def short(row: dict[str, Any]) -> float:
        return 0.01 * len(row["completion_ids"])

    engine = ScriptedEngine(next_token, [EOS])
    search = TreeSearch(engine, FunctionVerifier(parity, short), decode, options())
    (tree,) = asyncio.run(search.grow_all(prompts(1)))
    ids = [tree.completion_ids(i) for i in range(12)]
    assert tree.correct == [parity({"completion_ids": i}) for i in ids]
    assert "correct" not in tree.meta
    assert [v.per_function for v in search.verdicts["p0"]] == [
        (parity({"completion_ids": i}), 0.01 * len(i)) for i in ids
    ]
    assert [leaf.reward for leaf in tree.leaves] == [v.reward for v in search.verdicts["p0"]]


def test_a_weight_of_the_only_reward_function_changes_the_reward_and_not_correctness() -> None:
    def even(completion_ids: list[list[int]], **columns: Any) -> list[float]:
        return [parity({"completion_ids": ids}) for ids in completion_ids]

    search = TreeSearch(ScriptedEngine(next_token, [EOS]), RewardFunctions(even, weights=[0.5]), decode, options())
    (tree,) = asyncio.run(search.grow_all(prompts(1)))
    right = [parity({"completion_ids": tree.completion_ids(i)}) for i in range(12)]
    assert set(right) == {0.0, 1.0}
    assert tree.correct == right
    assert [leaf.reward for leaf in tree.leaves] == [0.5 * r for r in right]


def test_the_verifier_gets_the_problem_s_columns_and_the_tree_its_answer() -> None:
    verifier = FunctionVerifier(parity)
    (tree,) = grow(options("1,1,1,1"), [Prompt("x", (1,), "q", {"answer": 42, "level": "hard"})], verifier=verifier)
    assert tree.answer == "42"
    (row,) = verifier.rows
    assert (row["prompt"], row["answer"], row["level"]) == ("q", 42, "hard")
    assert row["completion_ids"] == tree.completion_ids(0)


def test_a_conversational_prompt_s_verifier_gets_one_assistant_message() -> None:
    verifier = FunctionVerifier(parity)
    (tree,) = grow(options("1,1,1,1"), [Prompt("x", (1,), "q", conversational=True)], verifier=verifier)
    assert verifier.rows[0]["completion"] == [{"role": "assistant", "content": tree.completion_text(0)}]


# --- options


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Budget.parse("4,9,1"), "B0,L,K,B"),
        (lambda: Budget.parse("4,9,1,1,1"), "B0,L,K,B"),
        (lambda: Budget.parse("4,9,1,x"), "B0,L,K,B"),
        (lambda: Budget.parse("0,9,1,1"), "b0 must be >= 1"),
        (lambda: Budget.parse([4, 9, 1, 0]), "b must be >= 1"),
        (lambda: Budget.parse("4,9,1,1", 0), "token budget"),
        (lambda: SearchOptions(branching="entropie"), "did you mean 'entropy'"),
        (lambda: SearchOptions(branching="no.module:rule"), "cannot load"),
        (lambda: SearchOptions(splitter="blankline"), "did you mean 'blank_line'"),
        (lambda: SearchOptions(max_in_flight=0), "max_in_flight"),
        (lambda: SearchOptions(max_completion_length=0), "max_completion_length"),
        (lambda: SearchOptions(retries=-1), "retries"),
    ],
)
def test_a_wrong_option_is_an_error_that_names_it(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_the_default_budget_is_the_papers() -> None:
    assert Budget() == Budget.parse("4,9,1,1")
    assert Budget().trajectories == 12
    o = SearchOptions()
    assert (o.sampling.temperature, o.sampling.top_p, o.sampling.top_k, o.max_completion_length) == (
        0.7,
        0.95,
        20,
        2048,
    )
    assert (o.score.ib_beta, o.branching, o.splitter) == (5.0, "ib", "blank_line")
