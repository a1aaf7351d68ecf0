"""The shared-prefix update: log-probs, loss and gradients against TRL's forward over every trajectory."""

import itertools
import warnings
from contextlib import nullcontext
from copy import deepcopy
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from datasets import Dataset  # noqa: E402
from transformers import (  # noqa: E402
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    JambaConfig,
    LlamaConfig,
    MistralConfig,
    Qwen3Config,
)
from trl import GRPOTrainer  # noqa: E402
from trl.trainer.utils import add_fused_lm_head  # noqa: E402

from helpers.engine_models import FAMILIES as ROTARY  # noqa: E402
from helpers.engine_models import SHAPE, VOCAB  # noqa: E402
from ibtpo.errors import ConfigError  # noqa: E402
from ibtpo.training.config import IBTPOConfig  # noqa: E402
from ibtpo.training.packed import PackedForward, agree, ancestor_mask, block_mask  # noqa: E402
from ibtpo.training.trainer import IBTPOTrainer  # noqa: E402
from ibtpo.training.trie import keep_together, lay_out, shared_positions, split  # noqa: E402

FAMILIES = {
    **{name: config for name, config in ROTARY.items() if name != "gpt2"},  # it counts positions from the padding
    "llama eager": LlamaConfig(**SHAPE, attn_implementation="eager"),
    "gemma2 in its window": Gemma2Config(**SHAPE, head_dim=16, sliding_window=64, attn_implementation="eager"),
}
# What is used of accelerate; a real one shares its state with every other of the process.
ACCELERATOR = SimpleNamespace(
    num_processes=1, mixed_precision="no", autocast=nullcontext, unwrap_model=lambda model: model
)


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def build(config: Any, temperature: float = 1.0, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(deepcopy(config))
    add_fused_lm_head(model, temperature=temperature, outputs=("log_probs", "entropy"))
    return model


def plain(*args: Any, **kwargs: Any) -> Any:
    """TRL's own method, as the trainer has it."""
    method = GRPOTrainer._get_per_token_logps_and_entropies.__wrapped__
    return method(SimpleNamespace(accelerator=ACCELERATOR), *args, **kwargs)


def packer(max_tokens: int = 8192) -> PackedForward:
    return PackedForward(max_tokens, ACCELERATOR)


def pad(prompts: list[list[int]], completions: list[list[int]]) -> tuple[Any, Any, int]:
    p, c = max(map(len, prompts)), max(map(len, completions))
    ids = [[0] * (p - len(a)) + a + b + [0] * (c - len(b)) for a, b in zip(prompts, completions, strict=True)]
    mask = [
        [0] * (p - len(a)) + [1] * (len(a) + len(b)) + [0] * (c - len(b))
        for a, b in zip(prompts, completions, strict=True)
    ]
    return torch.tensor(ids), torch.tensor(mask), c


def random_batch(seed: int, rows: int = 14) -> tuple[Any, Any, int]:
    """Random trees over three prompts of different length, one the start of another; shuffled rows. Among them are
    answers drawn twice, answers of one token, and one that is masked out of the loss."""
    rng = np.random.default_rng(seed)
    prompts = [rng.integers(3, VOCAB, n).tolist() for n in (4, 9)]
    prompts.append(prompts[1] + [7])
    pairs: list[tuple[list[int], list[int]]] = []
    for _ in range(rows - 4):
        own = [c for p, c in pairs if p == prompts[len(pairs) % 3]]
        stem = own[rng.integers(len(own))] if own else []
        stem = stem[: rng.integers(len(stem) + 1)]
        pairs.append((prompts[len(pairs) % 3], stem + rng.integers(3, VOCAB, rng.integers(1, 12)).tolist()))
    pairs += [pairs[0], pairs[0], (prompts[1], [5]), (prompts[2], [])]
    rng.shuffle(pairs)
    return pad([p for p, _ in pairs], [c for _, c in pairs])


def loss_of(result: Any, mask: Any, seed: int = 0) -> Any:
    """A loss like TRL's: a weight for each token and trajectory, a term that is not linear, and entropies."""
    logps, entropies, _ = result
    weights = torch.randn(logps.shape, generator=torch.Generator().manual_seed(seed))
    per_token = weights * logps + 0.1 * (torch.exp(0.1 * logps) - 0.1 * logps)
    if entropies is not None:
        per_token = per_token + 0.3 * weights * entropies
    return ((per_token * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()


def gradients(model: Any, loss: Any) -> dict[str, Any]:
    model.zero_grad()
    loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_same_update(model: Any, batch: tuple[Any, Any, int], forward: PackedForward, **options: Any) -> None:
    ids, attention, keep = batch
    mask = attention[:, -keep:]
    options = {"compute_entropy": True, **options}
    expected = plain(model, ids, attention, keep, **options)
    found = forward(plain, model, ids, attention, keep, **options)
    for a, b in zip(found[:2], expected[:2], strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    ours, theirs = loss_of(found, mask), loss_of(expected, mask)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    after, before = gradients(model, ours), gradients(model, theirs)
    assert after.keys() == before.keys()
    for name, gradient in before.items():
        torch.testing.assert_close(after[name], gradient, atol=1e-5, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    assert max(g.abs().max() for g in before.values()) > 1e-2


@pytest.fixture
def quiet() -> Any:
    """No fall-back happens: it would warn."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="the shared-prefix update")
        yield


def arrays(rows: list[list[int]]) -> list[Any]:
    return [np.array(row) for row in rows]


def test_the_layout_of_a_small_trie_is_the_one_written_by_hand() -> None:
    rows = arrays([[5, 6, 7, 8], [5, 6, 7, 8], [5, 6, 7, 9], [5, 6, 9], [8, 3]])
    assert shared_positions(rows) == [0, 3, 2, 1, 0]
    layout = lay_out(rows, [2, 2, 2, 2, 1])
    #                         5->6  6->7  7->8  7->9  6->9  8->3
    assert layout.input_ids.tolist() == [5, 6, 7, 7, 6, 8]
    assert layout.labels.tolist() == [-100, 7, 8, 9, 9, 3]
    assert layout.position_ids.tolist() == [0, 1, 2, 2, 1, 0]
    assert layout.end.tolist() == [5, 4, 3, 4, 5, 6]
    assert [p.tolist() for p in layout.paths] == [[0, 1, 2], [0, 1, 2], [0, 1, 3], [0, 4], [5]]


def test_a_position_sees_itself_and_its_ancestors() -> None:
    layout = lay_out(arrays([[5, 6, 7, 8], [5, 6, 7, 9], [5, 6, 9], [8, 3]]), [2, 2, 2, 1])
    mask = ancestor_mask(layout.end, torch.float32, torch.device("cpu"))[0, 0]
    seen = [row.nonzero()[:, 0].tolist() for row in mask == 0]
    assert seen == [[0], [0, 1], [0, 1, 2], [0, 1, 3], [0, 4], [5]]
    assert mask.min() == torch.finfo(torch.float32).min


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_every_gradient_are_those_of_the_trajectories(family: str, quiet: Any) -> None:
    model = build(FAMILIES[family], temperature=0.7)
    for seed in range(3):
        assert_same_update(model, random_batch(seed), packer())


def test_every_random_trie_gives_the_gradients_of_its_trajectories(quiet: Any) -> None:
    model = build(FAMILIES["llama"])
    for seed in range(20):
        assert_same_update(model, random_batch(seed, rows=5 + seed), packer())


@pytest.mark.parametrize("max_tokens", [1, 12, 30, 1000])
def test_the_limit_on_tokens_splits_trees_and_changes_nothing_else(max_tokens: int, quiet: Any) -> None:
    model = build(FAMILIES["llama"], temperature=0.7)
    sizes = []
    inner = model.model.forward
    model.model.forward = lambda *a, **k: (sizes.append(k["input_ids"].shape), inner(*a, **k))[1]
    batch = random_batch(1, rows=30)
    forward = packer(max_tokens)
    forward.plan = lambda model, rows, *_: split(rows, max_tokens, 1e9)[0]  # also where TRL's would be cheaper
    assert_same_update(model, batch, forward)
    packed = [n for rows, n in sizes if rows == 1]
    longest = int(batch[1].sum(1).max())
    assert max(packed) <= max(max_tokens, longest)
    assert (len(packed) > 2) == (max_tokens < 1000)


def test_splitting_takes_the_cheapest_of_all_ways() -> None:
    rng = np.random.default_rng(0)
    for _ in range(10):
        rows = [[1] * 10 + rng.integers(1, 3, rng.integers(2, 15)).tolist() for _ in range(6)]
        rows = arrays(sorted(rows))
        costs = {}
        for cuts in itertools.product([False, True], repeat=5):
            edges = [0, *(i + 1 for i, cut in enumerate(cuts) if cut), 6]
            parts = [range(a, b) for a, b in itertools.pairwise(edges)]
            sizes = [len(lay_out(rows[p.start : p.stop], [1] * len(p)).end) for p in parts]
            if all(n <= 40 or len(p) == 1 for n, p in zip(sizes, parts, strict=True)):
                costs[tuple(parts)] = sum(64 + n + n * n / 20 for n in sizes)
        parts, cost = split(rows, 40, 20)
        assert cost == pytest.approx(min(costs.values()))
        assert costs[tuple(parts)] == pytest.approx(cost)


def test_entropies_are_left_out_unless_asked_for(quiet: Any) -> None:
    model = build(FAMILIES["llama"])
    ids, mask, keep = random_batch(0)
    assert packer()(plain, model, ids, mask, keep)[1] is None
    assert_same_update(model, (ids, mask, keep), packer(), compute_entropy=False)


def test_rows_may_be_taken_a_few_at_a_time_as_trl_does(quiet: Any) -> None:
    assert_same_update(build(FAMILIES["llama"]), random_batch(0, rows=30), packer(), batch_size=7)


def test_a_batch_whose_answers_are_all_masked_out_gives_zeros_one_can_differentiate(quiet: Any) -> None:
    model = build(FAMILIES["llama"])
    ids, mask, keep = pad([[5, 6, 7, 8] * 10] * 20, [[9, 4]] * 20)
    mask[:, -keep:] = 0
    forward = packer()
    logps, entropies, _ = forward(plain, model, ids, mask, keep, compute_entropy=True)
    assert forward.computed == 40 / (20 * 42)  # it was packed
    assert not logps.any()
    assert not entropies.any()
    loss = (logps + entropies).sum()
    loss.backward()
    assert all(not p.grad.any() for p in model.parameters())


def test_a_shared_token_is_computed_once() -> None:
    model = build(FAMILIES["llama"])
    prompt = list(range(3, 33))
    batch = pad([prompt] * 12, [[3, 4, 5 + i] for i in range(12)])
    forward = packer()
    forward(plain, model, *batch)
    # 29 of the prompt, its last token, the first answer token, and the second once for each of the 12 that follow it
    assert forward.computed * batch[0].numel() == pytest.approx(29 + 1 + 1 + 12)


def test_rows_that_share_nothing_go_through_trls_forward(quiet: Any) -> None:
    model = build(FAMILIES["llama"])
    rows = np.random.default_rng(0).integers(3, VOCAB, (8, 60)).tolist()
    rows = [[i + 3, *row] for i, row in enumerate(rows)]
    forward = packer()
    assert_same_update(model, pad([r[:20] for r in rows], [r[20:] for r in rows]), forward)
    assert forward.computed == 1.0


def test_lora_gradients_are_those_of_the_trajectories(quiet: Any) -> None:
    from peft import LoraConfig, get_peft_model

    base = build(FAMILIES["llama"], temperature=0.7)
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    model = get_peft_model(base, config)
    assert_same_update(model, random_batch(0), packer())
    model.zero_grad()
    ids, mask, keep = random_batch(0)
    loss_of(packer()(plain, model, ids, mask, keep), mask[:, -keep:]).backward()
    assert all(("lora" in n) == (p.grad is not None) for n, p in model.named_parameters())


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_nothing(reentrant: bool, quiet: Any) -> None:
    model = build(FAMILIES["llama"]).train()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    assert_same_update(model, random_batch(0), packer())


def test_bfloat16_is_as_close_as_bfloat16_is(quiet: Any) -> None:
    exact, rounded = build(FAMILIES["llama"]), build(FAMILIES["llama"]).to(torch.bfloat16)
    ids, mask, keep = random_batch(0)
    expected = plain(exact, ids, mask, keep)[0]
    theirs = (plain(rounded, ids, mask, keep)[0] - expected).abs().mean()
    ours = (packer()(plain, rounded, ids, mask, keep)[0] - expected).abs().mean()
    assert ours < 2 * theirs


def fallen_back(model: Any, batch: tuple[Any, Any, int], message: str, **options: Any) -> PackedForward:
    """Asserts that three calls give TRL's values and one warning, and that no packed forward is tried again."""
    forward = packer()
    expected = plain(model, *batch, compute_entropy=True)

    def call_three_times() -> Any:
        return [forward(plain, model, *batch, compute_entropy=True, **options) for _ in range(3)][-1]

    with pytest.warns(UserWarning, match=message) as caught:
        found = call_three_times()
    assert len([w for w in caught if "shared-prefix" in str(w.message)]) == 1
    for a, b in zip(found[:2], expected[:2], strict=True):
        assert torch.equal(a, b)
    return forward


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_ignores_the_mask_falls_back_with_one_warning(dtype: Any) -> None:
    model = build(FAMILIES["llama"]).to(dtype)
    inner = model.model.forward
    model.model.forward = lambda *a, attention_mask=None, **k: inner(*a, **k)
    forward = fallen_back(model, random_batch(0), r"its log-probs differ from the trajectories' own \(by")
    assert forward.disabled is not None


def test_a_model_that_ignores_positions_falls_back_with_one_warning() -> None:
    model = build(FAMILIES["llama"])
    inner = model.model.forward
    model.model.forward = lambda *a, position_ids=None, **k: inner(*a, **k)
    fallen_back(model, random_batch(0), "its log-probs differ")


def test_a_model_that_takes_no_such_mask_falls_back_with_one_warning() -> None:
    model = build(FAMILIES["llama"])
    inner = model.model.forward

    def strict(*args: Any, attention_mask: Any, **kwargs: Any) -> Any:
        if attention_mask.ndim != 2:
            raise ValueError("only masks of two dimensions")
        return inner(*args, attention_mask=attention_mask, **kwargs)

    model.model.forward = strict
    fallen_back(model, random_batch(0), "it failed .ValueError: only masks of two dimensions")


def test_entropies_alone_that_differ_are_noticed() -> None:
    model = build(FAMILIES["llama"])
    inner = model.forward

    def wrong(**kwargs: Any) -> Any:
        output = inner(**kwargs)
        if "shift_labels" in kwargs:
            output.entropy = output.entropy + 0.01
        return output

    model.forward = wrong
    fallen_back(model, random_batch(0), "its entropies differ")


def test_answers_longer_than_a_sliding_window_are_left_to_trl() -> None:
    for config in (
        MistralConfig(**SHAPE, sliding_window=8),
        Qwen3Config(**SHAPE, head_dim=16, use_sliding_window=True, sliding_window=8, max_window_layers=1),
    ):
        forward = fallen_back(build(config), random_batch(0), r"longer than its attention window \(8\)")
        assert forward.disabled is None  # shorter ones can still share
        prompt = [3, 4, 5, 6]
        short = pad([prompt] * 40, [[7 + i // 8, 8 + i % 8] for i in range(40)])
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="the shared-prefix update")
            assert_same_update(build(config), short, forward)
        assert forward.computed < 0.5


def test_layers_that_carry_a_state_along_the_sequence_are_left_to_trl() -> None:
    shape = {**SHAPE, "num_hidden_layers": 2, "attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 1}
    model = build(JambaConfig(**shape, use_mamba_kernels=False))
    fallen_back(model, random_batch(0), r"layers of type|its log-probs differ|it failed")


def test_absolute_positions_that_trl_counts_from_the_padding_are_noticed() -> None:
    config = GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=128, initializer_range=0.3)
    model = build(config).eval()
    fallen_back(model, random_batch(0), "its log-probs differ")


def test_prompt_tuning_and_unknown_inputs_are_left_to_trl() -> None:
    from peft import PromptTuningConfig, get_peft_model

    model = get_peft_model(build(FAMILIES["llama"]), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    forward = packer()
    with pytest.warns(UserWarning, match="prompt-learning"):
        forward(lambda *_, **__: (torch.zeros(1), None, None), model, *random_batch(0))
    batch = random_batch(0)
    fallen_back(build(FAMILIES["llama"]), batch, "does not handle token_type_ids", token_type_ids=batch[0] * 0)


@pytest.fixture
def flex_trains(monkeypatch: Any) -> Any:
    """FlexAttention's unfused implementation, let to differentiate on a CPU, which only its fused kernels cannot."""
    from torch.nn.attention import flex_attention

    monkeypatch.setattr(flex_attention, "_validate_device", lambda *_: None)
    with torch.compiler.set_stance("force_eager"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
        yield


@pytest.mark.thorough
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_flex_attention_gives_the_gradients_of_the_trajectories(family: str, quiet: Any, flex_trains: Any) -> None:
    config = deepcopy(FAMILIES[family])
    config._attn_implementation = "flex_attention"
    model = build(config, temperature=0.7)
    for seed in range(3):
        assert_same_update(model, random_batch(seed), forward := packer())
    assert forward.computed < 0.8


def test_flex_attention_skips_blocks_that_do_not_see_each_other() -> None:
    stem = list(range(100))
    rows = arrays([stem + [100 + i] * 300 for i in range(4)])
    layout = lay_out(rows, [1] * 4)
    blocks = block_mask(layout.end, torch.device("cpu"))
    assert blocks.shape[-2:] == (len(layout.end),) * 2
    dense = ancestor_mask(layout.end, torch.float32, torch.device("cpu")) == 0
    size = 128
    for query in range(0, len(layout.end), size):
        part = dense[0, 0, query : query + size]
        wanted = [k // size for k in range(0, len(layout.end), size) if part[:, k : k + size].any()]
        kept = [*_blocks(blocks.kv_num_blocks, blocks.kv_indices, query // size)]
        kept += _blocks(blocks.full_kv_num_blocks, blocks.full_kv_indices, query // size)
        assert sorted(kept) == wanted
    assert blocks.sparsity() > 60  # a causal mask of ten blocks: 45


def _blocks(counts: Any, indices: Any, row: int) -> list[int]:
    return indices[0, 0, row, : counts[0, 0, row]].tolist()


@pytest.mark.thorough
def test_flex_attention_compiled_gives_the_log_probs_of_the_trajectories(quiet: Any) -> None:
    config = deepcopy(FAMILIES["llama"])
    config._attn_implementation = "flex_attention"
    flex, sdpa = build(config), build(FAMILIES["llama"])
    batch = random_batch(0)
    with torch.no_grad():
        found = packer()(plain, flex, *batch)[0]
        torch.testing.assert_close(found, plain(sdpa, *batch)[0], atol=1e-5, rtol=1e-5)


def test_attention_that_takes_no_such_mask_is_left_to_trl() -> None:
    model = build(FAMILIES["llama"])
    model.config._attn_implementation = "flash_attention_2"
    with pytest.warns(UserWarning, match="attention 'flash_attention_2' takes no mask"):
        packer()(lambda *_, **__: (torch.zeros(1), None, None), model, *random_batch(0))


def test_every_process_makes_as_many_forwards() -> None:
    def agreed(parts: Any, *others: int) -> Any:
        accelerator = SimpleNamespace(
            num_processes=1 + len(others), device="cpu", gather=lambda t: torch.cat([t, torch.tensor(others)])
        )
        return agree(parts, accelerator)

    found = agreed([range(0, 6), range(6, 8)], 4)
    assert len(found) == 4
    assert [i for part in found for i in part] == list(range(8))
    assert agreed([range(0, 6), range(6, 8)], 1) == [range(0, 6), range(6, 8)]
    assert agreed([range(0, 6), range(6, 8)], 0) is None  # another process uses TRL's forward
    assert agreed(None, 3) is None


def test_each_model_is_compared_once_with_or_without_gradients(quiet: Any) -> None:
    forward, batch, compared = packer(), random_batch(0), []

    def counted(model: Any, *args: Any, **options: Any) -> Any:
        compared.append(model)
        return plain(model, *args, **options)

    first, second = (build(FAMILIES["llama"]) for _ in range(2))
    for model in (first, first, second):
        forward(counted, model, *batch)
        with torch.no_grad():
            forward(counted, model, *batch)
    assert compared == [first, second]


def test_dropout_does_not_set_off_the_comparison(quiet: Any) -> None:
    model = build(LlamaConfig(**SHAPE, attention_dropout=0.5)).train()
    forward = packer()
    forward(plain, model, *random_batch(0))
    assert forward.computed < 1
    assert model.training


# --- in the trainer ------------------------------------------------------------------------------------------------

PROMPTS = Dataset.from_list([{"prompt": "abc"[i % 3] + "defg"[i % 4] + "hij" * 3} for i in range(12)])


def more_a_than_b(prompts: Any, completions: Any, **kwargs: Any) -> list[float]:
    return [float(c.count("a") > c.count("b")) for c in completions]


def train(model: Any, folder: Any, cls: Any = IBTPOTrainer, **options: Any) -> Any:
    defaults = {
        "per_device_train_batch_size": 24,
        "max_completion_length": 24,
        "max_steps": 2,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "optim": "sgd",  # its step is the gradient: Adam would blow up rounding where there is none
        "temperature": 0.9,
        "top_p": 1.0,
        "top_k": 0,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "save_trees_every": 0,
    }
    trainer = cls(str(model), more_a_than_b, IBTPOConfig(output_dir=str(folder), **{**defaults, **options}), PROMPTS)
    trainer.train()
    return trainer


def logged(trainer: Any, key: str) -> list[float]:
    return [row[key] for row in trainer.state.log_history if key in row]


class Recording(IBTPOTrainer):
    """Keeps the share of positions each gradient forward computed, and its prompts."""

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        result = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        if torch.is_grad_enabled() and self._packed:
            self.ratios = [*getattr(self, "ratios", []), self._packed.computed]
        return result

    def _compute_loss(self, model: Any, inputs: Any) -> Any:
        self.prompts = [*getattr(self, "prompts", []), inputs["prompt_ids"].tolist()]
        return super()._compute_loss(model, inputs)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"branching": "independent", "advantage": "grpo", "regularizer": "entropy_bonus", "regularizer_coef": 0.1},
        {"regularizer": "ibro", "num_iterations": 2, "gradient_checkpointing": False},
        {"packed_tokens": 60, "loss_type": "dapo", "per_device_train_batch_size": 6, "gradient_accumulation_steps": 4},
    ],
)
def test_a_training_run_has_the_losses_and_weights_of_one_without_sharing(
    tiny_model: Any, tmp_path: Any, quiet: Any, options: dict[str, Any]
) -> None:
    shared = train(tiny_model, tmp_path, Recording, **options)
    alone = train(tiny_model, tmp_path, **{**options, "packed_tokens": 0})
    assert min(shared.ratios) < 0.7
    # TRL logs means over micro-batches of means over tokens, and what is in a micro-batch differs.
    for key in ("loss", "grad_norm", *(("kl", "entropy") if len(options) < 4 else ())):
        np.testing.assert_allclose(logged(shared, key), logged(alone, key), rtol=1e-4, atol=1e-6)
    for (name, a), b in zip(shared.model.named_parameters(), alone.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.thorough
def test_micro_batches_smaller_than_a_tree_keep_its_rows_together(tiny_model: Any, tmp_path: Any) -> None:
    whole = train(tiny_model, tmp_path, Recording, per_device_train_batch_size=12, gradient_accumulation_steps=2)
    halves = train(tiny_model, tmp_path, Recording, per_device_train_batch_size=6, gradient_accumulation_steps=4)
    for trainer, rows in ((whole, 12), (halves, 6)):
        assert all(len(prompts) == rows and len({tuple(p) for p in prompts}) == 1 for prompts in trainer.prompts)
    np.testing.assert_allclose(logged(whole, "loss"), logged(halves, "loss"), atol=1e-5)


def test_rows_kept_together_are_as_likely_to_be_anywhere_as_before() -> None:
    rows = [[1, 5], [1, 6], [2, 5], [2, 7]]
    places = np.zeros((4, 4), dtype=int)
    for permutation in itertools.permutations(range(4)):
        order = keep_together([rows[i] for i in permutation], [1] * 4)
        assert sorted(order) == [0, 1, 2, 3]
        result = [permutation[i] for i in order]
        assert rows[result[0]][0] == rows[result[1]][0]
        for place, row in enumerate(result):
            places[row, place] += 1
    assert (places == 6).all()


def test_a_negative_limit_is_refused(tmp_path: Any) -> None:
    with pytest.raises(ConfigError, match="packed_tokens must be a number and at least 0, got -1"):
        IBTPOConfig(output_dir=str(tmp_path), packed_tokens=-1)
