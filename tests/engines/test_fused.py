"""The fused forward: transformers' own logits for every family it takes, never stale, and nothing else's business."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from transformers import LlamaConfig, Qwen2Config  # noqa: E402

from helpers.engine_models import (  # noqa: E402
    FAMILIES,
    PAPER,
    SHAPE,
    VOCAB,
    assert_an_optimizer_step_is_noticed,
    assert_matches_plain_forward,
    build,
    llama,
    one,
)
from ibtpo.engines.fused import MODEL_TYPES, FusedForward  # noqa: E402
from ibtpo.engines.kv import SlotCache  # noqa: E402
from ibtpo.engines.transformers import TransformersEngine  # noqa: E402

WIDE = {**SHAPE, "hidden_size": 128, "intermediate_size": 1024}  # above the threshold for packing
ODD = LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True, tie_word_embeddings=True, hidden_act="gelu")
STRETCHED = LlamaConfig(**SHAPE, rope_parameters={"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0})


def configurations() -> list[Any]:
    named = [pytest.param(FAMILIES[name], id=name) for name in sorted(MODEL_TYPES)]
    return [
        *named,
        pytest.param(ODD, id="biases, tied, gelu"),
        pytest.param(STRETCHED, id="yarn"),
        pytest.param(LlamaConfig(**WIDE), id="packed"),
        pytest.param(Qwen2Config(**WIDE), id="packed with biases"),
    ]


@pytest.mark.parametrize("config", configurations())
def test_logits_are_transformers_own(config: Any) -> None:
    """Two rows of a prefill and one decode step behind it, in slots whose other contents are masked garbage."""
    model = build(config)
    assert FusedForward.fits(model)
    fused = FusedForward(model)
    heads, size = config.num_key_value_heads, model.model.layers[0].self_attn.head_dim
    cache = SlotCache(layers=2, heads=heads, head_dim=size, dtype=torch.float32, device=torch.device("cpu"), max_rows=3)
    cache.reserve(3, 32)
    cache.kv.normal_()
    ids = torch.randint(3, VOCAB, (2, 8), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(input_ids=ids).logits
        for low, high in ((0, 7), (7, 8)):
            positions = torch.arange(low, high).expand(2, -1)
            mask = torch.where(torch.arange(32) <= positions[:, None, :, None], 0.0, torch.finfo(torch.float32).min)
            cache.window(1, positions, 32)
            found = fused(ids[:, low:high], positions, mask, cache)
            torch.testing.assert_close(found, expected[:, high - 1], atol=2e-5, rtol=2e-5)


def test_an_engine_uses_it_and_an_optimizer_step_is_noticed() -> None:
    model = llama()
    engine = TransformersEngine(model, eos_token_ids=[])
    assert_an_optimizer_step_is_noticed(model, engine)
    assert engine._fused is not None
    assert len(engine._fused._layers) == 2
    engine.reset_cache()
    assert not engine._fused._layers


def test_a_hook_set_while_the_engine_rests_is_obeyed_and_may_go_again() -> None:
    model = llama()
    engine = TransformersEngine(model, eos_token_ids=[])
    expected = one(engine, [5, 6, 7], PAPER)
    hook = model.model.layers[0].mlp.register_forward_hook(lambda module, args, output: output * 0)
    hooked = one(engine, [5, 6, 7], PAPER)
    assert engine._fused is None
    assert hooked.logprobs != expected.logprobs
    assert_matches_plain_forward(model, [5, 6, 7], hooked, PAPER.temperature)
    hook.remove()
    again = one(engine, [5, 6, 7], PAPER)
    assert engine._fused is not None
    assert (again.token_ids, again.logprobs) == (expected.token_ids, expected.logprobs)


def test_other_logits_than_the_models_switch_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    model = llama()
    model.model.layers[0].self_attn.scaling *= 2  # read by both
    monkeypatch.setattr("ibtpo.engines.fused.silu", torch.sigmoid)  # and this by one
    completion = one(TransformersEngine(model, eos_token_ids=[]), [5, 6, 7], PAPER)
    assert_matches_plain_forward(model, [5, 6, 7], completion, PAPER.temperature)


def test_a_model_too_large_for_a_second_copy_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    size = sum(p.nbytes for p in llama().parameters())
    monkeypatch.setattr("ibtpo.engines.fused.MOST_BYTES", size)
    assert FusedForward.fits(llama())
    monkeypatch.setattr("ibtpo.engines.fused.MOST_BYTES", size - 1)
    assert not FusedForward.fits(llama())


def test_the_patch_of_trls_trainer_fits_and_one_of_the_users_does_not() -> None:
    trl_utils = pytest.importorskip("trl.trainer.utils")
    model = llama()
    expected = one(TransformersEngine(model, eos_token_ids=[]), [5, 6, 7], PAPER)
    trl_utils.add_fused_lm_head(model)
    engine = TransformersEngine(model, eos_token_ids=[])
    found = one(engine, [5, 6, 7], PAPER)
    assert engine._fused is not None
    assert (found.token_ids, found.logprobs) == (expected.token_ids, expected.logprobs)
    model.forward = model.forward  # TRL's still, set by another
    assert FusedForward.fits(model)
    model.forward = lambda *args, **kwargs: type(model).forward(model, *args, **kwargs)
    assert not FusedForward.fits(model)


def test_the_hook_of_gradient_checkpointing_fits_and_any_beside_it_does_not() -> None:
    model = llama()
    model.gradient_checkpointing_enable()
    model.enable_input_require_grads()
    assert model.get_input_embeddings()._forward_hooks
    assert FusedForward.fits(model)
    hook = model.get_input_embeddings().register_forward_hook(lambda module, args, output: output * 0)
    assert not FusedForward.fits(model)
    hook.remove()
    assert FusedForward.fits(model)


def test_what_is_not_plain_does_not_fit() -> None:
    assert not FusedForward.fits(build(FAMILIES["gemma"]))
    assert not FusedForward.fits(build(FAMILIES["smollm3"]))
    assert not FusedForward.fits(build(FAMILIES["gpt2"]))
    assert not FusedForward.fits(llama().bfloat16())
    patched = llama()
    patched.model.norm.forward = patched.model.norm.forward
    assert not FusedForward.fits(patched)
    peft = pytest.importorskip("peft")
    adapted = llama()
    assert not FusedForward.fits(peft.get_peft_model(adapted, peft.LoraConfig(target_modules=["q_proj"])))
    assert not FusedForward.fits(adapted)
