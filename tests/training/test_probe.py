"""`IBScoreCallback` on a plain TRL run: numbers as of trees grown by hand, and training left as it was."""

import asyncio
import json
import math
import os
import random
import sqlite3
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from helpers.places import ROOT
from ibtpo import IBScoreCallback, Prompt, Sampling, SearchOptions, TransformersEngine, TreeSearch
from ibtpo.cli import main
from ibtpo.errors import ConfigError, DataError, EngineError
from ibtpo.metrics import summarise, tree_record
from ibtpo.search import Budget
from ibtpo.tree import read_trees
from ibtpo.verify.rewards import RewardFunctions

PROMPTS = ["abc"[i % 3] + "defg"[i % 4] for i in range(12)]
SEARCH = SearchOptions(Budget(3, 4), Sampling(1.0, 1.0, 0), max_completion_length=24, seed=5, deterministic=True)


def more_a_than_b(completions, **kwargs):
    random.random(), np.random.rand(), torch.rand(3)  # user code may draw from any of them
    return [float(c.count("a") > c.count("b")) for c in completions]


def make_trainer(model, folder, reward=more_a_than_b, **options):
    defaults = {
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 24,
        "max_steps": 3,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "logging_steps": 1,
        "bf16": False,
        "gradient_checkpointing": True,
    }
    args = GRPOConfig(output_dir=str(folder), **{**defaults, **{k: v for k, v in options.items() if k != "peft"}})
    data = Dataset.from_list([{"prompt": p} for p in PROMPTS])
    return GRPOTrainer(str(model), reward, args, data, peft_config=options.get("peft"))


def probed(trainer):
    return {row["step"]: row for row in trainer.state.log_history if "ibtpo/probe/seconds" in row}


def trained(trainer):
    times = ("step_time", "train_runtime", "train_samples_per_second", "train_steps_per_second")
    rows = [row for row in trainer.state.log_history if "ibtpo/probe/seconds" not in row]
    return [{k: v for k, v in row.items() if k not in times} for row in rows]


def by_hand(model, tokenizer, texts):
    """The numbers of trees of `texts`, ids as the callback gives them."""
    from ibtpo._seeds import stable_hash

    prompts = [
        Prompt(f"{stable_hash(t):x}", tuple(tokenizer(t)["input_ids"]), t, {"prompt": t}) for t in dict.fromkeys(texts)
    ]
    engine = TransformersEngine(model, eos_token_ids=[tokenizer.eos_token_id])
    decode = lambda ids: tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)  # noqa: E731
    search = TreeSearch(engine, RewardFunctions(more_a_than_b), decode, SEARCH)
    return summarise([tree_record(t) for t in asyncio.run(search.grow_all(prompts))])


def test_logged_numbers_are_those_of_trees_grown_by_hand_at_that_step(tiny_model, tmp_path):
    trainer = make_trainer(tiny_model, tmp_path)
    trainer.model.given_name = "tiny"
    trainer.add_callback(
        IBScoreCallback(trainer, every=3, num_prompts=6, search=SEARCH, max_time_share=1.0, trees_dir=tmp_path / "t")
    )
    trainer.train()
    assert list(probed(trainer)) == [0, 3]
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    for step, model in ((0, base), (3, trainer.model)):
        expected = by_hand(model, trainer.processing_class, PROMPTS[:6])
        row = {k.removeprefix("ibtpo/probe/"): v for k, v in probed(trainer)[step].items()}
        assert {k: row[k] for k in expected if not math.isnan(expected[k])} == pytest.approx(
            {k: v for k, v in expected.items() if not math.isnan(v)}, abs=1e-6
        )
        assert not any(math.isnan(v) for v in row.values())
    assert probed(trainer)[0]["ibtpo/probe/cov_eta"] != probed(trainer)[3]["ibtpo/probe/cov_eta"]
    trees = list(read_trees(tmp_path / "t" / "step_000003.jsonl.gz"))
    assert [t.meta["step"] for t in trees] == [3] * 6
    assert trees[0].meta["model"] == "tiny"
    assert trees[0].prompt == "ad"


def test_a_reward_model_of_the_trainer_scores_the_probe_too(tiny_model, tmp_path):
    torch.manual_seed(0)
    judge = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1)
    trainer = make_trainer(tiny_model, tmp_path, [judge, more_a_than_b], reward_weights=[1.0, 0.5])
    callback = IBScoreCallback(trainer, num_prompts=2, search=SEARCH)
    callback.probe()
    for tree in callback.trees:
        for i, leaf in enumerate(tree.leaves):
            text = tree.completion_text(i)
            ids = trainer.processing_class(tree.prompt + text, return_tensors="pt", add_special_tokens=False).input_ids
            value = judge(input_ids=ids).logits[0, 0].item()
            assert leaf.reward == pytest.approx(value + 0.5 * (text.count("a") > text.count("b")), abs=1e-5)
    callback.on_train_end(None, None, None)


def test_stored_probe_trees_are_read_by_ibtpo_score(tiny_model, tmp_path, capsys):
    trainer = make_trainer(tiny_model, tmp_path, max_steps=1)
    trainer.add_callback(IBScoreCallback(trainer, ["ad"], every=1, search=SEARCH, trees_dir=tmp_path / "t"))
    trainer.train()
    assert main(["score", str(tmp_path / "t" / "step_000000.jsonl.gz"), "--json"]) == 0
    assert '"cov_eta"' in capsys.readouterr().out


def report_to_trackers(model, folder):
    """In a process of its own: trackio takes its folder from the environment when it is imported."""
    trainer = make_trainer(model, folder, report_to=["tensorboard", "trackio"], run_name="plain")
    trainer.add_callback(IBScoreCallback(trainer, every=3, num_prompts=6, search=SEARCH, max_time_share=1.0))
    trainer.train()
    (folder / "history.json").write_text(json.dumps(trainer.state.log_history))


def test_probes_reach_the_trackers_that_report_to_names(tiny_model, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    pytest.importorskip("trackio", reason="trackio is not installed")
    code = "import sys, pathlib, test_probe; test_probe.report_to_trackers(*map(pathlib.Path, sys.argv[1:]))"
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "tests" / "training"), str(ROOT / "tests"), *sys.path]),
    }
    env |= {"TRACKIO_DIR": str(tmp_path / "trackio"), "TENSORBOARD_LOGGING_DIR": str(tmp_path / "tb")}
    command = [sys.executable, "-c", code, str(tiny_model), str(tmp_path)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    history = json.loads((tmp_path / "history.json").read_text())
    names = [f"ibtpo/probe/{name}" for name in ("cov_eta", "ib_score", "eff_rate", "time_share")]
    logged = {name: {row["step"]: row[name] for row in history if name in row} for name in names}
    assert all(set(values) == {0, 3} for values in logged.values())
    events = accumulator.EventAccumulator(str(tmp_path / "tb"))
    events.Reload()
    for name in names:
        assert {e.step: e.value for e in events.Scalars(f"train/{name}")} == pytest.approx(logged[name], abs=1e-6)
    (database,) = (tmp_path / "trackio").glob("*.db")
    with sqlite3.connect(database) as connection:
        rows = [
            json.loads(row[0]) for row in connection.execute("select metrics from metrics where run_name = 'plain'")
        ]
    for name in names:
        read = {row["train/global_step"]: row[f"train/{name}"] for row in rows if f"train/{name}" in row}
        assert read == pytest.approx(logged[name], abs=1e-6)


def test_losses_metrics_and_weights_are_bit_equal_with_and_without_the_callback(tiny_model, tmp_path):
    plain = make_trainer(tiny_model, tmp_path / "a")
    plain.train()
    watched = make_trainer(tiny_model, tmp_path / "b")  # seeds everything again
    watched.add_callback(IBScoreCallback(watched, every=1, num_prompts=4, search=SEARCH, max_time_share=1.0))
    watched.train()
    assert set(probed(watched)) == {0, 1, 2, 3}
    assert trained(plain) == trained(watched)  # every logged row of training, at every step
    for a, b in zip(plain.model.parameters(), watched.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_probe_leaves_modes_flags_and_random_states_as_they_were(tiny_model, tmp_path):
    trainer = make_trainer(tiny_model, tmp_path)
    callback = IBScoreCallback(trainer, every=1, num_prompts=2, search=SEARCH)
    trainer.model.train()
    trainer.model.model.layers[0].eval()  # as some PEFT methods leave a layer

    def state():
        modules = list(trainer.model.modules())
        return (
            [m.training for m in modules],
            [getattr(m, "gradient_checkpointing", None) for m in modules],
            trainer.model.config.to_dict(),
            [(p.requires_grad, p.grad) for p in trainer.model.parameters()],
            random.getstate(),
            np.random.get_state()[1].tolist(),
            torch.get_rng_state().tolist(),
        )

    before = state()
    assert callback.probe()["trajectories"] == 2 * 6
    assert state() == before


class Clock(TrainerCallback):
    """A training step takes five seconds."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def on_step_begin(self, *args, **kwargs):
        self.now += 5


def slow_probe(trainer, clock, **options):
    callback = IBScoreCallback(trainer, every=1, num_prompts=1, search=SEARCH, clock=clock, **options)
    probe = callback.probe

    def ten_seconds():
        clock.now += 10
        return probe()

    callback.probe = ten_seconds
    return callback


def test_probes_that_would_exceed_the_share_of_time_are_skipped(tiny_model, tmp_path):
    trainer, clock = make_trainer(tiny_model, tmp_path, max_steps=8), Clock()
    trainer.add_callback(clock)
    trainer.add_callback(slow_probe(trainer, clock, max_time_share=0.5))
    trainer.train()
    # Ten seconds at step 0; at step 4 (20 + 10 s passed) a second probe makes it 20 of 40 s, at step 6 30 of 60, …
    assert list(probed(trainer)) == [0, 4, 6, 8]
    assert [row["ibtpo/probe/seconds"] for row in probed(trainer).values()] == [10.0] * 4
    assert [row["ibtpo/probe/time_share"] for row in probed(trainer).values()] == [1.0, 0.5, 0.5, 0.5]


def test_a_resumed_run_probes_as_the_undisturbed_one_and_keeps_the_account_of_time(tiny_model, tmp_path):
    def run(resume=None):
        trainer, clock = make_trainer(tiny_model, tmp_path, max_steps=8, save_strategy="steps", save_steps=4), Clock()
        trainer.add_callback(clock)
        trainer.add_callback(slow_probe(trainer, clock, max_time_share=0.5))
        trainer.train(resume_from_checkpoint=resume)
        return probed(trainer)

    whole = run()
    resumed = run(str(tmp_path / "checkpoint-4"))
    assert list(resumed) == list(whole) == [0, 4, 6, 8]
    for step in (6, 8):
        assert resumed[step] == pytest.approx(whole[step], abs=1e-6)


def test_an_adapter_is_probed_switched_on(tiny_model, tmp_path):
    peft = pytest.importorskip("peft", reason="PEFT is not installed")
    lora = peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=True)
    trainer = make_trainer(tiny_model, tmp_path, peft=lora)
    trainer.add_callback(IBScoreCallback(trainer, every=3, num_prompts=4, search=SEARCH, max_time_share=1.0))
    trainer.train()
    expected = by_hand(AutoModelForCausalLM.from_pretrained(tiny_model), trainer.processing_class, PROMPTS[:4])
    rows = probed(trainer)
    assert rows[0]["ibtpo/probe/ib_score"] == pytest.approx(expected["ib_score"], abs=1e-5)
    merged = trainer.model.merge_and_unload()
    expected = by_hand(merged, trainer.processing_class, PROMPTS[:4])
    assert rows[3]["ibtpo/probe/ib_score"] == pytest.approx(expected["ib_score"], abs=1e-5)
    assert rows[0]["ibtpo/probe/ib_score"] != rows[3]["ibtpo/probe/ib_score"]


def test_prompts_may_be_texts_rows_or_problems_by_name(tiny_model, tmp_path):
    trainer = make_trainer(tiny_model, tmp_path)
    texts = IBScoreCallback(trainer, ["ad", "ad", "be"]).prompts
    assert [p.text for p in texts] == ["ad", "ad", "be"]
    assert texts[1].id == texts[0].id + "+"
    (row,) = IBScoreCallback(trainer, [{"id": "x", "prompt": "cf", "target": 3}]).prompts
    assert (row.id, row.text, row.columns["target"]) == ("x", "cf", 3)
    (tmp_path / "p.jsonl").write_text('{"question": "ab", "answer": "7"}\n{"question": "cd", "answer": "8"}\n')
    named = IBScoreCallback(trainer, str(tmp_path / "p.jsonl"), num_prompts=1).prompts
    assert [(p.id, p.text, p.columns["answer"]) for p in named] == [("p-1", "ab", "7")]


def test_what_cannot_be_probed_is_refused_before_training(tiny_model, tmp_path):
    trainer = make_trainer(tiny_model, tmp_path)
    cases = [
        ({"prompts": []}, DataError, "0 prompts"),
        ({"prompts": [{"question": "ab"}]}, DataError, "probe prompt 1 has no column 'prompt'; it has question"),
        ({"prompts": ["ab" * 200]}, DataError, "400"),
        ({"every": 0}, ConfigError, "every must be at least 1, got 0"),
        ({"max_time_share": 5}, ConfigError, r"max_time_share must be in \(0, 1\], got 5"),
        ({"reward_funcs": ["maht"]}, ConfigError, "did you mean 'math'"),
        ({"reward_funcs": ["math", more_a_than_b]}, ConfigError, "mixes names and functions"),
    ]
    for options, error, text in cases:
        with pytest.raises(error, match=text):
            IBScoreCallback(trainer, **options)
    state = SimpleNamespace(fsdp_plugin=SimpleNamespace(fsdp_version=1))
    fake = SimpleNamespace(accelerator=SimpleNamespace(state=state), is_fsdp_enabled=True, args=trainer.args)
    with pytest.raises(ConfigError, match="under FSDP1: set fsdp_version: 2"):
        IBScoreCallback(fake)


def test_a_probe_that_fails_is_a_warning_and_training_goes_on(tiny_model, tmp_path, monkeypatch):
    async def broken(self, *args):
        raise EngineError("out of memory")

    monkeypatch.setattr(TransformersEngine, "generate", broken)
    trainer = make_trainer(tiny_model, tmp_path, max_steps=2)
    search = SearchOptions(Budget(2, 1), max_completion_length=4, retries=0)
    trainer.add_callback(IBScoreCallback(trainer, every=2, search=search, max_time_share=1.0))
    with (
        pytest.warns(UserWarning, match="the probe at step 0 failed"),
        pytest.warns(UserWarning, match=r"the probe at step 2 failed, training goes on: .*out of memory"),
    ):
        trainer.train()
    assert trainer.state.global_step == 2
    assert not probed(trainer)


def test_trees_that_cannot_be_stored_do_not_stop_training(tiny_model, tmp_path):
    (tmp_path / "file").write_text("")
    trainer = make_trainer(tiny_model, tmp_path / "run", max_steps=1)
    trainer.add_callback(IBScoreCallback(trainer, every=5, search=SEARCH, trees_dir=tmp_path / "file" / "trees"))
    with pytest.warns(UserWarning, match="the probe at step 0 failed, training goes on: .*file"):
        trainer.train()
    assert trainer.state.global_step == 1


@pytest.mark.filterwarnings("error:the probe at")
def test_a_second_train_is_probed_too_when_rewards_are_given_by_name(tiny_model, tmp_path):
    trainer = make_trainer(tiny_model, tmp_path, max_steps=1)
    rows = [{"prompt": "ad", "answer": "1"}]
    trainer.add_callback(IBScoreCallback(trainer, rows, "math", every=1, search=SEARCH, max_time_share=1.0))
    for _ in range(2):
        trainer.train()
        assert set(probed(trainer)) == {0, 1}


def test_a_probe_whose_rewards_all_fail_says_why(tiny_model, tmp_path):
    def reward(completions, **kwargs):
        raise KeyError("target")

    trainer = make_trainer(tiny_model, tmp_path, max_steps=1)
    trainer.add_callback(IBScoreCallback(trainer, ["ad"], reward, every=5, search=SEARCH))
    with pytest.warns(UserWarning, match="rewards of all 6 answers failed; the first: reward: KeyError: 'target'"):
        trainer.train()
    assert not probed(trainer)


def test_what_rewards_hand_to_the_log_stays_out_of_trainings_metrics(tiny_model, tmp_path):
    def reward(completions, log_metric, trainer_state, **kwargs):
        log_metric("probe_only", 1.0)
        assert trainer_state.max_steps == 1
        return [1.0] * len(completions)

    trainer = make_trainer(tiny_model, tmp_path, max_steps=1)
    trainer.add_callback(IBScoreCallback(trainer, ["ad"], reward, every=1, search=SEARCH, max_time_share=1.0))
    trainer.train()
    assert probed(trainer)[1]["ibtpo/probe/avg_rate"] == 1.0
    assert not any("probe_only" in row for row in trained(trainer))
