"""Models and modes the engine must cope with: no slots, training mode, other attention, half precision, adapters."""

import warnings
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from transformers import AutoModelForCausalLM, Gemma3TextConfig, JambaConfig, LlamaConfig, MambaConfig, MistralConfig  # noqa: E402

from helpers.engine_models import (  # noqa: E402
    FAMILIES,
    PAPER,
    SHAPE,
    VOCAB,
    assert_matches_plain_forward,
    build,
    llama,
    many,
    one,
    prompts_of_lengths,
)
from ibtpo.engines.transformers import TransformersEngine  # noqa: E402

FALL_BACK = {
    "mistral with a sliding window": MistralConfig(**SHAPE, sliding_window=8),
    "gemma3": Gemma3TextConfig(**{**SHAPE, "head_dim": 16}, sliding_window=8, sliding_window_pattern=2),
    "mamba": MambaConfig(vocab_size=VOCAB, hidden_size=32, state_size=4, num_hidden_layers=2, pad_token_id=0),
    "jamba": JambaConfig(
        **SHAPE,
        attn_layer_period=2,
        attn_layer_offset=1,
        expert_layer_period=2,
        num_experts=2,
        num_experts_per_tok=1,
        mamba_d_state=4,
        mamba_dt_rank=4,
        use_mamba_kernels=False,
    ),
}


@pytest.mark.parametrize("family", FALL_BACK)
def test_a_model_that_slots_cannot_hold_falls_back_with_one_warning_and_is_right(family: str) -> None:
    model = build(FALL_BACK[family])
    engine = TransformersEngine(model, eos_token_ids=[2])
    requests = [(p, PAPER, i, 12) for i, p in enumerate(prompts_of_lengths([3, 14, 1]))]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        results = many(engine, requests) + many(engine, requests)
    ours = [str(warning.message) for warning in caught if "one at a time" in str(warning.message)]
    assert len(ours) == 1
    assert type(model).__name__ in ours[0]
    for request, result in zip(requests * 2, results, strict=True):
        assert result.cached_tokens == 0
        assert_matches_plain_forward(model, request[0], result, PAPER.temperature)
    assert [r.token_ids for r in results[:3]] == [r.token_ids for r in results[3:]]


def test_a_model_whose_logits_slots_would_change_is_found_out_and_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(FAMILIES["gemma"])
    forward = type(model.model).forward
    # As a model that ignores `position_ids` and counts from the cache would.
    monkeypatch.setattr(
        type(model.model),
        "forward",
        lambda self, *args, position_ids=None, **kwargs: forward(self, *args, position_ids=None, **kwargs),
    )
    engine = TransformersEngine(model, eos_token_ids=[])
    with pytest.warns(UserWarning, match="slots change its logits"):
        completion = one(engine, [5, 6, 7], PAPER)
    assert_matches_plain_forward(model, [5, 6, 7], completion, PAPER.temperature)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
def test_the_training_flags_and_gradients_are_as_if_the_engine_had_not_run() -> None:
    def gradients(generate: bool) -> list[Any]:
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(LlamaConfig(**SHAPE, attention_dropout=0.0))
        model.train()
        model.gradient_checkpointing_enable()
        model.model.layers[0].mlp.eval()  # frozen by its owner
        model.config.use_cache = False  # as trainers set it
        ids = torch.tensor([[5, 6, 7, 8]])
        loss = model(input_ids=ids, labels=ids).loss
        if generate:
            completion = one(TransformersEngine(model, eos_token_ids=[]), [5, 6, 7], PAPER)
            assert len(completion.token_ids) == 20
            assert model.training
            assert not model.model.layers[0].mlp.training
            assert model.model.layers[1].mlp.training
            assert model.model.gradient_checkpointing
            assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
        loss.backward()
        return [parameter.grad for parameter in model.parameters()]

    for left, right in zip(gradients(True), gradients(False), strict=True):
        assert torch.equal(left, right)


def test_dropout_is_off_in_rollouts_of_a_model_in_training_mode() -> None:
    model = build(LlamaConfig(**SHAPE, attention_dropout=0.5)).train()
    completion = one(TransformersEngine(model, eos_token_ids=[]), [5, 6, 7], PAPER)
    assert model.training
    assert_matches_plain_forward(model.eval(), [5, 6, 7], completion, PAPER.temperature)


@pytest.mark.parametrize("attention", ["eager", "flex_attention"])
def test_other_attention_implementations_work_and_stay_selected(attention: str) -> None:
    model = build(FAMILIES["llama"], attn_implementation=attention)
    engine = TransformersEngine(model, eos_token_ids=[])
    requests = [(p, PAPER, i, 12) for i, p in enumerate(prompts_of_lengths([3, 14, 1]))]
    results = many(engine, requests)
    assert model.config._attn_implementation == attention
    model.config._attn_implementation = "sdpa"
    for request, result in zip(requests, results, strict=True):
        assert_matches_plain_forward(model, request[0], result, PAPER.temperature)


def test_bfloat16_models_run_in_slots_with_float32_logprobs() -> None:
    model = llama().to(torch.bfloat16)
    engine = TransformersEngine(model, eos_token_ids=[])
    requests = [(p, PAPER, i, 12) for i, p in enumerate(prompts_of_lengths([3, 14, 1]))]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = many(engine, requests)
    for request, result in zip(requests, results, strict=True):
        assert_matches_plain_forward(model, request[0], result, PAPER.temperature, tolerance=0.3)


def test_a_float32_model_whose_forward_runs_under_autocast_is_run_in_slots() -> None:
    model = llama()
    model.forward = torch.autocast("cpu", torch.bfloat16)(model.forward)  # as mixed-precision trainers do
    requests = [(p, PAPER, i, 12) for i, p in enumerate(prompts_of_lengths([3, 14, 1]))]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = many(TransformersEngine(model, eos_token_ids=[]), requests)
    for request, result in zip(requests, results, strict=True):
        assert_matches_plain_forward(model, request[0], result, PAPER.temperature, tolerance=0.3)


def test_a_lora_wrapped_model_samples_with_its_adapter() -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    model = peft.get_peft_model(llama(), peft.LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, r=4))
    model.train()
    engine = TransformersEngine(model, eos_token_ids=[])
    prompt = prompts_of_lengths([9])[0]
    results = many(engine, [(prompt, PAPER, seed, 12) for seed in range(3)])
    assert model.training
    assert [result.cached_tokens for result in results] == [0, 8, 8]
    model.eval()
    for result in results:
        assert_matches_plain_forward(model, prompt, result, PAPER.temperature)
        with model.disable_adapter(), pytest.raises(AssertionError):
            assert_matches_plain_forward(model, prompt, result, PAPER.temperature)
