"""What a search says of an engine and a branching rule of the user's own that break their contract."""

import gc
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from helpers.searches import EOS, grow, options, prompts
from ibtpo.branching import BranchPoint
from ibtpo.engines import Completion, Sampling
from ibtpo.engines.scripted import ScriptedEngine
from ibtpo.errors import ConfigError, EngineError
from ibtpo.score import ScoreOptions
from ibtpo.search import Prompt
from ibtpo.tree import ROOT, ReasoningTree

# --- engines


class Own:
    """An engine such as a user writes: it gives what `answer` returns, whatever is asked. tries: requests so far."""

    def __init__(self, answer: Callable[[], Any]) -> None:
        self.answer, self.tries = answer, 0

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, seed: int, max_new_tokens: int) -> Any:
        self.tries += 1
        return self.answer()


class NotAsync(Own):
    def generate(self, *arguments: Any) -> Any:
        self.tries += 1
        return self.answer()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Completion([1, 2], [-0.5], None, "eos"), "whose logprobs are 1 for 2 token_ids; give one for each token"),
        (Completion([1, 2], [-0.5] * 2, [0.1] * 3, "eos"), "whose entropies are 3 for 2 token_ids"),
        (Completion([1], [], None, "eos"), "whose logprobs are 0 for 1 token_ids"),
        (Completion([1, 2], [-0.5, 0.7], None, "eos"), "a log-probability of 0.7; they are at most 0"),
        (Completion([1, 2], [math.nan, -0.5], None, "eos"), "whose logprobs hold NaN or an infinity"),
        (Completion([1, 2], [-0.5, -math.inf], None, "eos"), "whose logprobs hold NaN or an infinity"),
        (Completion([1], [-0.5], [math.nan], "eos"), "whose entropies hold NaN or an infinity"),
        (Completion([1] * 13, [-0.5] * 13, None, "length"), "returned 13 tokens; max_new_tokens was 12"),
        (Completion([1, -3], [-0.5] * 2, None, "eos"), "the token id -3; token ids are 0 or more"),
        (Completion([1.0], [-0.5], None, "eos"), "token_ids hold a value of type float; convert each to int"),
        (Completion([True], [-0.5], None, "eos"), "token_ids hold a value of type bool; convert each to int"),
        (Completion([1], [np.float32(-0.5)], None, "eos"), "logprobs hold a value of type float32; convert each to fl"),
        (Completion(np.array([1]), [-0.5], None, "eos"), "token_ids are of type ndarray; they must be a list"),
        (Completion([1], None, None, "eos"), "whose logprobs are of type NoneType; they must be a list"),
        (Completion([1], [-0.5], None, "stop"), "the stop reason 'stop'; it must be 'eos' or 'length'"),
        (Completion([1], [-0.5], None, None), "the stop reason None; it must be 'eos' or 'length'"),
        (None, "returned None; its generate must return an ibtpo.Completion"),
        ([1, 2], r"returned \[1, 2\]; its generate must return an ibtpo.Completion"),
    ],
)
def test_a_wrong_completion_is_named_and_not_asked_for_again(answer: Any, message: str) -> None:
    engine = Own(lambda: answer)
    with pytest.raises(ConfigError, match=message) as error:
        grow(options("1,1,1,1"), prompts(1), engine)
    assert "\n" not in str(error.value)
    assert engine.tries == 1


@pytest.mark.parametrize("entropies", [None, [0.1] * 12])
def test_a_completion_at_every_limit_is_accepted(entropies: list[float] | None) -> None:
    answer = Completion([0] * 12, [0.01] + [-0.5] * 11, entropies, "length")
    (tree,) = grow(options("1,1,1,1"), prompts(1), Own(lambda: answer))
    assert (tree.completion_ids(0), tree.completion_logprobs(0)) == ([0] * 12, [0.01] + [-0.5] * 11)
    assert ReasoningTree.from_dict(tree.to_dict()).to_dict() == tree.to_dict()


def test_an_engine_that_raises_or_is_not_async_is_named_on_one_line_and_not_asked_again() -> None:
    def fail() -> None:
        raise TypeError("can only\nconcatenate list")

    for engine, message in (
        (Own(fail), "prompt 'p0': engine Own failed: TypeError: can only concatenate list"),
        (
            NotAsync(lambda: Completion([1], [-0.5], None, "eos")),
            "prompt 'p0': engine NotAsync failed: TypeError: object Completion can't be used in 'await' expression",
        ),
    ):
        with pytest.raises(EngineError) as error:
            grow(options("1,1,1,1"), prompts(1), engine)
        assert str(error.value) == message
        assert engine.tries == 1


def test_an_engine_s_own_config_error_stays_as_it_is() -> None:
    def fail() -> None:
        raise ConfigError("no key for the server")

    engine = Own(fail)
    with pytest.raises(ConfigError, match=r"^no key for the server$"):
        grow(options("1,1,1,1"), prompts(1), engine)
    assert engine.tries == 1


# --- branching rules of the user's own

CERTAIN = {(5,): {1: 1.0}, (5, 1): {2: 1.0}, (5, 1, 2): {EOS: 1.0}}  # two steps: node 1 of two tokens, node 2 of one
GIVEN: list[Any] = []  # what the rule `given` returns


def given(tree: ReasoningTree, k: int, options: ScoreOptions, seed: int) -> Any:
    return GIVEN[-1]


async def a_coroutine(tree: ReasoningTree, k: int, options: ScoreOptions, seed: int) -> Any:
    return [BranchPoint(ROOT)]


def fails_late(tree: ReasoningTree, k: int, options: ScoreOptions, seed: int) -> Any:
    yield BranchPoint(ROOT)
    raise KeyError("depth")


def with_rule(name: str) -> ReasoningTree:
    (tree,) = grow(
        options("1,2,1,1", branching=f"{__name__}:{name}"),
        [Prompt("x", (5,), "q")],
        ScriptedEngine(CERTAIN.__getitem__, [EOS]),
    )
    return tree


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ([0], "gave 0 for tree 'x'; each place must be a BranchPoint"),
        (7, "gave 7; it must be a plain function that returns a list of BranchPoint"),
        (None, "gave None; it must be a plain function"),
        ([BranchPoint(9999)], "BranchPoint(node=9999, offset=None, score=None) for tree 'x'; node must be the id of a "
         "node, from 0 to 2"),
        ([BranchPoint(3)], "from 0 to 2"),
        ([BranchPoint(-1)], "from 0 to 2"),
        ([BranchPoint(1.0)], "from 0 to 2"),
        ([BranchPoint(0, 3)], "the root is the prompt, which cannot be cut"),
        ([BranchPoint(1, 0)], "offset must be inside the step of 2 tokens, from 1 to 1"),
        ([BranchPoint(1, 2)], "offset must be inside the step of 2 tokens, from 1 to 1"),
        ([BranchPoint(1, -1)], "offset must be inside the step of 2 tokens"),
        ([BranchPoint(2, 1)], "that step has one token and cannot be cut"),
        ([BranchPoint(1, None, math.nan)], "score must be a finite int or float, or None"),
        ([BranchPoint(1), BranchPoint(1, 1)], "gave two places in node 1 of tree 'x'; give one a node"),
    ],
)  # fmt: skip
def test_a_rule_that_gives_no_place_of_the_tree_is_named(result: Any, message: str) -> None:
    GIVEN.append(result)
    with pytest.raises(ConfigError) as error:
        with_rule("given")
    assert str(error.value).startswith(f"branching rule '{__name__}:given' gave ")
    assert message in str(error.value)


def test_a_rule_that_gives_no_place_ends_the_tree() -> None:
    GIVEN.append([])
    tree = with_rule("given")
    assert (len(tree.leaves), tree.meta["stopped"]) == (1, "all wrong")


@pytest.mark.filterwarnings("error")
def test_a_rule_that_is_async_or_fails_while_its_places_are_read_is_named() -> None:
    with pytest.raises(ConfigError, match=r":a_coroutine' gave <coroutine .*; it must be a plain function"):
        with_rule("a_coroutine")
    gc.collect()  # a coroutine that was never awaited would warn here
    with pytest.raises(ConfigError, match=r"^branching rule '.*:fails_late' failed: KeyError: 'depth'$"):
        with_rule("fails_late")


@pytest.mark.parametrize(
    ("point", "at"), [(BranchPoint(ROOT), ROOT), (BranchPoint(np.int64(1), None, 0.5), 1), (BranchPoint(1, 1), 1)]
)
def test_a_right_place_of_a_rule_of_one_s_own_is_taken(point: BranchPoint, at: int) -> None:
    GIVEN.append((point,))
    tree = with_rule("given")
    assert tree.rollouts[1].at == at
    assert tree.rollouts[1].score == point.score
    assert [n.step.token_ids for n in tree.nodes[1:]] == ([(1,), (2,), (EOS,)] if point.offset else [(1, 2), (EOS,)])
