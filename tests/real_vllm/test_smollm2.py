"""SmolLM2-135M through the `vllm` engine: a real tokenizer and chat template, bfloat16 told apart from float32."""

import asyncio
import time

import pytest
import torch

from ibtpo.engines.models import resolve_model
from ibtpo.engines.vllm import VLLMEngine, open_llm
from ibtpo.errors import DependencyError
from ibtpo.search import Budget, Prompt, SearchOptions, TreeSearch
from real_vllm.reference import SAMPLING, LengthReward, Reference

QUESTIONS = ("What is 17 + 25?", "Name three prime numbers.", "Why is the sky blue?", "Write a haiku about trees.")


def test_trees_of_chat_prompts_have_the_trainers_logprobs() -> None:
    try:
        reference = Reference("smollm2-135m")
    except DependencyError as e:
        pytest.skip(str(e))
    llm = open_llm(resolve_model("smollm2-135m"), max_batch_size=16, kv_memory_gb=1.0, enforce_eager=True)
    engine = VLLMEngine(llm, eos_token_ids=reference.ends)
    prompts = []
    for question in QUESTIONS:
        text = reference.tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
        )
        prompts.append(Prompt(question, tuple(reference.tokenizer(text)["input_ids"]), text))
    options = SearchOptions(
        budget=Budget(4, 5), sampling=SAMPLING, max_completion_length=96, splitter="sentence", seed=1
    )
    search = TreeSearch(engine, LengthReward(), lambda ids: reference.tokenizer.decode(ids), options)
    began = time.monotonic()
    trees = asyncio.run(search.grow_all(prompts))
    seconds = time.monotonic() - began
    gaps = []
    for tree in trees:
        for i in range(len(tree.leaves)):
            expected = reference.logprobs(tree.prompt_ids, tree.completion_ids(i), SAMPLING.temperature)
            gaps.append(float((expected - torch.tensor(tree.completion_logprobs(i))).abs().max()))
    print(
        f"max gap {max(gaps):.2e}, {engine.generated_tokens} tokens in {seconds:.1f} s = "
        f"{engine.generated_tokens / seconds:.0f} tokens/s, {engine.cached_tokens} cached, "
        f"{engine.prefilled_tokens} prefilled"
    )
    assert max(gaps) < 1e-3
    assert engine.cached_tokens > engine.prefilled_tokens
