"""The transformers engine against plain forwards and `model.generate`, on tiny random models."""

import asyncio
import warnings
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from helpers.engine_models import (  # noqa: E402
    FAMILIES,
    FULL,
    GREEDY,
    PAPER,
    assert_matches_plain_forward,
    build,
    llama,
    many,
    one,
    prompts_of_lengths,
    run,
    same,
)
from ibtpo.engines import Completion  # noqa: E402
from ibtpo.engines.kv import PrefixStore, chain_hashes  # noqa: E402
from ibtpo.engines.transformers import TransformersEngine  # noqa: E402
from ibtpo.errors import ConfigError, EngineError  # noqa: E402


@pytest.mark.parametrize("family", FAMILIES)
def test_top_k_1_gives_the_tokens_of_greedy_generate_together_staggered_and_alone(family: str) -> None:
    model = build(FAMILIES[family])
    prompts = prompts_of_lengths([1, 2, 3, 5, 7, 8, 11, 16, 17, 30, 33, 40])
    expected = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        output = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12)
        expected.append(output[0, len(prompt) :].tolist())

    async def staggered(engine: TransformersEngine) -> list[Completion]:
        tasks = []
        for i, prompt in enumerate(prompts):
            tasks.append(asyncio.ensure_future(engine.generate(prompt, GREEDY, i, 12)))
            for _ in range(i % 4):
                await asyncio.sleep(0)
        return await asyncio.gather(*tasks)

    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no fall-back for these
        together = many(TransformersEngine(model, eos_token_ids=[2]), [(p, GREEDY, 0, 12) for p in prompts])
        late = run(staggered(TransformersEngine(model, eos_token_ids=[2], max_batch_size=5)))
        engine = TransformersEngine(model, eos_token_ids=[2])
        alone = []
        for prompt in prompts:
            alone.append(one(engine, prompt, GREEDY, n=12))
            engine.reset_cache()
    for results in (together, late, alone):
        assert [completion.token_ids for completion in results] == expected
        for prompt, completion in zip(prompts, results, strict=True):
            assert_matches_plain_forward(model, prompt, completion, 1.0)
            ended = completion.token_ids[-1] == 2
            assert completion.stop_reason == ("eos" if ended else "length")
            assert 2 not in completion.token_ids[:-1]


@pytest.mark.parametrize("family", FAMILIES)
def test_logprobs_and_entropies_are_those_of_a_plain_forward_at_the_sampling_temperature(family: str) -> None:
    model = build(FAMILIES[family])
    engine = TransformersEngine(model, eos_token_ids=[2], max_batch_size=6)
    prompts = prompts_of_lengths([3, 9, 20, 4, 35, 6, 12, 27])
    requests = [(p, [PAPER, FULL, GREEDY][i % 3], i, 10 + 3 * i) for i, p in enumerate(prompts * 2)]
    results = many(engine, requests)
    branches = [
        (request[0] + result.token_ids[: len(result.token_ids) // 2], PAPER, 99, 15)
        for request, result in zip(requests, results, strict=True)
    ]
    for request, result in zip(requests + branches, results + many(engine, branches), strict=True):
        assert_matches_plain_forward(model, request[0], result, request[1].temperature)


def test_a_tiny_store_evicts_and_stays_right() -> None:
    model = llama()
    per_token = 2 * 2 * 2 * 8 * 4  # layers, keys and values, heads, head_dim, bytes
    engine = TransformersEngine(model, eos_token_ids=[], kv_memory_gb=100 * per_token / 1e9)
    prompts = prompts_of_lengths([10, 14, 20, 8, 30, 25])
    rollouts = []
    for i, prompt in enumerate(prompts):
        rollouts.append(one(engine, prompt, PAPER, i))
    cached = []
    for prompt, rollout in zip(prompts, rollouts, strict=True):
        branch = prompt + rollout.token_ids[:9]
        completion = one(engine, branch, PAPER, 7)
        cached.append(completion.cached_tokens)
        assert_matches_plain_forward(model, branch, completion, PAPER.temperature)
    assert cached[0] == 0  # evicted
    nothing_kept = TransformersEngine(model, eos_token_ids=[], kv_memory_gb=0)
    assert same(one(nothing_kept, prompts[0], PAPER, 0), rollouts[0])
    assert one(nothing_kept, prompts[0], PAPER, 0).cached_tokens == 0


def test_the_same_seed_gives_the_same_tokens_alone_and_in_a_crowd_and_other_seeds_differ() -> None:
    model = llama()
    prompts = prompts_of_lengths([5, 18, 9])
    alone = [one(TransformersEngine(model, eos_token_ids=[2]), p, FULL, 40 + i, 25) for i, p in enumerate(prompts)]
    crowd = [(p, PAPER, i, 5 + i) for i, p in enumerate(prompts_of_lengths([2, 40, 7, 13, 26, 3, 31]))]
    mine = [(p, FULL, 40 + i, 25) for i, p in enumerate(prompts)]
    engine = TransformersEngine(model, eos_token_ids=[2], max_batch_size=4)
    crowded = many(engine, crowd[:3] + mine + crowd[3:])[3:6]
    assert all(same(left, right) for left, right in zip(alone, crowded, strict=True))
    others = [tuple(one(engine, prompts[0], FULL, seed, 25).token_ids) for seed in range(10)]
    assert len(set(others)) == 10


def test_a_shorter_cap_gives_a_prefix_of_the_same_rollout() -> None:
    engine = TransformersEngine(llama(), eos_token_ids=[])
    assert one(engine, [5, 6], FULL, 3, 8).token_ids == one(engine, [5, 6], FULL, 3, 20).token_ids[:8]


@pytest.mark.parametrize("cut", [1, 2, 10, 24])
def test_a_branch_computes_its_last_token_only_and_equals_the_result_without_cache(cut: int) -> None:
    model = llama()
    engine = TransformersEngine(model, eos_token_ids=[])
    prompt = prompts_of_lengths([12])[0]
    first = one(engine, prompt, PAPER, 1, 24)
    assert (first.cached_tokens, engine.prefilled_tokens, engine.cached_tokens) == (0, 12, 0)
    branch = prompt + first.token_ids[:cut]
    second = one(engine, branch, PAPER, 2)
    assert second.cached_tokens == len(branch) - 1
    assert (engine.prefilled_tokens, engine.cached_tokens) == (12 + 1, len(branch) - 1)
    assert same(second, one(TransformersEngine(model, eos_token_ids=[]), branch, PAPER, 2))
    third = branch + second.token_ids[:5]  # a branch of a branch: its prefix lies in three pieces
    again = one(engine, third, PAPER, 3)
    assert again.cached_tokens == len(third) - 1
    assert_matches_plain_forward(model, third, again, PAPER.temperature)


def test_rollouts_of_one_prompt_share_one_prefill_whether_queued_together_or_later() -> None:
    engine = TransformersEngine(llama(), eos_token_ids=[], max_batch_size=4)
    prompt = prompts_of_lengths([30])[0]
    results = many(engine, [(prompt, PAPER, seed, 10) for seed in range(6)])
    assert sorted(result.cached_tokens for result in results) == [0, 29, 29, 29, 29, 29]
    assert (engine.prefilled_tokens, engine.cached_tokens) == (30 + 5, 5 * 29)
    assert engine.generated_tokens == 60
    assert engine.steps == 20


def test_prompts_with_a_common_beginning_compute_only_what_differs() -> None:
    model = llama()
    engine = TransformersEngine(model, eos_token_ids=[])
    shared, left, right = prompts_of_lengths([20, 6, 9])
    one(engine, shared + left, PAPER)
    completion = one(engine, shared + right, PAPER)
    assert completion.cached_tokens == 20
    assert_matches_plain_forward(model, shared + right, completion, PAPER.temperature)


def test_a_prefill_cut_into_parts_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ibtpo.engines.runners.PREFILL_TOKENS_CPU", 16)
    model = llama()
    prompts = prompts_of_lengths([50, 3, 5, 17, 40, 4, 4])
    requests = [(prompt, PAPER, i, 9) for i, prompt in enumerate(prompts)]
    for request, result in zip(requests, many(TransformersEngine(model, eos_token_ids=[]), requests), strict=True):
        assert_matches_plain_forward(model, request[0], result, PAPER.temperature)


def test_reset_cache_after_a_silent_weight_change_gives_the_new_logprobs() -> None:
    model = llama()
    engine = TransformersEngine(model, eos_token_ids=[])
    prompt = prompts_of_lengths([16])[0]
    one(engine, prompt, PAPER)
    for parameter in model.parameters():
        parameter.data[:-1].mul_(1.2)  # what the safety net does not see
    stale = one(engine, prompt, PAPER)
    assert stale.cached_tokens == 15
    with pytest.raises(AssertionError):
        assert_matches_plain_forward(model, prompt, stale, PAPER.temperature)
    engine.reset_cache()
    fresh = one(engine, prompt, PAPER)
    assert fresh.cached_tokens == 0
    assert_matches_plain_forward(model, prompt, fresh, PAPER.temperature)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_optimizer_step_is_noticed_without_reset_cache(fused: bool, dtype: Any) -> None:
    model = llama().to(dtype)
    engine = TransformersEngine(model, eos_token_ids=[])
    prompt = prompts_of_lengths([16])[0]
    one(engine, prompt, PAPER)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6 if dtype == torch.float32 else 1e-2, fused=fused)
    model(input_ids=torch.tensor([prompt]), labels=torch.tensor([prompt])).loss.backward()
    optimizer.step()
    assert one(engine, prompt, PAPER).cached_tokens == 0
    assert one(engine, prompt, PAPER).cached_tokens == 15


def test_reset_cache_is_refused_while_rollouts_are_in_flight() -> None:
    engine = TransformersEngine(llama(), eos_token_ids=[])

    async def scenario() -> None:
        tasks = [asyncio.ensure_future(engine.generate([5, 6], PAPER, seed, 30)) for seed in range(3)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        with pytest.raises(EngineError, match="3 rollouts in flight"):
            engine.reset_cache()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        engine.reset_cache()
        assert (await engine.generate([5, 6], PAPER, 0, 4)).cached_tokens == 0

    run(scenario())


def record_batches(model: Any) -> list[tuple[int, int]]:
    """(rows, tokens) of every forward from here on."""
    shapes: list[tuple[int, int]] = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    return shapes


def test_freed_slots_are_refilled_at_the_next_step_and_never_exceed_the_batch_size() -> None:
    model = llama()
    engine = TransformersEngine(model, eos_token_ids=[], max_batch_size=4)
    shapes = record_batches(model)
    one(engine, [3], PAPER, n=1)  # the first use checks the model with forwards of its own
    shapes.clear()
    before = engine.steps
    caps = [10, 1, 7, 2, 9, 3, 8, 4, 6, 5, 1, 1, 2]
    results = many(engine, [([5 + i], PAPER, i, cap) for i, cap in enumerate(caps)])
    assert [len(result.token_ids) for result in results] == caps
    steps = engine.steps - before
    assert max(rows for rows, _ in shapes) == 4
    # First come, first served, each into the place that is free first.
    free = [0, 0, 0, 0]
    for cap in caps:
        place = free.index(min(free))
        free[place] += cap
    assert steps == max(free)
    barrier = sum(max(caps[i : i + 4]) for i in range(0, len(caps), 4))
    assert steps < barrier
    assert sum(rows for rows, _ in shapes) == sum(caps)


def test_a_follow_up_awaited_by_the_search_joins_the_very_next_step() -> None:
    model = llama()
    engine = TransformersEngine(model, eos_token_ids=[], max_batch_size=2)
    shapes = record_batches(model)
    one(engine, [3], PAPER, n=1)
    shapes.clear()

    async def two_in_a_row() -> None:
        await engine.generate([5], PAPER, 0, 4)
        await engine.generate([6], PAPER, 0, 4)

    async def scenario() -> None:
        await asyncio.gather(two_in_a_row(), engine.generate([7], PAPER, 0, 8))

    run(scenario())
    assert shapes == [(2, 1)] * 8


def test_the_engine_serves_successive_event_loops() -> None:
    engine = TransformersEngine(llama(), eos_token_ids=[])
    first = one(engine, [5, 6, 7], PAPER, 1)
    loop = asyncio.new_event_loop()
    abandoned = loop.create_task(engine.generate([5, 6, 7], PAPER, 2, 50))
    loop.run_until_complete(asyncio.sleep(0.001))
    assert not abandoned.done()  # that loop stops here, in the middle of a rollout
    assert same(one(engine, [5, 6, 7], PAPER, 1), first)
    abandoned.cancel()
    loop.run_until_complete(asyncio.gather(abandoned, return_exceptions=True))
    loop.close()
    assert same(one(engine, [5, 6, 7], PAPER, 1), first)


def test_wrong_requests_say_what_is_wrong_with_both_numbers() -> None:
    engine = TransformersEngine(llama(), eos_token_ids=[])
    with pytest.raises(EngineError, match="empty"):
        one(engine, [], PAPER)
    with pytest.raises(EngineError, match=r"128 tokens .* holds 128"):
        one(engine, [5] * 128, PAPER)
    with pytest.raises(EngineError, match=r"token id 60 .* 60"):
        one(engine, [5, 60], PAPER)
    with pytest.raises(EngineError, match=r"token id -1 .* 60"):
        one(engine, [5, -1], PAPER)
    with pytest.raises(EngineError, match="max_new_tokens must be at least 1, got 0"):
        one(engine, [5], PAPER, n=0)
    with pytest.raises(EngineError, match="seed must be >= 0, got -3"):
        one(engine, [5], PAPER, seed=-3)
    with pytest.raises(ConfigError, match="max_batch_size must be at least 1, got 0"):
        TransformersEngine(llama(), eos_token_ids=[], max_batch_size=0)
    with pytest.raises(ConfigError, match=r"eos token id 60 .* 60"):
        TransformersEngine(llama(), eos_token_ids=[60])


def test_a_rollout_ends_where_the_models_context_ends() -> None:
    model = llama()
    completion = one(TransformersEngine(model, eos_token_ids=[]), [5] * 120, PAPER, n=50)
    assert (len(completion.token_ids), completion.stop_reason) == (8, "length")
    assert_matches_plain_forward(model, [5] * 120, completion, PAPER.temperature)


@pytest.mark.parametrize("fails_at", [1, 2, 8, 11])
def test_a_step_that_raises_fails_every_rollout_with_its_cause_and_the_engine_works_again(
    fails_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(FAMILIES["gemma"])  # a family that runs its own forward
    engine = TransformersEngine(model, eos_token_ids=[], max_batch_size=2)
    expected = one(TransformersEngine(model, eos_token_ids=[]), [5, 6, 7], PAPER, 1)
    if fails_at > 1:  # otherwise in the very first forward
        one(engine, [9], PAPER)
    calls, forward = 0, type(model).forward

    def explode(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == fails_at:
            raise torch.OutOfMemoryError("out of memory")
        return forward(self, *args, **kwargs)

    async def scenario() -> list[Any]:
        requests = [engine.generate([5, 6, 7 + i], PAPER, i, 20) for i in range(5)]
        return await asyncio.gather(*requests, return_exceptions=True)

    with monkeypatch.context() as patch:
        patch.setattr(type(model), "forward", explode)
        results = run(scenario())
    assert all(isinstance(result, EngineError) for result in results)
    assert all(isinstance(result.__cause__, torch.OutOfMemoryError) for result in results)
    assert "lower max_batch_size (2)" in str(results[0])
    assert same(one(engine, [5, 6, 7], PAPER, 1), expected)


def test_logits_that_are_not_finite_are_an_engine_error_and_leave_nothing_behind() -> None:
    model = llama()
    engine = TransformersEngine(model, eos_token_ids=[])
    expected = one(engine, [5, 6, 7], PAPER, 1)
    weight = model.model.layers[0].self_attn.v_proj.weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.fill_(torch.nan)
    with pytest.raises(EngineError, match="not finite"):
        one(engine, [5, 6, 7], PAPER, 1)
    with torch.no_grad():
        weight.copy_(kept)
    assert same(one(engine, [5, 6, 7], PAPER, 1), expected)


def test_cancelling_waiting_rollouts_frees_their_slots() -> None:
    model = build(FAMILIES["gemma"])  # a family that runs its own forward
    engine = TransformersEngine(model, eos_token_ids=[], max_batch_size=2)
    expected = one(TransformersEngine(model, eos_token_ids=[]), [9, 9], PAPER, 5)
    before = engine.generated_tokens

    async def scenario() -> Completion:
        tasks = [asyncio.ensure_future(engine.generate([5, 6], PAPER, seed, 100)) for seed in range(4)]
        survivor = asyncio.ensure_future(engine.generate([9, 9], PAPER, 5, 20))
        for _ in range(5):
            await asyncio.sleep(0)
        for task in tasks:  # two are running, two are queued
            task.cancel()
        return await survivor

    assert same(run(scenario()), expected)
    assert engine.generated_tokens - before < 2 * 10 + 20

    async def time_out() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(engine.generate([5, 6], PAPER, 0, 120), 0.005)

    run(time_out())
    assert same(one(engine, [9, 9], PAPER, 5), expected)


def test_the_prefix_store_tells_a_hash_collision_from_a_match_and_stays_within_its_limit() -> None:
    def keep(store: PrefixStore, tokens: list[int]) -> None:
        store.keep(
            tokens, chain_hashes(tokens, []), len(tokens), lambda start, end: torch.zeros(1, 2, 1, end - start, 1)
        )

    store = PrefixStore(limit=8 * 10)  # 8 bytes a token
    keep(store, [1, 2, 3, 4])
    assert store.used == 32
    keep(store, [1, 2, 3, 5, 6])  # shares three tokens: two more are held
    assert store.used == 48
    assert store.find([1, 2, 3, 5, 9], chain_hashes([1, 2, 3, 5, 9], []), 5)[1] == 4
    collision = chain_hashes([1, 2, 3, 4], [])
    assert store.find([7, 7, 7, 7], collision, 4) == (None, 0)
    keep(store, [8, 8, 8, 8, 8])  # 11 tokens: the least recently used leaf goes, its parent stays
    assert store.used == 8 * (4 + 5)
    assert store.find([1, 2, 3, 4], chain_hashes([1, 2, 3, 4], []), 4)[1] == 4
    assert store.find([1, 2, 3, 5], chain_hashes([1, 2, 3, 5], []), 4)[1] == 3
    store.clear()
    assert (store.used, store.find([8], chain_hashes([8], []), 1)) == (0, (None, 0))
