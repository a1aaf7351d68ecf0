"""Trees whose answers are conversations: turns, observations, and environments in the state where a branch starts."""

import asyncio
import random
from typing import Any

import pytest

from helpers.environments import Async, ByCopy, ByFork, Moody, Tally, encode, environments
from helpers.laws import check_laws
from helpers.searches import EOS, Recorder, decode, dicts, grow, next_token, options, prompts
from helpers.trees import FunctionVerifier
from ibtpo.engines.scripted import ScriptedEngine
from ibtpo.errors import ConfigError, EngineError
from ibtpo.search import Prompt
from ibtpo.tree import ROOT, ReasoningTree

LONG = {"max_completion_length": 60}


def own(row: dict[str, Any]) -> float:
    """The environment's own reward."""
    return float(row["environment_reward"])


def conversation(tree: ReasoningTree, leaf: int) -> list[tuple[list[int], list[int]]]:
    """The turns of an answer, each with the observation that follows it; [] where none does."""
    turns: list[tuple[list[int], list[int]]] = []
    given_before = True
    for token, sampled in zip(tree.completion_ids(leaf), tree.completion_mask(leaf), strict=True):
        if sampled and given_before:
            turns.append(([], []))
        turns[-1][0 if sampled else 1].append(token)
        given_before = not sampled
    return turns


@pytest.mark.parametrize("kind", [Tally, ByCopy, ByFork, Async])
@pytest.mark.parametrize("branching", ["ib", "entropy", "eptree", "random", "fixed_width", "independent"])
def test_every_observation_is_what_a_new_environment_says_to_the_same_turns(kind: Any, branching: str) -> None:
    engine, verifier = Recorder(next_token, [EOS]), FunctionVerifier(own)
    trees = grow(options(branching=branching, **LONG), prompts(4), engine, verifier, environments=environments(kind))
    inside = 0
    for number, tree in enumerate(trees):
        check_laws(tree)
        for i, leaf in enumerate(tree.leaves):
            fresh = Tally()
            fresh.reset(number)
            before = list(tree.prompt_ids)
            for turn, observation in conversation(tree, i):
                assert turn[-1] == EOS or leaf.stop == "length"
                said = fresh.respond({"content": decode(turn)}) if turn[-1] == EOS else None
                before += turn + observation
                if observation:
                    assert observation == encode(said or "")
                else:
                    assert said is None or len(before) - 2 + len(encode(said)) > 60
            assert leaf.reward == fresh.get_reward()
            assert tree.completion_text(i) == decode(tree.completion_ids(i))
        inside += sum(tree.nodes[r.at].step.given or len(tree.path(r.at)) > 1 for r in tree.rollouts)
    assert inside > 10 or branching == "independent"
    # Whatever the engine was asked to continue is a path of a tree, and all that it sampled is in one.
    assert sum(t.generated_tokens for t in trees) == sum(len(c.token_ids) for _, _, c in engine.log)
    paths = {tuple(t.prefix_ids(n)) for t in trees for n in range(len(t.nodes))}
    assert all(given in paths and (*given, *c.token_ids) in paths for given, _, c in engine.log)


@pytest.mark.parametrize(("kind", "way"), [(Tally, "replay"), (ByCopy, "copy"), (ByFork, "fork")])
def test_the_tree_says_how_its_branches_got_their_environments_and_all_ways_give_the_same_tree(
    kind: Any, way: str
) -> None:
    trees = grow(options(**LONG), prompts(10), verifier=FunctionVerifier(own), environments=environments(kind))
    plain = grow(options(**LONG), prompts(10), verifier=FunctionVerifier(own), environments=environments(Async))
    for tree, other in zip(trees, plain, strict=True):
        said = tree.meta.pop("environment")
        other.meta.pop("environment")
        assert said["name"] == kind.__name__
        assert said["restored_by"] == way
        assert said["failures"] == 0
        assert said["calls"] >= len(tree.leaves)
    assert dicts(trees) == dicts(plain)


def test_the_order_of_arrival_changes_no_tree() -> None:
    def slow(seed: int) -> float:
        return random.Random(seed).random() * 0.01

    class Slow(ByFork):
        async def respond(self, message: dict[str, Any]) -> str | None:  # type: ignore[override]
            await asyncio.sleep(random.random() * 0.01)
            return super().respond(message)

    whole = grow(options(lookahead=2, **LONG), prompts(8), environments=environments(ByFork))
    other = grow(
        options(lookahead=2, max_in_flight=3, **LONG),
        prompts(8),
        ScriptedEngine(next_token, [EOS], delay=slow),
        environments=environments(Slow, max_live=5),
    )
    again = grow(options(lookahead=2, deterministic=True, **LONG), prompts(8), environments=environments(Slow))
    for tree in (*whole, *other, *again):
        tree.meta.pop("environment")
    assert dicts(whole) == dicts(other) == dicts(again)


def test_an_environment_that_answers_differently_is_branched_at_the_root_alone_and_said_so_once() -> None:
    with pytest.warns(UserWarning, match="Moody cannot be replayed: turn 1 was answered") as warned:
        trees = grow(options("2,5,1,1", **LONG), prompts(12), environments=environments(Moody))
    assert len(warned) == 1
    assert sum("not_replayable" in tree.meta["environment"] for tree in trees) > 3
    for tree in trees:
        check_laws(tree)
        assert len(tree.leaves) == 6
        if "not_replayable" in tree.meta["environment"]:
            first = next(r.round for r in tree.rollouts if r.round and r.at == ROOT and r.score is None)
            assert all(r.at == ROOT for r in tree.rollouts if r.round >= first)


def test_restores_root_is_taken_at_its_word() -> None:
    class Secret(Tally):
        restores = "root"

    for tree in grow(options(**LONG), prompts(5), environments=environments(Secret)):
        assert {r.at for r in tree.rollouts} == {ROOT}
        assert tree.meta["environment"]["restored_by"] == "root"


def test_turns_have_a_limit_and_observations_must_fit() -> None:
    (tree,) = grow(options(**LONG), prompts(1), environments=environments(Tally, max_turns=1))
    assert max(sum(map(bool, (o for _, o in conversation(tree, i)))) for i in range(len(tree.leaves))) == 1

    class Talker(Tally):
        def respond(self, message: dict[str, Any]) -> str | None:
            return " b" * 5

    # A turn is one token and an observation five: 1 + 5 + 1 + 5 + 1. An observation that does not fit is dropped.
    engine = ScriptedEngine(lambda ids: {EOS: 1.0}, [EOS])
    for room, tokens, stop, last in ((10, 7, "eos", 1), (11, 7, "eos", 1), (12, 12, "length", 0), (13, 13, "eos", 1)):
        o = options("2,1,1,1", max_completion_length=room)
        (tree,) = grow(o, prompts(1), engine, environments=environments(Talker))
        assert len(tree.completion_ids(0)) == tokens
        assert tree.leaves[0].stop == stop
        assert tree.completion_mask(0)[-1] == last
    engine.max_length = 2 + 12  # as in TRL, the model must have room for a token after the observation
    (tree,) = grow(options("2,1,1,1", **LONG), prompts(1), engine, environments=environments(Talker))
    assert len(tree.completion_ids(0)) == 7


def test_a_splitter_cuts_turns_one_by_one_and_turn_leaves_them_whole() -> None:
    for splitter in ("turn", "blank_line"):
        steps = [
            (n.step, [tree.nodes[c].step.given for c in n.children])
            for tree in grow(options(splitter=splitter, **LONG), prompts(10), environments=environments(ByCopy))
            for n in tree.nodes[1:]
            if not n.step.given
        ]
        ends = [step.token_ids[-1] == EOS or (splitter == "blank_line" and "\n\n" in step.text) for step, _ in steps]
        assert sum(ends) > 0.8 * len(ends)  # the rest was cut off at the length limit
        assert all(step.token_ids[-1] == EOS for step, after in steps if any(after))
        if splitter == "turn":
            assert any("\n\n" in step.text[:-2] for step, _ in steps)


def test_reset_must_say_what_the_prompt_was_made_with() -> None:
    class Host(Tally):
        def reset(self, answer: int = 0, **row: Any) -> str:  # type: ignore[override]
            super().reset(answer)
            return " b"

    with pytest.raises(ConfigError, match=r"Host.reset said ' b' for a question whose prompt was made with None"):
        grow(options(), prompts(1), environments=environments(Host))
    their = environments(Host)
    opening = asyncio.run(their.open({"answer": 0}))
    assert opening.text == " b"
    (tree,) = grow(options(), [Prompt("p", (1, 5), "q b", {"answer": 0}, opening=opening)], environments=their)
    check_laws(tree)


@pytest.mark.parametrize("branching", ["ib", "independent"])
def test_a_question_that_reset_makes_up_is_the_same_for_all_answers_if_its_state_can_be_kept(branching: str) -> None:
    class Dice(ByCopy):
        thrown = 0

        def reset(self, **row: Any) -> str:  # type: ignore[override]
            type(self).thrown += 1
            super().reset(type(self).thrown)
            return f"{self.count}"

    their = environments(Dice)
    openings = [asyncio.run(their.open({})) for _ in range(4)]
    assert [opening.text for opening in openings] == ["1", "2", "3", "4"]
    questions = [Prompt(o.text or "", (1, 5), o.text or "", opening=o) for o in openings]
    trees = grow(options(branching=branching, **LONG), questions, environments=their)
    assert Dice.thrown == 4
    for number, tree in enumerate(trees, 1):
        (first,) = {tuple(turns[0][1]) for turns in (conversation(tree, i) for i in range(12)) if 1 not in turns[0][0]}
        assert first == ((5, 6) if number % 2 else (5,))


def test_an_environment_that_never_begins_ends_the_search_with_one_line() -> None:
    class Broken(Tally):
        def reset(self, **row: Any) -> None:
            raise OSError("no disk")

    their = environments(Broken)
    with pytest.raises(EngineError, match="prompt 'p0': Broken could not begin, 3 times: OSError: no disk"):
        grow(options(), prompts(1), environments=their)
    assert their.live == 0


@pytest.mark.parametrize("branching", ["ib", "random", "independent", "ib_adaptive"])
def test_no_more_environments_live_than_allowed_and_all_are_closed(branching: str) -> None:
    for most in (1, 6, None):
        ByFork.alive = 0
        their = environments(ByFork, max_live=most)
        trees = grow(options("3,4,1,1", branching=branching, **LONG), prompts(3), environments=their)
        assert sum(len(t.leaves) for t in trees) >= 3 * 3
        assert their.most_live <= (most or 1000)
        assert their.live == ByFork.alive <= their.most_live  # idle ones wait for the next search
        asyncio.run(their.close())
        assert (their.live, ByFork.alive) == (0, 0)
