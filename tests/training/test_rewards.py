"""TRL's reward contract in the trainer: what functions get and log, reward models, functions that compare answers."""

import asyncio
import inspect

import pandas as pd
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from helpers.training import QUIET
from ibtpo.errors import ConfigError
from ibtpo.training.config import IBTPOConfig
from ibtpo.training.rewards import is_reward_model
from ibtpo.training.trainer import IBTPOTrainer

ROWS = [{"prompt": "ab", "completions": "old", "prompts": 1}, {"prompt": "cd", "completions": "older", "prompts": 2}]


def train(model, folder, reward, **options):
    defaults = {
        "per_device_train_batch_size": 24,
        "max_completion_length": 16,
        "max_steps": 1,
        **QUIET,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
    }
    args = IBTPOConfig(output_dir=str(folder), **{**defaults, **options})
    trainer = IBTPOTrainer(str(model), reward, args, Dataset.from_list(ROWS))
    trainer.train()
    return trainer


def answers(trainer):
    return [tree.completion_text(i) for tree in trainer.trees for i in range(len(tree.leaves))]


def rewards(trainer):
    return [leaf.reward for tree in trainer.trees for leaf in tree.leaves]


@pytest.mark.parametrize("branching", ["ib", "independent"])
def test_what_is_logged_stands_in_trls_table_beside_its_answer_and_its_mean_in_the_metrics(
    tiny_model, tmp_path, branching
):
    def count(prompts, completions, log_extra, log_metric, trainer_state, **columns):
        assert set(prompts) <= {"ab", "cd"}
        assert set(columns) == {"completion_ids"}
        assert trainer_state.global_step == 0
        log_extra("letters", [len(c) for c in completions])
        log_metric("mean_letters", sum(map(len, completions)) / len(completions))
        return [float(c.count("a")) for c in completions]

    t = train(tiny_model, tmp_path, count, branching=branching, log_completions=True)
    table = pd.read_parquet(next((tmp_path / "completions").glob("*.parquet")))
    assert list(table["completion"]) == answers(t)
    assert list(table["letters"]) == [len(text) for text in answers(t)]
    mean = sum(map(len, answers(t))) / 24
    assert next(row["mean_letters"] for row in t.state.log_history if "mean_letters" in row) == pytest.approx(mean)


def test_an_async_judge_gets_a_whole_batch_or_a_whole_round_of_all_trees(tiny_model, tmp_path):
    calls = []

    async def judge(completions, **columns):
        calls.append(len(completions))
        await asyncio.sleep(0)
        return [float(c.count("a")) for c in completions]

    t = train(tiny_model, tmp_path, judge, branching="independent")
    assert calls == [24]
    assert rewards(t) == [text.count("a") for text in answers(t)]
    calls.clear()
    t = train(tiny_model, tmp_path, judge)
    assert calls == [8, *[2] * 8, 24]  # the last looks for a function that compares answers
    assert rewards(t) == [text.count("a") for text in answers(t)]


def test_a_reward_model_by_path_or_as_a_module_gives_its_own_values_beside_a_function(tiny_model, tmp_path):
    torch.manual_seed(0)
    judge = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    judge.config.pad_token_id = tokenizer.pad_token_id
    judge.save_pretrained(tmp_path / "judge")
    tokenizer.save_pretrained(tmp_path / "judge")

    def share_of_a(completions, **columns):
        return [c.count("a") / max(1, len(c)) for c in completions]

    t = train(tiny_model, tmp_path, [str(tmp_path / "judge"), share_of_a], reward_weights=[1.0, 0.5])
    module = train(tiny_model, tmp_path, AutoModelForSequenceClassification.from_pretrained(tmp_path / "judge"))
    for trainer, weight in ((t, 0.5), (module, 0.0)):
        prompts = [tree.prompt for tree in trainer.trees for _ in tree.leaves]
        for prompt, text, leaf in zip(
            prompts, answers(trainer), [x for tree in trainer.trees for x in tree.leaves], strict=True
        ):
            ids = tokenizer(prompt + text, return_tensors="pt", add_special_tokens=False).input_ids
            value = judge(input_ids=ids).logits[0, 0].item()
            assert leaf.correct == pytest.approx(value, abs=1e-5)
            assert leaf.reward == pytest.approx(value + weight * text.count("a") / max(1, len(text)), abs=1e-5)
    assert t.verifier.names == ("judge", "share_of_a")


def test_a_model_is_told_from_a_name(tmp_path):
    assert [is_reward_model(r) for r in ("org/model", str(tmp_path), torch.nn.Linear(1, 1))] == [True] * 3
    assert [is_reward_model(r) for r in ("math", "package.module:function", len)] == [False] * 3


def minus_the_mean(completions, **columns):
    values = [float(c.count("a")) for c in completions]
    return [v - sum(values) / len(values) for v in values]


def fails_alone(completions, **columns):
    if len(completions) == 1:
        raise ValueError("nothing to compare with")
    return [float(c.count("a")) for c in completions]


@pytest.mark.parametrize("compares", [minus_the_mean, fails_alone])
def test_a_function_that_compares_answers_is_refused_where_answers_come_one_by_one(tiny_model, tmp_path, compares):
    message = (
        rf"'{compares.__name__}' compares answers: .* in a call with all 24, .*random, fixed_width, entropy, eptree or"
    )
    with pytest.raises(ConfigError, match=message):
        train(tiny_model, tmp_path, compares, tree="1,12,1,1")


NAMED = """
def minus_the_mean(completions, **columns):
    values = [float(c.count("a")) for c in completions]
    return [v - sum(values) / len(values) for v in values]

def letters(completions, **columns):
    return [float(c.count("a")) for c in completions]

def last_call(completions, **columns):
    return [float(len(completions))] * len(completions)
"""


@pytest.mark.parametrize("branching", ["ib", "random"])
@pytest.mark.parametrize(("name", "alone"), [("minus_the_mean", "0.0"), ("last_call", "1.0")])
def test_a_function_that_compares_is_refused_by_name_with_every_rule(
    tiny_model, tmp_path, monkeypatch, branching, name, alone
):
    (tmp_path / "named_rewards.py").write_text(NAMED)
    monkeypatch.syspath_prepend(tmp_path)
    message = rf"'{name}' compares answers: .* in a call with all 24, and {alone} alone\. A function that is given by "
    with pytest.raises(ConfigError, match=message):
        train(tiny_model, tmp_path, f"named_rewards:{name}", branching=branching)


def test_a_function_by_name_that_compares_nothing_trains(tiny_model, tmp_path, monkeypatch):
    (tmp_path / "named_letters.py").write_text(NAMED)
    monkeypatch.syspath_prepend(tmp_path)
    t = train(tiny_model, tmp_path, "named_letters:letters")
    assert rewards(t) == [text.count("a") for text in answers(t)]


def test_it_trains_where_branching_needs_no_rewards(tiny_model, tmp_path):
    for branching in ("independent", "entropy"):
        t = train(tiny_model, tmp_path, minus_the_mean, branching=branching)
        counts = [text.count("a") for text in answers(t)]
        assert rewards(t) == pytest.approx([n - sum(counts) / 24 for n in counts])


def test_a_random_function_is_not_taken_for_one_that_compares(tiny_model, tmp_path):
    def noise(completions, **columns):
        return torch.rand(len(completions)).tolist()

    assert len(set(rewards(train(tiny_model, tmp_path, noise)))) == 24


def test_an_async_client_may_be_kept_from_call_to_call(tiny_model, tmp_path):
    loops = set()

    class Judge:
        async def __call__(self, completions, **columns):
            loops.add(asyncio.get_running_loop())
            return [1.0 for _ in completions]

    assert inspect.iscoroutinefunction(Judge().__call__)
    assert set(rewards(train(tiny_model, tmp_path, [Judge(), Judge()], max_steps=2))) == {2.0}
    assert len(loops) == 1
