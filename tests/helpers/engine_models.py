"""Tiny random models of the supported families, and how the engine tests ask for rollouts of them.

The prompts are token ids, since these models have no tokenizer.
"""

import asyncio
from collections.abc import Coroutine
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

from ibtpo.engines import Completion, Sampling
from ibtpo.engines.transformers import TransformersEngine

VOCAB = 60
GREEDY = Sampling(temperature=1, top_p=1, top_k=1)  # always the most probable token
PAPER = Sampling()  # the defaults, which are the paper's settings
FULL = Sampling(temperature=1.3, top_p=1, top_k=0)  # any token of the vocabulary can be drawn
SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "initializer_range": 0.3,  # large enough that a wrong key or position changes the log-probabilities visibly
}
FAMILIES = {
    "llama": LlamaConfig(**SHAPE),
    "qwen2": Qwen2Config(**SHAPE),
    "qwen3": Qwen3Config(**SHAPE, head_dim=16),
    "mistral": MistralConfig(**SHAPE, sliding_window=None),
    "gemma": GemmaConfig(**{**SHAPE, "num_key_value_heads": 1}, head_dim=16),
    "smollm3": SmolLM3Config(**SHAPE, no_rope_layers=[1, 0], use_sliding_window=False),
    "gpt2": GPT2Config(
        vocab_size=VOCAB,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=128,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        initializer_range=0.3,
    ),
}


def build(config: Any, **kwargs: Any) -> Any:
    """A model of this configuration with random weights, the same in every call."""
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(deepcopy(config), **kwargs).eval()  # a model changes its configuration


def llama() -> Any:
    """The random Llama that most tests use."""
    return build(FAMILIES["llama"])


def prompts_of_lengths(lengths: list[int]) -> list[list[int]]:
    """Random prompts, one for each of the given lengths in tokens, the same in every call."""
    generator = np.random.default_rng(5)
    return [generator.integers(3, VOCAB, length).tolist() for length in lengths]


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Runs a coroutine in an event loop of its own, for at most a minute: a test fails rather than hangs."""
    return asyncio.run(asyncio.wait_for(coroutine, 60))


def one(engine: TransformersEngine, prompt: list[int], sampling: Sampling, seed: int = 0, n: int = 20) -> Completion:
    """The completion of one request. n: the most new tokens."""
    return run(engine.generate(prompt, sampling, seed, n))


def many(engine: TransformersEngine, requests: list[tuple[list[int], Sampling, int, int]]) -> list[Completion]:
    """The completions of requests made at the same time, each as (prompt, sampling, seed, most new tokens)."""

    async def gather() -> list[Completion]:
        return await asyncio.gather(*(engine.generate(*request) for request in requests))

    return run(gather())


def assert_matches_plain_forward(
    model: Any, prompt: list[int], completion: Completion, temperature: float, tolerance: float = 1e-4
) -> None:
    """Checks a completion's log-probabilities and entropies against one forward pass of the model without a cache.

    temperature: the one the completion was drawn at.
    tolerance: the largest difference allowed, in nats.
    """
    ids = torch.tensor([prompt + completion.token_ids])
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
    logprobs = (logits / temperature).log_softmax(-1)
    taken = logprobs.gather(-1, torch.tensor(completion.token_ids)[:, None])[:, 0]
    assert np.allclose(completion.logprobs, taken.numpy(), atol=tolerance)
    assert completion.entropies is not None
    assert np.allclose(completion.entropies, -(logprobs.exp() * logprobs).sum(-1).numpy(), atol=tolerance)


def assert_an_optimizer_step_is_noticed(model: Any, engine: TransformersEngine) -> None:
    """Checks that the engine's log-probabilities are the model's before and after an optimiser step.

    `reset_cache` is not called in between: the engine must notice by itself that the weights have changed.
    """
    before = one(engine, [5, 6, 7], PAPER)
    assert_matches_plain_forward(model, [5, 6, 7], before, PAPER.temperature)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    model(input_ids=torch.tensor([[5, 6, 7, 8]]), labels=torch.tensor([[5, 6, 7, 8]])).loss.backward()
    optimizer.step()
    after = one(engine, [5, 6, 7], PAPER)
    assert after.logprobs != before.logprobs
    assert_matches_plain_forward(model, [5, 6, 7], after, PAPER.temperature)


def same(left: Completion, right: Completion) -> bool:
    """Whether two completions have the same tokens and end, and the same log-probabilities but for rounding."""
    return (
        left.token_ids == right.token_ids
        and left.stop_reason == right.stop_reason
        and np.allclose(left.logprobs, right.logprobs, atol=1e-4)
    )
