"""Options of TRL: which differ by default, and which give TRL's own numbers on trees that share nothing."""

import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig

from helpers.training import QUIET
from ibtpo.errors import ConfigError
from ibtpo.training.config import IBTPOConfig
from ibtpo.training.trainer import IBTPOTrainer

ROWS = Dataset.from_list([{"prompt": "ab"}, {"prompt": "cd"}])
STAR = {"branching": "independent", "lam": 0.0, "splitter": "tokens:1000"}


def config(folder, cls=IBTPOConfig, **options):
    defaults = {
        "per_device_train_batch_size": 24,
        "max_completion_length": 16,
        "max_steps": 1,
        **QUIET,
    }
    return cls(output_dir=str(folder), **{**defaults, **options})


def count_a(completions, **columns):
    return [float(c.count("a")) for c in completions]


def length(completions, **columns):
    return [len(c) / 7 for c in completions]


class Beside(IBTPOTrainer):
    """Keeps TRL's (B,) advantages, ours, and the loss that TRL's give for the same batch."""

    def _credit(self, output):
        output["trl_advantages"] = output["advantages"].clone()  # so that TRL shuffles them with the rows
        super()._credit(output)

    def _compute_loss(self, model, inputs):
        self.step_advantages, self.mask = inputs["advantages"], inputs["completion_mask"]
        self.trl_advantages = inputs["trl_advantages"]
        with torch.no_grad():
            self.trl_loss = super()._compute_loss(model, {**inputs, "advantages": self.trl_advantages}).item()
        loss = super()._compute_loss(model, inputs)
        self.loss = loss.item()
        return loss


@pytest.mark.parametrize(
    "options",
    [
        {"scale_rewards": "none"},
        {"scale_rewards": "batch"},
        {"scale_rewards": "batch", "advantage": "grpo"},
        {"scale_rewards": "none", "loss_type": "dr_grpo"},
        {"multi_objective_aggregation": "normalize_then_sum", "advantage": "grpo"},
        {"loss_type": "vespo"},
        {"loss_type": "dapo", "epsilon_high": 0.28, "beta": 0.0, "mask_truncated_completions": True},
        {"loss_type": "cispo", "epsilon_high": 5.0},
        {"loss_type": "sapo"},
        {"loss_type": "bnpo"},
        {"loss_type": "luspo", "importance_sampling_level": "sequence"},
    ],
    ids=str,
)
def test_trees_that_share_nothing_get_trls_advantages_and_loss(tiny_model, tmp_path, options):
    args = config(tmp_path, **STAR, reward_weights=[1.0, 0.5], packed_tokens=0, **options)
    t = Beside(str(tiny_model), [count_a, length], args, ROWS)
    t.train()
    assert t.trl_advantages.abs().max() > 0.3
    torch.testing.assert_close(t.step_advantages * t.mask, t.trl_advantages[:, None] * t.mask, atol=2e-6, rtol=0)
    # luspo multiplies the advantages' rounding by the lengths
    assert t.loss == pytest.approx(t.trl_loss, abs=5e-6 if options.get("loss_type") == "luspo" else 1e-6)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"scale_rewards": "none", "advantage": "treerl"}, "'treerl' has a divisor of its own; ibtpo and grpo take it"),
        ({"multi_objective_aggregation": "normalize_then_sum"}, "advantage 'grpo' takes it"),
        ({"min_p": 0.1}, r"min_p \(branches and importance ratios need the probabilities"),
        ({"use_liger_kernel": True}, r"use_liger_kernel \(its fused loss does not share prefixes"),
    ],
)
def test_what_has_no_meaning_for_steps_is_refused_with_the_reason(tmp_path, options, reason):
    with pytest.raises(ConfigError, match=reason):
        config(tmp_path, **options)


def test_departures_name_what_the_same_trl_configuration_would_not_have(tmp_path):
    args = config(tmp_path, temperature=0.7, beta=0.0)
    trl = GRPOConfig(str(tmp_path), per_device_train_batch_size=24, temperature=0.7, beta=0.0, bf16=False)
    found = args.departures()
    assert found == {
        **{name: (getattr(args, name), getattr(trl, name)) for name in found},
        **({"bf16": (False, True)} if "bf16" in found else {}),
    }
    assert found["loss_type"] == ("grpo", "dapo")
    assert found["num_generations"] == (12, 8)
    assert {"top_p", "top_k"} <= set(found)
    assert not {"temperature", "beta", "max_completion_length", "epsilon_high"} & set(found)


def test_without_the_papers_defaults_every_value_is_trls(tmp_path):
    args = config(tmp_path, paper_defaults=False, top_k=5, max_completion_length=None)
    trl = GRPOConfig(str(tmp_path), per_device_train_batch_size=24, bf16=False)
    assert (args.top_k, args.max_completion_length) == (5, None)
    for name in ("temperature", "top_p", "beta", "loss_type", "num_generations", "learning_rate", "logging_steps"):
        assert getattr(args, name) == getattr(trl, name)
    assert set(args.departures()) <= {"bf16"}
    assert config(tmp_path, paper_defaults=False, tree="4,9,1,1").num_generations == 12


def test_a_parser_that_gives_every_option_changes_nothing(tmp_path):
    from transformers import HfArgumentParser

    words = ["--output_dir", str(tmp_path), "--per_device_train_batch_size", "24", "--temperature", "0.9"]
    (args,) = HfArgumentParser(IBTPOConfig).parse_args_into_dataclasses([*words, "--paper_defaults", "False"])
    assert (args.temperature, args.loss_type, args.num_generations) == (0.9, "dapo", 8)


def test_the_trainer_says_so_once_unless_transformers_is_quiet(tiny_model, tmp_path, capsys):
    from transformers.utils import logging

    IBTPOTrainer(str(tiny_model), count_a, config(tmp_path), ROWS)
    said = capsys.readouterr().out
    assert said.count("IBTPOConfig has the paper's values where GRPOConfig has others: ") == 1
    assert "temperature 0.7 (TRL: 1.0)" in said
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        IBTPOTrainer(str(tiny_model), count_a, config(tmp_path), ROWS)
    finally:
        logging.set_verbosity(level)
    assert "GRPOConfig" not in capsys.readouterr().out


def test_trees_that_cannot_branch_are_said_once_with_their_number(tiny_model, tmp_path):
    args = config(tmp_path, splitter="tokens:1000", max_steps=2)
    with pytest.warns(UserWarning, match="24 of 24 answers are a single step.*splitter='tokens:1000'") as caught:
        IBTPOTrainer(str(tiny_model), count_a, args, ROWS).train()
    assert sum("single step" in str(w.message) for w in caught) == 1
