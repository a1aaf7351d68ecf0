"""The `vllm` engine's own part, over a stand-in for `vllm.LLM`; with vLLM itself: `make test-vllm`."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from ibtpo.engines import Sampling
from ibtpo.engines.vllm import LOGITS_PROCESSOR, VLLMEngine
from ibtpo.errors import ConfigError, EngineError

SAMPLING = Sampling()


class FakeLLM:
    """Each request's tokens are its seed, one a step; the last is an end token. `bug(step)` may raise."""

    def __init__(self, mode: str = "processed_logits", bug: Any = lambda step: None) -> None:
        self.requests: dict[str, Any] = {}
        self.aborted: list[str] = []
        self.bug, self.steps, self.resets, self.can_reset, self.widest = bug, 0, 0, True, 0
        config = SimpleNamespace(
            logprobs_mode=mode, logits_processors=[LOGITS_PROCESSOR], max_model_len=32, get_vocab_size=lambda: 100
        )
        self.llm_engine = SimpleNamespace(
            model_config=config, add_request=self.add, step=self.step, abort_request=self.abort
        )

    def add(self, name: str, prompt: Any, params: Any) -> None:
        self.requests[name] = (prompt["prompt_token_ids"], params, [])

    def abort(self, names: list[str]) -> None:
        self.aborted += names
        for name in names:
            del self.requests[name]

    def step(self) -> list[Any]:
        self.steps += 1
        self.widest = max(self.widest, len(self.requests))
        self.bug(self.steps)
        done = []
        for name, (prompt, (seed, room), ids) in list(self.requests.items()):
            ids.append(seed if len(ids) + 1 < min(seed, room) else 1)
            finished = ids[-1] == 1
            if finished:
                del self.requests[name]
            logprobs = [{token: SimpleNamespace(logprob=-0.25 * token)} for token in ids]
            sampled = SimpleNamespace(token_ids=ids, logprobs=logprobs, finish_reason="stop")
            done.append(
                SimpleNamespace(
                    request_id=name, finished=finished, outputs=[sampled], prompt_token_ids=prompt, num_cached_tokens=2
                )
            )
        return done

    def reset_prefix_cache(self) -> bool:
        self.resets += 1
        return self.can_reset


@pytest.fixture(autouse=True)
def _no_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VLLMEngine, "_parameters", lambda self, sampling, seed, room: (seed, room))


def engine_of(llm: FakeLLM) -> VLLMEngine:
    return VLLMEngine(llm, eos_token_ids=[1])


def test_requests_join_the_running_batch_and_return_as_they_end() -> None:
    llm = FakeLLM()
    engine = engine_of(llm)
    order: list[int] = []

    async def one(seed: int, after: int) -> Any:
        while llm.steps < after:
            await asyncio.sleep(0)
        completion = await engine.generate([5, 6, 7], SAMPLING, seed, 20)
        order.append(seed)
        return completion

    async def run() -> list[Any]:
        return await asyncio.gather(one(12, 0), one(9, 0), one(3, 4))

    long, _, short = asyncio.run(run())
    assert order == [3, 9, 12]
    assert llm.widest == 3
    assert short.token_ids == [3, 3, 1]
    assert short.logprobs == [-0.75, -0.75, -0.25]
    assert (short.stop_reason, short.cached_tokens, short.entropies) == ("eos", 2, None)
    assert len(long.token_ids) == 12
    assert (engine.generated_tokens, engine.cached_tokens, engine.prefilled_tokens) == (24, 6, 3)


def test_a_failing_step_fails_all_in_flight_and_every_later_request_with_its_reason() -> None:
    def bug(step: int) -> None:
        if step == 3:
            raise RuntimeError("device lost")

    engine = engine_of(FakeLLM(bug=bug))

    async def run() -> list[Any]:
        jobs = [engine.generate([5], SAMPLING, seed, 20) for seed in (2, 8, 9)]
        return await asyncio.gather(*jobs, return_exceptions=True)

    done, *failed = asyncio.run(run())
    assert done.token_ids == [2, 1]
    assert all(isinstance(e, EngineError) and "RuntimeError: device lost" in str(e) for e in failed)
    for action in (engine.reset_cache, lambda: asyncio.run(engine.generate([5], SAMPLING, 2, 20))):
        with pytest.raises(EngineError, match="cannot be used any more: RuntimeError: device lost"):
            action()


def test_a_cancelled_request_is_aborted_and_the_others_go_on() -> None:
    llm = FakeLLM()
    engine = engine_of(llm)

    async def run() -> Any:
        doomed = asyncio.ensure_future(engine.generate([5], SAMPLING, 15, 20))
        other = asyncio.ensure_future(engine.generate([5], SAMPLING, 6, 20))
        while llm.steps < 2:
            await asyncio.sleep(0)
        doomed.cancel()
        return await other

    assert len(asyncio.run(run()).token_ids) == 6
    assert llm.aborted == ["0"]
    assert not llm.requests
    engine.reset_cache()
    assert llm.resets == 1


def test_a_cache_that_cannot_be_reset_is_an_error() -> None:
    llm = FakeLLM()
    llm.can_reset = False
    with pytest.raises(EngineError, match="did not reset its prefix cache"):
        engine_of(llm).reset_cache()


def test_the_cache_is_not_reset_under_a_running_rollout() -> None:
    engine = engine_of(FakeLLM())

    async def run() -> None:
        task = asyncio.ensure_future(engine.generate([5], SAMPLING, 9, 20))
        await asyncio.sleep(0)
        with pytest.raises(EngineError, match="1 rollouts in flight"):
            engine.reset_cache()
        await task

    asyncio.run(run())


def test_one_event_loop_after_another_may_use_the_engine() -> None:
    engine = engine_of(FakeLLM())
    for _ in range(3):
        assert asyncio.run(engine.generate([5], SAMPLING, 4, 20)).token_ids == [4, 4, 4, 1]


@pytest.mark.parametrize("mode", ["raw_logprobs", "processed_logprobs", "raw_logits"])
def test_an_llm_that_reports_other_logprobs_is_refused(mode: str) -> None:
    with pytest.raises(ConfigError, match=rf"in mode '{mode}'.*open_llm"):
        engine_of(FakeLLM(mode))


def test_an_unfinished_rollout_is_an_error_of_its_own() -> None:
    llm = FakeLLM()
    step = llm.step

    def aborts() -> list[Any]:
        outputs = step()
        for output in outputs:
            output.outputs[0].finish_reason = "abort"
        return outputs

    llm.llm_engine.step = aborts
    with pytest.raises(EngineError, match="finish reason 'abort'"):
        asyncio.run(engine_of(llm).generate([5], SAMPLING, 3, 20))
