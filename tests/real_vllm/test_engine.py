"""The `vllm` engine with the embedded model."""

import asyncio
from typing import Any

import numpy as np
import pytest
import torch

from ibtpo._seeds import stable_hash
from ibtpo.engines import Sampling
from ibtpo.engines.models import resolve_model
from ibtpo.engines.transformers import TransformersEngine
from ibtpo.engines.vllm import VLLMEngine, open_llm
from ibtpo.errors import ConfigError, EngineError
from ibtpo.search import Budget, Prompt, SearchOptions, TreeSearch
from ibtpo.tasks.problems import load_problems
from ibtpo.tasks.prompts import encode_prompt
from real_vllm.reference import SAMPLING, LengthReward, Reference, ask

TOLERANCE = 2e-4  # float32; measured: 6e-5


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference("nano")


@pytest.fixture(scope="module")
def llm() -> Any:
    return open_llm(resolve_model("nano"), max_batch_size=16, kv_memory_gb=0.3, enforce_eager=True)


@pytest.fixture
def engine(llm: Any, reference: Reference) -> VLLMEngine:
    engine = VLLMEngine(llm, eos_token_ids=reference.ends)
    engine.reset_cache()
    return engine


@pytest.fixture(scope="module")
def prompts(reference: Reference) -> list[Prompt]:
    problems = load_problems("walk:test", limit=6)
    encoded = [(p, *encode_prompt(p, reference.tokenizer)) for p in problems]
    return [Prompt(p.id, tuple(ids), text, dict(p.columns)) for p, text, ids in encoded]


def grow(engine: Any, reference: Reference, prompts: list[Prompt], **options: Any) -> list[Any]:
    settings = SearchOptions(
        budget=Budget(4, 5), sampling=SAMPLING, max_completion_length=100, splitter="tokens:8", seed=7, **options
    )
    search = TreeSearch(engine, LengthReward(), lambda ids: reference.tokenizer.decode(ids), settings)
    return asyncio.run(search.grow_all(prompts))


@pytest.mark.parametrize(
    "sampling", [SAMPLING, Sampling(1.3, 1.0, 0), Sampling(0.5, 0.6, 0), Sampling(1.0, 1.0, 3)], ids=str
)
def test_logprobs_are_of_the_full_softmax_at_the_sampling_temperature(
    engine: VLLMEngine, reference: Reference, prompts: list[Prompt], sampling: Sampling
) -> None:
    async def sample() -> list[Any]:
        return await asyncio.gather(*[engine.generate(p.ids, sampling, s, 60) for p in prompts for s in range(3)])

    completions = asyncio.run(sample())
    gaps = [
        reference.gap(p.ids, c, sampling.temperature)
        for p, c in zip([p for p in prompts for _ in range(3)], completions, strict=True)
    ]
    print(f"max gap {max(gaps):.2e} over {sum(len(c.token_ids) for c in completions)} tokens")
    assert max(gaps) < TOLERANCE
    # The engine's own law: a filter that is counted in would have moved these by log of the kept mass.
    assert min(min(c.logprobs) for c in completions) < -0.1


def test_requests_of_different_temperatures_in_one_batch_each_get_their_own(
    engine: VLLMEngine, reference: Reference, prompts: list[Prompt]
) -> None:
    options = [Sampling(t, 0.95, 20) for t in (0.3, 0.7, 1.0, 1.5)]

    async def sample() -> list[Any]:
        return await asyncio.gather(*[engine.generate(prompts[0].ids, o, 1, 40) for o in options])

    for o, c in zip(options, asyncio.run(sample()), strict=True):
        assert reference.gap(prompts[0].ids, c, o.temperature) < TOLERANCE


def test_first_tokens_follow_the_filtered_softmax(
    engine: VLLMEngine, reference: Reference, prompts: list[Prompt]
) -> None:
    prompt = next(p for p in prompts)
    with torch.no_grad():
        logits = reference.model(torch.tensor([prompt.ids])).logits[0, -1]
    p = (logits / 1.5).softmax(-1)
    order = p.argsort(descending=True)[:20]  # top-k, then top-p of what is left
    kept = p[order] / p[order].sum()
    inside = (kept.cumsum(0) - kept) < 0.9
    expected = dict(zip(order[inside].tolist(), (kept[inside] / kept[inside].sum()).tolist(), strict=True))

    async def sample() -> list[Any]:
        o = Sampling(1.5, 0.9, 20)
        return await asyncio.gather(*[engine.generate(prompt.ids, o, stable_hash(s), 1) for s in range(1000)])

    drawn = [c.token_ids[0] for c in asyncio.run(sample())]
    assert set(drawn) <= set(expected)
    counts = np.array([drawn.count(token) for token in expected])
    means = 1000 * np.array(list(expected.values()))
    rare = means < 5
    if rare.any():
        counts, means = np.append(counts[~rare], counts[rare].sum()), np.append(means[~rare], means[rare].sum())
    statistic, freedom = ((counts - means) ** 2 / np.maximum(means, 1e-9)).sum(), len(counts) - 1
    assert len(expected) > 1
    assert statistic < freedom + 4 * (2 * freedom) ** 0.5 + 4  # far beyond the 0.1 % point


def test_the_same_seed_gives_the_same_tokens_alone_and_in_company(engine: VLLMEngine, prompts: list[Prompt]) -> None:
    ids = prompts[0].ids
    together = ask(engine, ids, range(12))
    again = ask(engine, ids, range(12))
    alone = [ask(engine, ids, [s])[0] for s in range(12)]
    assert [c.token_ids for c in together] == [c.token_ids for c in again] == [c.token_ids for c in alone]
    assert len({tuple(c.token_ids) for c in together}) > 1


def test_prefixes_are_found_in_the_cache_and_reported(engine: VLLMEngine, prompts: list[Prompt]) -> None:
    prompt = (prompts[0].ids * 12)[:100]
    first, second = ask(engine, prompt, [0], 4)[0], ask(engine, prompt, [1], 4)[0]
    assert (first.cached_tokens, second.cached_tokens) == (0, 96)  # whole blocks of 32
    engine.reset_cache()
    assert ask(engine, prompt, [1], 4)[0].cached_tokens == 0


def test_new_weights_are_seen_at_once_even_where_the_prefix_was_cached(
    engine: VLLMEngine, reference: Reference, prompts: list[Prompt]
) -> None:
    prompt = (prompts[0].ids * 12)[:100]
    old = ask(engine, prompt, range(4), 20)
    before = {name: value.clone() for name, value in reference.model.state_dict().items()}
    torch.manual_seed(0)
    try:
        with torch.no_grad():
            for parameter in reference.model.parameters():
                parameter.add_(0.2 * parameter.std() * torch.randn_like(parameter))
        assert max(reference.gap(prompt, c) for c in old) > 0.05  # the old ones are wrong by now
        engine.update_weights(reference.model.named_parameters())
        new = ask(engine, prompt, range(4), 20)
        assert new[0].cached_tokens == 0
        assert max(reference.gap(prompt, c) for c in new) < TOLERANCE
        cached = ask(engine, prompt, range(4), 20)
        assert cached[0].cached_tokens == 96
        assert max(reference.gap(prompt, c) for c in cached) < TOLERANCE
    finally:
        reference.model.load_state_dict(before)
        engine.update_weights(reference.model.named_parameters())
    assert [c.token_ids for c in ask(engine, prompt, range(4), 20)] == [c.token_ids for c in old]


def test_without_a_reset_the_cache_would_be_stale(
    engine: VLLMEngine, reference: Reference, prompts: list[Prompt]
) -> None:
    """The trap is real here: were `update_weights` not to reset the cache, the test above would fail."""
    prompt = prompts[0].ids * 8  # after 104 tokens the model is not sure of its move
    ask(engine, prompt, [0], 4)
    changed = {n: p.detach() * (4.0 if "v_proj" in n else 1.0) for n, p in reference.model.named_parameters()}
    engine.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(changed.items())})
    stale = ask(engine, prompt, [0], 4)[0]
    engine.reset_cache()
    fresh = ask(engine, prompt, [0], 4)[0]
    engine.update_weights(reference.model.named_parameters())
    assert stale.cached_tokens == 96
    assert abs(stale.logprobs[0] - fresh.logprobs[0]) > 1e-3


def test_trees_grow_with_the_trainers_logprobs_and_again_the_same(
    engine: VLLMEngine, reference: Reference, prompts: list[Prompt]
) -> None:
    trees = grow(engine, reference, prompts)
    assert engine.cached_tokens > 0
    gaps = []
    for tree in trees:
        assert len(tree.leaves) == 8
        for i, leaf in enumerate(tree.leaves):
            ids = tree.completion_ids(i)
            assert (ids[-1] in reference.ends) == (leaf.stop == "eos")
            expected = reference.logprobs(tree.prompt_ids, ids, SAMPLING.temperature)
            gaps.append(float((expected - torch.tensor(tree.completion_logprobs(i))).abs().max()))
    print(f"max gap through trees {max(gaps):.2e}, {engine.generated_tokens} tokens, {engine.busy_seconds:.1f} s")
    assert max(gaps) < TOLERANCE
    engine.reset_cache()
    again = grow(engine, reference, prompts, max_in_flight=3)  # another order of arrival, other batches
    same = [
        tree.completion_ids(i) == other.completion_ids(i)
        for tree, other in zip(trees, again, strict=True)
        for i in range(8)
    ]
    # A different batch touches the last bits of a float, and a token at the edge of top-p may flip.
    assert np.mean(same) > 0.9


def test_rewards_and_lengths_agree_with_the_transformers_engine_in_the_mean(
    engine: VLLMEngine, reference: Reference, prompts: list[Prompt]
) -> None:
    other = TransformersEngine(reference.model, eos_token_ids=reference.ends)
    means = []
    for e in (engine, other):
        lengths = [len(c.token_ids) for p in prompts for c in ask(e, p.ids, range(40), 100)]
        means.append((np.mean(lengths), np.std(lengths) / len(lengths) ** 0.5))
    (a, sa), (b, sb) = means
    assert abs(a - b) < 4 * (sa**2 + sb**2) ** 0.5


def test_requests_that_cannot_be_served_are_refused_and_leave_the_engine_usable(
    engine: VLLMEngine, prompts: list[Prompt]
) -> None:
    def one(ids: Any, **changes: Any) -> None:
        arguments = {"sampling": SAMPLING, "seed": 0, "max_new_tokens": 4} | changes
        asyncio.run(engine.generate(ids, **arguments))

    for ids, changes, pattern in (
        ([], {}, "empty"),
        ([10**6], {}, "outside the model's vocabulary"),
        ([5] * 256, {}, "context holds 256"),
        ([5], {"max_new_tokens": 0}, "at least 1"),
        ([5], {"sampling": Sampling(0.001)}, r"temperature 0.01 or above, got 0.001"),
    ):
        with pytest.raises(EngineError, match=pattern):
            one(ids, **changes)
    assert ask(engine, prompts[0].ids, [0])[0].token_ids
    assert len(ask(engine, [5] * 250, [0], 100)[0].token_ids) <= 6  # cut where the context ends


def test_a_cancelled_request_leaves_the_batch(engine: VLLMEngine, prompts: list[Prompt]) -> None:
    async def cancel_half() -> list[Any]:
        tasks = [asyncio.ensure_future(engine.generate(prompts[0].ids, SAMPLING, s, 100)) for s in range(8)]
        await asyncio.sleep(0.02)
        for task in tasks[::2]:
            task.cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    results = asyncio.run(cancel_half())
    assert [c.token_ids for c in results[1::2]] == [
        c.token_ids for c in ask(engine, prompts[0].ids, range(8), 100)[1::2]
    ]
    assert engine.llm.llm_engine.get_num_unfinished_requests() == 0


def test_weights_cannot_change_under_a_running_rollout(
    engine: VLLMEngine, reference: Reference, prompts: list[Prompt]
) -> None:
    async def interfere() -> None:
        task = asyncio.ensure_future(engine.generate(prompts[0].ids, SAMPLING, 0, 50))
        await asyncio.sleep(0)
        with pytest.raises(EngineError, match="cannot update the weights with 1 rollouts in flight"):
            engine.update_weights(reference.model.named_parameters())
        await task

    asyncio.run(interfere())


def test_the_newer_runners_interface_gives_the_same_logits() -> None:
    """That runner needs Triton; its calls are made here by hand."""
    from types import SimpleNamespace

    from ibtpo.engines.full_softmax import FullSoftmax

    processor = FullSoftmax(None, SimpleNamespace(max_num_reqs=4, device=torch.device("cpu")))
    temperatures = {0: 0.5, 2: 1.7, 3: 0.0}
    for slot, temperature in temperatures.items():
        assert processor.add_request(slot, SimpleNamespace(temperature=temperature))
    processor.apply_staged_writes()
    slots = torch.tensor([3, 0, 2, 0])
    logits = torch.randn(4, 11) * 3
    out = processor.apply(logits.clone(), SimpleNamespace(expanded_idx_mapping=slots))
    for row, slot in enumerate(slots.tolist()):
        t = temperatures[slot] or 1.0
        torch.testing.assert_close(out[row] / t, (logits[row] / t).log_softmax(-1))


def test_an_llm_with_other_logprobs_is_refused(llm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llm.llm_engine.model_config, "logprobs_mode", "processed_logprobs")
    with pytest.raises(ConfigError, match="'processed_logprobs', which are not those of the full softmax"):
        VLLMEngine(llm, eos_token_ids=[1])


def test_when_vllm_dies_waiting_rollouts_fail_finished_trees_are_kept_and_the_error_says_so(
    llm: Any, reference: Reference, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = VLLMEngine(llm, eos_token_ids=reference.ends)
    kept: list[Any] = []
    runner = llm.llm_engine.model_executor.driver_worker.model_runner
    execute = runner.execute_model

    def dies(*args: Any, **kwargs: Any) -> Any:
        if len(kept) >= 2:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return execute(*args, **kwargs)

    monkeypatch.setattr(runner, "execute_model", dies)
    settings = SearchOptions(
        budget=Budget(3, 3), sampling=SAMPLING, max_completion_length=60, retries=1, max_in_flight=4
    )
    search = TreeSearch(engine, LengthReward(), lambda ids: reference.tokenizer.decode(ids), settings)
    with pytest.raises(EngineError, match=r"vLLM failed in a step and cannot be used any more.*illegal memory access"):
        asyncio.run(search.grow_each(prompts, kept.append))
    assert 2 <= len(kept) < len(prompts)
    monkeypatch.undo()
    with pytest.raises(EngineError, match="cannot be used any more"):
        ask(engine, prompts[0].ids, [0])
