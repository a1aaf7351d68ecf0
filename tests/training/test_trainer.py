"""The trainer on a tiny random model: losses, advantages and logs against values computed another way."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from helpers import own_engine
from helpers.training import QUIET
from ibtpo.branching import ADAPTIVE, BRANCHING
from ibtpo.credit import ADVANTAGES, CreditOptions, path_advantages, token_advantages
from ibtpo.engines.transformers import TransformersEngine
from ibtpo.errors import ConfigError, VerifierError
from ibtpo.training.config import IBTPOConfig
from ibtpo.training.methods import METHODS
from ibtpo.training.regularizers import ibro_term
from ibtpo.training.trainer import IBTPOTrainer

PROMPTS = Dataset.from_list([{"prompt": "abc"[i % 3] + "defg"[i % 4]} for i in range(12)])


def more_a_than_b(prompts, completions, **kwargs):
    return [float(c.count("a") > c.count("b")) for c in completions]


def share_of_a(prompts, completions, **kwargs):
    return [c.count("a") / max(len(c), 1) for c in completions]


def config(folder, **options):
    defaults = {
        "per_device_train_batch_size": 24,
        "max_completion_length": 24,
        "max_steps": 1,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        **QUIET,
    }
    return IBTPOConfig(output_dir=str(folder), **{**defaults, **options})


def train(model, folder, reward=more_a_than_b, cls=IBTPOTrainer, resume=None, peft_config=None, **options):
    trainer = cls(str(model), reward, config(folder, **options), PROMPTS, peft_config=peft_config)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def logged(trainer, key):
    return [row[key] for row in trainer.state.log_history if key in row]


class Recording(IBTPOTrainer):
    """Keeps what TRL computed before the step advantages replaced it, and what went into the loss."""

    def _credit(self, output):
        self.trl_advantages = output["advantages"].clone()
        super()._credit(output)
        self.step_advantages = output["advantages"].clone()
        self.mask = output["completion_mask"].clone()

    def _compute_loss(self, model, inputs):
        self.loss_advantages, self.loss_mask = inputs["advantages"], inputs["completion_mask"]
        return super()._compute_loss(model, inputs)

    def _get_per_token_logps_and_entropies(self, *args, **kwargs):
        result = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        if result[1] is not None:
            self.entropies = result[1].detach()
        return result


def test_unshared_trajectories_without_lambda_get_trls_advantages(tiny_model, tmp_path):
    for reward in (more_a_than_b, share_of_a):
        t = train(tiny_model, tmp_path, reward, Recording, branching="independent", lam=0.0, splitter="tokens:1000")
        expected = t.trl_advantages[:, None] * t.mask
        assert t.trl_advantages.abs().max() > 0.5
        torch.testing.assert_close(t.step_advantages * t.mask, expected, atol=1e-6, rtol=0)


def test_first_loss_is_minus_the_mean_over_trajectories_of_the_mean_step_advantage(tiny_model, tmp_path):
    t = train(tiny_model, tmp_path)
    options = t.args.credit_options()
    rows = [r for tree in t.trees for r in token_advantages(tree, path_advantages(tree, options))]
    assert logged(t, "loss")[0] == pytest.approx(-np.mean([r.mean() for r in rows]), abs=1e-6)
    assert logged(t, "kl")[0] == pytest.approx(0, abs=1e-9)
    assert logged(t, "sampling/logp_gap_max")[0] < 1e-4


def test_branches_may_be_chosen_with_another_beta_than_credit_is_given_with(tmp_path):
    common = {"output_dir": str(tmp_path), "num_generations": 12, "per_device_train_batch_size": 12}
    one = IBTPOConfig(**common, ib_beta=7.0)
    assert (one.search_options().score.ib_beta, one.credit_options().score.ib_beta) == (7.0, 7.0)
    two = IBTPOConfig(**common, branch_beta=1.0)
    assert (two.search_options().score.ib_beta, two.credit_options().score.ib_beta) == (1.0, 5.0)
    with pytest.raises(ConfigError, match="branch_beta must be > 0, got -1"):
        IBTPOConfig(**common, branch_beta=-1.0)
    with pytest.raises(ConfigError, match="ib_beta must be > 0, got 0"):
        IBTPOConfig(**common, ib_beta=0.0)


def test_branches_may_be_chosen_with_another_value_than_credit_is_given_with(tmp_path):
    common = {"output_dir": str(tmp_path), "num_generations": 12, "per_device_train_batch_size": 12}
    one = IBTPOConfig(**common, value="draws")
    assert (one.search_options().score.value, one.credit_options().score.value) == ("draws", "draws")
    two = IBTPOConfig(**common, branch_value="draws", branch_beta=1.0)
    assert (two.search_options().score.value, two.credit_options().score.value) == ("draws", "leaves")
    assert two.search_options().score.ib_beta == 1.0
    with pytest.raises(ConfigError, match="unknown branch_value 'draw'; did you mean 'draws'"):
        IBTPOConfig(**common, branch_value="draw")


def test_logged_advantages_are_the_ones_trained_on(tiny_model, tmp_path):
    t = train(tiny_model, tmp_path, cls=Recording)
    means = (t.step_advantages * t.mask).sum(1) / t.mask.sum(1)
    np.testing.assert_allclose(list(t._logs["advantages"]), means.numpy(), atol=1e-6)


def test_rows_of_the_batch_follow_the_token_law(tiny_model, tmp_path):
    t = train(tiny_model, tmp_path)
    tokenizer = t.processing_class
    for tree in t.trees:
        assert tokenizer.decode(list(tree.prompt_ids)) == tree.prompt
        for i, leaf in enumerate(tree.leaves):
            text = tree.completion_text(i)
            assert text == tokenizer.decode(tree.completion_ids(i), skip_special_tokens=True)
            assert leaf.reward == float(text.count("a") > text.count("b"))


@pytest.mark.thorough
@pytest.mark.parametrize("branching", sorted(BRANCHING))
def test_any_branching_rule_trains_with_any_advantage(tiny_model, tmp_path, branching):
    for advantage in sorted(ADVANTAGES):
        t = train(tiny_model, tmp_path, branching=branching, advantage=advantage, num_generations=6, beta=0.0)
        assert len(t.trees) == 4
        assert all(len(tree.leaves) == 6 for tree in t.trees if branching not in ADAPTIVE)
        assert np.isfinite(logged(t, "loss")[0])
        assert logged(t, "grad_norm")[0] > 0


@pytest.mark.thorough
def test_entropy_bonus_and_ibro_change_the_loss_by_their_coefficient_times_their_term(tiny_model, tmp_path):
    plain = train(tiny_model, tmp_path, cls=Recording)
    bonus = train(tiny_model, tmp_path, cls=Recording, regularizer="entropy_bonus", regularizer_coef=0.5)
    ibro = train(tiny_model, tmp_path, cls=Recording, regularizer="ibro", regularizer_coef=0.5)
    assert logged(plain, "loss")[0] - logged(bonus, "loss")[0] == pytest.approx(
        0.5 * logged(plain, "entropy")[0], abs=1e-5
    )
    a, h, m = plain.loss_advantages, plain.entropies, plain.loss_mask
    term = sum(float(a[i, t] * h[i, t]) for i, t in m.nonzero().tolist()) / float(m.sum())
    assert abs(term) > 1e-4
    assert logged(plain, "loss")[0] - logged(ibro, "loss")[0] == pytest.approx(0.5 * term, abs=1e-5)


def test_ibro_term_by_hand():
    advantages = torch.tensor([[1.0, -2.0, 9.0], [0.5, 9.0, 9.0]])
    entropies = torch.tensor([[0.2, 0.1, 7.0], [0.4, 7.0, 7.0]])
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    assert ibro_term(advantages, entropies, mask).item() == pytest.approx((0.2 - 0.2 + 0.2) / 3)
    assert ibro_term(torch.tensor([1.0, 0.5]), entropies, mask).item() == pytest.approx((0.2 + 0.1 + 0.2) / 3)


def test_clip_higher_raises_the_upper_clip_range(tmp_path):
    assert config(tmp_path, regularizer="clip_higher").epsilon_high == 0.28
    assert config(tmp_path).epsilon_high is None


@pytest.mark.thorough
def test_reference_policy_equals_the_sampling_policy_before_the_first_update(tiny_model, tmp_path):
    old = train(tiny_model, tmp_path, cls=Recording)
    ref = train(tiny_model, tmp_path, cls=Recording, ib_policy="ref")
    torch.testing.assert_close(old.step_advantages, ref.step_advantages, atol=1e-4, rtol=0)


def test_treepo_is_divided_by_the_spread_of_the_whole_batch(tiny_model, tmp_path):
    t = train(tiny_model, tmp_path, cls=Recording, advantage="treepo")
    first = t.step_advantages[:, 0].numpy()
    assert first.std(ddof=1) == pytest.approx(1, abs=1e-3)


def test_treepos_divisor_is_that_of_the_advantages_before_shared_prefixes_are_weighed(tiny_model, tmp_path):
    t = train(tiny_model, tmp_path, cls=Recording, advantage="treepo", prefix_weight="once")
    plain = [path_advantages(tree, CreditOptions(advantage="treepo")) for tree in t.trees]
    signal = [len({leaf.reward for leaf in tree.leaves}) > 1 for tree in t.trees]
    values = [a[0] for paths, differs in zip(plain, signal, strict=True) if differs for a in paths if len(a)]
    rows = [r for tree in t.trees for r in token_advantages(tree, path_advantages(tree, t.args.credit_options()))]
    divisor = np.std(values, ddof=1) + 1e-4
    for got, row in zip(t.step_advantages.numpy(), rows, strict=True):
        np.testing.assert_allclose(got[: len(row)], row / divisor, rtol=1e-5)
    assert [tree.meta["credit"]["batch_divisor"] for tree in t.trees] == [pytest.approx(divisor)] * len(t.trees)


MINE = """
from ibtpo import BatchScale

def rewards(tree, options):
    return [[leaf.reward] * len(tree.path(leaf.node)) for leaf in tree.leaves]

rewards.batch_scale = BatchScale(lambda tree, paths: [1.0 for _ in paths], lambda values: sum(values) / 6)
"""


def test_an_advantage_of_one_s_own_trains_with_its_batch_scale(tiny_model, tmp_path, monkeypatch):
    (tmp_path / "own_advantage.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    t = train(tiny_model, tmp_path, cls=Recording, advantage="own_advantage:rewards", save_trees_every=1)
    rewards = torch.tensor([leaf.reward for tree in t.trees for leaf in tree.leaves])
    assert 0 < rewards.sum() < len(rewards) == 24
    torch.testing.assert_close(t.step_advantages * t.mask, rewards[:, None] / 4 * t.mask)
    assert t.trees[0].meta["credit"]["advantage"] == "own_advantage:rewards"


@pytest.mark.thorough
def test_lora_trains_the_adapter_alone(tiny_model, tmp_path):
    from peft import LoraConfig

    adapter = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    t = train(tiny_model, tmp_path, peft_config=adapter, max_steps=2)
    fresh = IBTPOTrainer(str(tiny_model), more_a_than_b, config(tmp_path), PROMPTS, peft_config=adapter)
    before = dict(fresh.model.named_parameters())
    changed = {n for n, p in t.model.named_parameters() if not torch.equal(p, before[n])}
    assert changed
    assert all("lora" in n for n in changed)
    assert logged(t, "sampling/logp_gap_max")[1] < 1e-4  # the engine samples from the adapted model


@pytest.mark.thorough
def test_resuming_from_a_checkpoint_continues_the_very_same_run(tiny_model, tmp_path):
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "gradient_accumulation_steps": 2}
    options |= {"per_device_train_batch_size": 12}
    whole = train(tiny_model, tmp_path / "whole", **options)
    train(tiny_model, tmp_path / "half", **{**options, "max_steps": 2})
    rest = train(tiny_model, tmp_path / "half", resume=str(tmp_path / "half" / "checkpoint-2"), **options)
    np.testing.assert_allclose(logged(rest, "loss"), logged(whole, "loss"), atol=1e-6)
    assert rest.generated_tokens == whole.generated_tokens
    for a, b in zip(whole.model.parameters(), rest.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


@pytest.mark.thorough
def test_a_checkpoint_within_a_generation_batch_goes_on_with_what_is_left_of_it(tiny_model, tmp_path):
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 1, "gradient_accumulation_steps": 2}
    options |= {"per_device_train_batch_size": 6, "steps_per_generation": 4}
    whole = train(tiny_model, tmp_path, **options)
    kept = [(tmp_path / f"checkpoint-{step}" / "ibtpo_batch_0.pt").is_file() for step in range(1, 5)]
    assert kept == [True, False, True, False]  # a generation batch makes two steps
    rest = train(tiny_model, tmp_path, resume=str(tmp_path / "checkpoint-1"), **options)
    np.testing.assert_allclose(logged(rest, "loss"), logged(whole, "loss"), atol=1e-6)
    assert rest.generated_tokens == whole.generated_tokens
    for a, b in zip(whole.model.parameters(), rest.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


@pytest.mark.thorough
def test_micro_batches_give_the_loss_of_one_batch(tiny_model, tmp_path):
    one = train(tiny_model, tmp_path, max_steps=3)
    four = train(tiny_model, tmp_path, max_steps=3, per_device_train_batch_size=6, gradient_accumulation_steps=4)
    np.testing.assert_allclose(logged(one, "loss"), logged(four, "loss"), atol=1e-5)


def test_an_engine_given_by_dotted_path_is_the_one_that_samples(tiny_model, tmp_path):
    own_engine.MADE.clear()
    t = train(tiny_model, tmp_path, engine="helpers.own_engine:make", max_steps=2)
    (engine,) = own_engine.MADE  # one for all batches: the model stays the same object
    assert engine.model is t.accelerator.unwrap_model(t.model)
    assert engine.tokenizer is t.processing_class
    assert len(engine.answers) == 2 * 2 * 12  # steps, questions, answers
    sampled = [tuple(tree.completion_ids(i)) for tree in t.trees for i in range(12) if tree.rollouts[i].at == 0]
    assert sampled
    assert set(sampled) <= set(engine.answers[24:])
    assert logged(t, "time/sampling") == [0.0, 0.0]  # it does not count its seconds
    assert sum(logged(t, "ibtpo/generated_tokens")) == sum(map(len, engine.answers))


class Counting(TransformersEngine):
    """Our own engine, which also counts its requests and its resets."""

    def __init__(self, model, tokenizer, max_in_flight):
        super().__init__(model, eos_token_ids=[tokenizer.eos_token_id], max_batch_size=max_in_flight)
        self.asked, self.resets = 0, []
        MADE.append(self)

    async def generate(self, *request):
        self.asked += 1
        return await super().generate(*request)

    def reset_cache(self):
        self.resets.append(self.asked)
        super().reset_cache()


MADE = []


@pytest.mark.thorough
def test_our_own_engine_by_dotted_path_trains_as_by_name_and_is_reset_around_every_batch(tiny_model, tmp_path):
    MADE.clear()
    module = sys.modules[__name__]
    sys.modules["counting_engine"] = module
    try:
        ours = train(tiny_model, tmp_path, engine="counting_engine:Counting", max_steps=2)
    finally:
        del sys.modules["counting_engine"]
    named = train(tiny_model, tmp_path, max_steps=2)
    assert [[tree.completion_ids(i) for i in range(12)] for tree in ours.trees] == [
        [tree.completion_ids(i) for i in range(12)] for tree in named.trees
    ]
    assert logged(ours, "loss") == pytest.approx(logged(named, "loss"), abs=1e-6)
    (engine,) = MADE
    assert (engine.asked, engine.resets) == (48, [0, 24, 24, 48])


@pytest.mark.thorough
def test_training_stops_at_the_token_budget(tiny_model, tmp_path):
    t = train(tiny_model, tmp_path, max_steps=50, max_generated_tokens=900)
    totals = logged(t, "ibtpo/generated_tokens_total")
    assert totals[-1] >= 900 > totals[-2]
    assert totals[-1] == sum(logged(t, "ibtpo/generated_tokens"))


@pytest.mark.thorough
def test_the_time_split_adds_up_to_the_step(tiny_model, tmp_path):
    t = train(tiny_model, tmp_path, max_steps=2)
    for row in t.state.log_history[:2]:
        parts = sum(row[f"time/{p}"] for p in ("sampling", "verifying", "credit", "update", "other"))
        assert parts == pytest.approx(row["time/total"], rel=1e-6)
        assert row["time/other"] >= 0
        assert "time/environments" not in row


def test_saved_trees_can_be_read_back(tiny_model, tmp_path):
    from ibtpo.tree import read_trees

    t = train(tiny_model, tmp_path, max_steps=1, save_trees_every=1)
    stored = list(read_trees(tmp_path / "trees" / "step_000001.jsonl.gz"))
    assert [s.to_dict() for s in stored] == [json.loads(json.dumps(tree.to_dict())) for tree in t.trees]
    assert stored[0].meta["search"]["score"]["ib_beta"] == 5.0


def test_two_rewards_are_weighted_and_the_first_decides_correctness(tiny_model, tmp_path):
    t = train(tiny_model, tmp_path, [more_a_than_b, share_of_a], reward_weights=[1.0, 0.5])
    for tree in t.trees:
        for i, leaf in enumerate(tree.leaves):
            text = tree.completion_text(i)
            right = float(text.count("a") > text.count("b"))
            assert leaf.correct == right
            assert leaf.reward == pytest.approx(right + 0.5 * text.count("a") / max(len(text), 1))
    assert logged(t, "ibtpo/avg_rate")[0] == pytest.approx(logged(t, "rewards/more_a_than_b/mean")[0], abs=1e-6)


def test_a_verifier_that_always_fails_ends_the_run_with_its_message(tiny_model, tmp_path):
    def broken(prompts, completions, **kwargs):
        raise RuntimeError("no such table")

    with pytest.raises(VerifierError, match=r"all 24 answers of step 0 failed.*no such table"):
        train(tiny_model, tmp_path, broken)


def test_a_verifier_that_sometimes_fails_gives_no_reward_not_a_zero(tiny_model, tmp_path):
    def shaky(prompts, completions, **kwargs):
        if any("c" in c for c in completions):
            raise RuntimeError("cannot read c")
        return [float("a" in c) for c in completions]

    t = train(tiny_model, tmp_path, shaky)
    for tree in t.trees:
        for i, leaf in enumerate(tree.leaves):
            assert (leaf.reward is None) == ("c" in tree.completion_text(i)) == (leaf.stop == "verifier_error")
    assert logged(t, "ibtpo/verifier_errors")[0] > 0


def test_the_same_question_twice_in_a_batch_gets_two_different_trees(tiny_model, tmp_path):
    same = Dataset.from_list([{"prompt": "ab", "id": "q"}] * 4)
    t = IBTPOTrainer(str(tiny_model), more_a_than_b, config(tmp_path), same)
    t.train()
    first, second = ([tree.completion_ids(i) for i in range(12)] for tree in t.trees)
    assert first != second


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_generations": 12, "tree": "4,5,1,1"}, r"= 8 trajectories but num_generations is 12"),
        ({"per_device_train_batch_size": 6, "num_generations": 12}, r"must be (a multiple|divisible)"),
        ({"use_vllm": True, "vllm_tensor_parallel_size": 2, "deterministic_rollouts": False}, "make the same requests"),
        ({"off_policy_mask_threshold": 0.5}, "off_policy_mask_threshold"),
        ({"scale_rewards": "batch", "advantage": "treepo"}, "scale_rewards"),
        ({"repetition_penalty": 1.2}, "repetition_penalty"),
        ({"branching": "entropi"}, "did you mean 'entropy'"),
        ({"advantage": "ibtp"}, "did you mean 'ibtpo'"),
        ({"confidence": "head:0"}, "unknown confidence"),
        ({"regularizer": "clip"}, "unknown regularizer"),
        ({"ib_beta": 0.0}, "beta must be > 0"),
        ({"ib_policy": "new"}, "ib_policy"),
        ({"ib_policy": "ref", "beta": 0.0}, "reference model"),
        ({"ib_policy": "ref", "advantage": "grpo"}, "'grpo' does not: leave ib_policy out"),
        ({"advantage": "nowhere_xyz:f"}, "cannot load advantage 'nowhere_xyz:f': ModuleNotFoundError"),
        ({"tree": "4,9"}, "B0,L,K,B"),
        ({"temperature": 0.0}, "temperature must be > 0"),
        ({"engine": "vllm"}, "engine must be transformers or package.module:factory, got 'vllm'; vLLM trains with use"),
        ({"engine": "helpers.own_engine:mke"}, "own_engine:mke"),
        ({"engine": "helpers.own_engine:make", "use_vllm": True}, "both say what samples"),
    ],
)
def test_options_that_do_not_fit_are_refused_with_the_reason(tmp_path, options, message):
    with pytest.raises(ConfigError if "per_device" not in str(options) else ValueError, match=message):
        config(tmp_path, **options)


def test_g_without_a_tree_gives_a_third_as_first_rollouts(tmp_path):
    assert (b := config(tmp_path).budget()).trajectories == 12
    assert (b.b0, b.rounds, b.k, b.b) == (4, 9, 1, 1)
    b = config(tmp_path, num_generations=8).budget()
    assert (b.b0, b.rounds, b.trajectories) == (3, 6, 8)


def test_every_method_of_the_comparison_is_a_valid_configuration(tmp_path):
    for options in METHODS.values():
        assert config(tmp_path, **options).num_generations == 12


SCRIPT = """
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

def reward(completions, **kwargs):
    return [float("a" in c) for c in completions]

args = GRPOConfig(
    output_dir={folder!r}, max_steps=1, max_completion_length=16, report_to="none", save_strategy="no", bf16=False
)
data = Dataset.from_list([{{"prompt": "ab"}}, {{"prompt": "cd"}}])
trainer = GRPOTrainer(model={model!r}, reward_funcs=reward, args=args, train_dataset=data)
trainer.train()
print("LOGGED", "ibtpo/ib_score" in trainer.state.log_history[0])
"""


@pytest.mark.thorough
def test_a_plain_trl_script_becomes_ours_by_changing_two_names(tiny_model, tmp_path):
    plain = SCRIPT.format(folder=str(tmp_path), model=str(tiny_model))
    ours = plain.replace("from trl import", "from ibtpo import").replace("GRPO", "IBTPO")
    for script, expected in ((plain, "LOGGED False"), (ours, "LOGGED True")):
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
        assert expected in done.stdout, done.stderr[-2000:]


def test_our_classes_are_trls(tmp_path):
    assert issubclass(IBTPOConfig, GRPOConfig)
    assert issubclass(IBTPOTrainer, GRPOTrainer)


@pytest.mark.parametrize(
    ("kind", "left"), [("linear", lambda x: 1 - x), ("cosine", lambda x: (1 + math.cos(math.pi * x)) / 2)]
)
def test_a_learning_rate_falls_with_the_tokens_that_are_left(tiny_model, tmp_path, kind, left):
    limit = 1500
    options = {"max_steps": 100, "max_generated_tokens": limit, "lr_scheduler_type": kind, "warmup_steps": 2}
    trainer = train(tiny_model, tmp_path / "whole", save_strategy="steps", save_steps=2, **options)
    rates, spent = logged(trainer, "learning_rate"), logged(trainer, "ibtpo/generated_tokens_total")
    assert len(rates) >= 4
    assert spent[-2] < limit <= spent[-1]
    # The rate of a step follows from the tokens before it; the warm-up halves that of the first.
    expected = [1e-2 * warm * left(s / limit) for warm, s in zip([0.5, *[1.0] * 99], [0, *spent[:-1]], strict=False)]
    assert rates == pytest.approx(expected, rel=1e-9)
    again = train(tiny_model, tmp_path / "whole", resume=str(tmp_path / "whole" / "checkpoint-2"), **options)
    assert logged(again, "learning_rate") == pytest.approx(rates, rel=1e-9)
    assert logged(again, "loss")[:-1] == pytest.approx(logged(trainer, "loss")[:-1], abs=1e-6)
