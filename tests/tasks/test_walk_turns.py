"""Number walks in turns: what the environment says, and trees of the embedded model that hold it as given tokens."""

import asyncio
from typing import Any

import pytest

import ibtpo
from helpers.laws import check_laws
from ibtpo.engines import Completion, Engine, Sampling
from ibtpo.environments.formats import TextFormat
from ibtpo.environments.pool import Environments
from ibtpo.errors import ConfigError
from ibtpo.score import ScoreOptions
from ibtpo.search import Budget, Prompt, SearchOptions, TreeSearch
from ibtpo.tasks.walk_turns import WalkTurns
from ibtpo.tree import ReasoningTree
from ibtpo.verify.rewards import RewardFunctions
from ibtpo.verify.walk import read_walk, walk_reward

OPTIONS = SearchOptions(
    budget=Budget(4, 4, 1, 1),
    sampling=Sampling(1.0, 1.0, 0),
    score=ScoreOptions(confidence="joint"),
    max_completion_length=40,
    seed=5,
)


@pytest.fixture(scope="module")
def nano() -> Any:
    return ibtpo.load_model("nano")


def grow(nano: Any, count: int, make: Any = WalkTurns, wrap: Any = None) -> list[ReasoningTree]:
    model, tokenizer = nano
    prompts = []
    for problem in ibtpo.load_problems("walk:train", limit=count):
        text, ids = ibtpo.encode_prompt(problem, tokenizer)
        prompts.append(Prompt(problem.id, tuple(ids), text, dict(problem.columns)))

    def decode(ids: Any) -> str:
        return str(tokenizer.decode(ids, skip_special_tokens=True))

    def encode(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    engine: Any = ibtpo.TransformersEngine(model, eos_token_ids=[tokenizer.eos_token_id], max_batch_size=16)
    environments = Environments(make, format=TextFormat(encode, decode))
    search = TreeSearch(
        wrap(engine) if wrap else engine, RewardFunctions([walk_reward]), decode, OPTIONS, environments=environments
    )
    return asyncio.run(search.grow_all(prompts))


def test_the_environment_walks_as_far_as_moves_are_legal() -> None:
    walk = WalkTurns()
    walk.reset(start=95, target=3, moves=[9, 4, -8, -2], prompt="…")

    def said(text: str) -> str | None:
        return walk.respond({"role": "assistant", "content": text})

    assert [said("+4 = "), said("-8 = ")] == ["99.\n\n", "91.\n\n"]
    assert [said("+9 = "), said("+7 = "), said("Done."), said("+4 = 95"), said("")] == [None] * 5
    assert said("-2 = ") == "89.\n\n"  # what was refused has not moved it
    walk.reset(start=1, moves=[9, 4, -8, -2])
    assert said("-2 = ") is None


def test_the_environment_writes_every_result_and_the_model_every_move(nano: Any) -> None:
    problems = {p.id: p.columns for p in ibtpo.load_problems("walk:train", limit=6)}
    turns = 0
    for tree in grow(nano, 6):
        check_laws(tree)
        assert tree.meta["environment"]["restored_by"] == "copy"
        columns = problems[tree.id]
        for node in tree.nodes[1:]:
            text = node.step.text
            assert text.endswith(".\n\n") if node.step.given else text.endswith((" = ", "."))
            turns += node.step.given
        for i, leaf in enumerate(tree.leaves):
            *steps, last = tree.completion_text(i).split("\n\n")
            # Each result is right, since the environment computed it.
            assert len(read_walk(steps, columns["start"], columns["moves"])) == len(steps)
            right = last == "Done." and columns["start"] + sum(int(s.split()[0]) for s in steps) == columns["target"]
            assert leaf.reward == float(right and 0 < len(steps) <= 8)
    assert turns > 100


class Deaf(Engine):
    """An engine of a user's own, which knows nothing of stop tokens."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine

    async def generate(self, prompt_ids: Any, sampling: Sampling, seed: int, max_new_tokens: int) -> Completion:
        assert sampling.stop_token_ids
        plain = Sampling(sampling.temperature, sampling.top_p, sampling.top_k)
        found: Completion = await self.engine.generate(prompt_ids, plain, seed, max_new_tokens)
        return found


def test_an_engine_that_does_not_know_stop_tokens_gives_the_same_trees(nano: Any) -> None:
    for ours, theirs in zip(grow(nano, 3), grow(nano, 3, wrap=Deaf), strict=True):
        assert [n.step.token_ids for n in ours.nodes] == [n.step.token_ids for n in theirs.nodes]
        for a, b in zip(ours.nodes, theirs.nodes, strict=True):
            assert a.step.logprobs == pytest.approx(b.step.logprobs, abs=1e-5)
        assert [leaf.stop for leaf in ours.leaves] == [leaf.stop for leaf in theirs.leaves]


def test_a_stop_text_that_is_more_than_one_token_is_refused(nano: Any) -> None:
    class Long(WalkTurns):
        stop_tokens = (" = 26",)

    with pytest.raises(ConfigError, match=r"Long\.stop_tokens: ' = 26' is 2 tokens of this model"):
        grow(nano, 1, Long)


def test_stop_tokens_are_written_down_only_where_there_are_some() -> None:
    assert Sampling(1.0, 1.0, 0).to_json() == {"temperature": 1.0, "top_p": 1.0, "top_k": 0}
    assert Sampling(1.0, 1.0, 0, (9,)).to_json()["stop_token_ids"] == (9,)
