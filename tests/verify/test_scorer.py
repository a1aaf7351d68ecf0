"""Answers of a search that end at the same time are verified in one call; async judges wait for a whole round."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from helpers.trees import FunctionVerifier
from ibtpo.verify import Verdict
from ibtpo.verify.rewards import RewardFunctions
from ibtpo.verify.scorer import Scorer


def reward(row: dict[str, Any]) -> float:
    return float(row["completion"])


class Calls(FunctionVerifier):
    """Keeps the rows of each call in `calls`."""

    def __init__(self) -> None:
        super().__init__(reward)
        self.calls: list[list[str]] = []

    def score(self, rows: Sequence[dict[str, Any]]) -> list[Verdict]:
        self.calls.append([row["completion"] for row in rows])
        return super().score(rows)


def rows(*completions: str) -> list[dict[str, Any]]:
    return [{"completion": c} for c in completions]


def test_answers_of_one_turn_of_the_loop_are_one_call_in_their_order() -> None:
    async def scenario() -> None:
        verifier = Calls()
        scorer = Scorer(verifier, deterministic=True)
        scorer.sampling = 1  # does not matter for a verifier that computes here
        first = await asyncio.gather(*(scorer.one(row) for row in rows("3", "1", "2")))
        assert [v.reward for v in first] == [3.0, 1.0, 2.0]
        assert (await scorer.one(rows("5")[0])).reward == 5.0
        assert [v.reward for v in await scorer.all(rows("7", "8"))] == [7.0, 8.0]
        assert verifier.calls == [["3", "1", "2"], ["5"], ["7", "8"]]

    asyncio.run(scenario())


def test_a_judge_that_waits_is_asked_when_nothing_is_sampled_any_more() -> None:
    async def scenario() -> None:
        verifier = Calls()
        verifier.waits = True  # type: ignore[attr-defined]
        scorer = Scorer(verifier, deterministic=True)
        scorer.sampling = 1
        early = asyncio.ensure_future(scorer.one(rows("1")[0]))
        for _ in range(5):
            await asyncio.sleep(0)
        assert verifier.calls == []
        scorer.sampling = 0
        late = await scorer.one(rows("2")[0])
        assert ((await early).reward, late.reward) == (1.0, 2.0)
        assert verifier.calls == [["1", "2"]]

    asyncio.run(scenario())


def test_an_exception_of_the_verifier_reaches_every_answer() -> None:
    class Broken(Calls):
        def score(self, rows: Sequence[dict[str, Any]]) -> list[Verdict]:
            raise RuntimeError("closed")

    async def scenario() -> None:
        scorer = Scorer(Broken(), deterministic=True)
        with pytest.raises(RuntimeError, match="closed"):
            await asyncio.gather(*(scorer.one(row) for row in rows("1", "2")))

    asyncio.run(scenario())


def test_functions_get_all_answers_that_became_ready_during_the_call_before() -> None:
    calls: list[list[str]] = []

    async def scenario() -> None:
        ready = asyncio.Event()
        loop = asyncio.get_running_loop()

        def judge(completions: list[str], **columns: object) -> list[float]:
            calls.append(completions)
            if len(calls) == 1:  # until the others wait
                asyncio.run_coroutine_threadsafe(ready.wait(), loop).result(20)
            return [float(c) for c in completions]

        with RewardFunctions(judge) as functions:
            first = asyncio.ensure_future(functions.ascore(rows("1")))
            while not calls:
                await asyncio.sleep(0.001)
            others = [asyncio.ensure_future(functions.ascore(rows(c))) for c in "234"]
            await asyncio.sleep(0)
            ready.set()
            verdicts = [v for some in await asyncio.gather(first, *others) for v in some]
        assert [v.reward for v in verdicts] == [1.0, 2.0, 3.0, 4.0]
        assert calls == [["1"], ["2", "3", "4"]]

    asyncio.run(scenario())


def test_async_functions_run_together_and_an_answer_that_raises_fails_alone() -> None:
    started: list[str] = []

    async def one(completions: list[str], **columns: object) -> list[float]:
        started.append("one")
        while len(started) < 2:  # forever, unless the other runs meanwhile
            await asyncio.sleep(0.001)
        return [float(c) for c in completions]

    async def two(completions: list[str], **columns: object) -> list[float]:
        started.append("two")
        if "bad" in columns.get("kind", []):  # type: ignore[operator]
            raise ValueError("bad")
        return [10.0 * len(completions)] * len(completions)

    with RewardFunctions([one, two]) as functions:
        some = [{"completion": c, "kind": "bad" if c == "2" else "ok"} for c in "123"]
        verdicts = functions.score(some)
    # The two that can be judged are judged together: the function compares, and sees both.
    assert [v.reward for v in verdicts] == [1.0 + 20.0, None, 3.0 + 20.0]
    assert verdicts[1].error == "two: ValueError: bad"


def test_what_is_logged_belongs_to_its_row_and_must_be_one_value_an_answer() -> None:
    metrics: list[tuple[str, float]] = []

    def logs(completions: list[str], log_extra: Any, log_metric: Any, **columns: object) -> list[float]:
        log_extra("twice", [2 * float(c) for c in completions])
        log_metric("n", len(completions))
        return [0.0] * len(completions)

    extra = {"log_extra": None, "log_metric": lambda name, value: metrics.append((name, value))}
    assert [v.logged for v in RewardFunctions(logs, extra=extra).score(rows("1", "2"))] == [{"twice": 2}, {"twice": 4}]
    assert metrics == [("n", 2), ("n", 2)]

    def too_few(completions: list[str], log_extra: Any, **columns: object) -> list[float]:
        log_extra("x", [1])
        return [0.0] * len(completions)

    verdicts = RewardFunctions(too_few, extra=extra).score(rows("1", "2"))
    assert [v.reward for v in verdicts] == [None, None]
    assert verdicts[0].error == "too_few: ValueError: log_extra('x'): 1 values for 2 answers"
