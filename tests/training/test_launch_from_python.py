"""`ibtpo.train`: one call from settings to a trained model, gone on with and prolonged, inside a running event loop."""

import asyncio
import json
import logging
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml

import ibtpo
from helpers.tiny_model import make_tiny_model
from ibtpo.cli import main
from ibtpo.errors import CheckpointError, ConfigError, DataError

pytestmark = pytest.mark.usefixtures("verifiers")

REWARDS = """
def more_a(completions, **columns):
    return [float(c.count("a") > c.count("b")) for c in completions]

def short(completions, **columns):
    return [float(len(c) < 12) for c in completions]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("python")
    make_tiny_model(folder / "model")
    (folder / "letter_rewards.py").write_text(REWARDS)
    rows = [{"ask": "abc"[i % 3] + "defg"[i % 4], "gold": "-"} for i in range(8)]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def verifiers(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(place))


def settings(place: Path, **changes: Any) -> dict[str, Any]:
    return {
        "model": place / "model", "data": place / "data.jsonl", "eval_data": place / "data.jsonl", "eval_limit": 2,
        "eval_k": 2, "question_column": "ask", "answer_column": "gold",
        "verifier": ["letter_rewards:more_a", "letter_rewards:short"], "reward_weights": [1, "5e-1"],
        "verifier_workers": 1, "prompts_per_step": 2, "num_generations": 4, "max_completion_length": 16,
        "temperature": 1.0, "learning_rate": 0.01, "max_steps": 2, "threads": 1, "seed": 3, **changes,
    }  # fmt: skip


@pytest.fixture(scope="module")
def trained(place: Path) -> tuple[Any, list[str]]:
    """A run of two steps, started where an event loop runs."""
    messages: list[str] = []

    async def notebook() -> Any:
        return ibtpo.train(settings(place), output=place / "run", on_message=messages.append)

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(place))
        return asyncio.run(notebook()), messages


def rows_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_run_says_where_it_is_and_what_it_measured(place: Path, trained: tuple[Any, list[str]]) -> None:
    run, messages = trained
    assert run.path == place / "run"
    stored = yaml.safe_load((run.path / "config.yaml").read_text())
    assert stored == run.settings
    assert stored["verifier"] == ["letter_rewards:more_a", "letter_rewards:short"]
    assert stored["reward_weights"] == [1.0, 0.5]
    assert (stored["question_column"], stored["answer_column"]) == ("ask", "gold")
    evals = json.loads((run.path / "eval.json").read_text())
    assert (run.before, run.after) == (evals["before"], evals["after"])
    assert (run.before["n"], run.before["k"]) == (2, 2)
    rows = [row for row in rows_of(run.path / "metrics.jsonl") if "loss" in row]
    assert [row["step"] for row in rows] == [1, 2]
    assert run.generated_tokens == rows[-1]["ibtpo/generated_tokens_total"]
    assert run.seconds > 0
    assert messages[0] == (
        f"ibtpo: {place / 'model'} on {place / 'data.jsonl'} (8 problems), 4 answers a question, run folder {run.path}"
    )
    assert [m.partition(":")[0] for m in messages[1:]] == [
        "held-out accuracy before training",
        "held-out accuracy after training",
    ]


def test_the_reward_is_the_weighted_sum_and_the_first_verifier_decides_what_is_right(
    trained: tuple[Any, list[str]],
) -> None:
    trees = list(ibtpo.read_trees(trained[0].path / "trees" / "step_000001.jsonl.gz"))
    assert len(trees) == 2
    for tree in trees:
        for i, leaf in enumerate(tree.leaves):
            text = tree.completion_text(i)
            assert leaf.reward == (text.count("a") > text.count("b")) + 0.5 * (len(text) < 12)


def test_the_trained_model_can_be_loaded(trained: tuple[Any, list[str]]) -> None:
    model, tokenizer = trained[0].load_model()
    assert not model.training
    assert tokenizer.eos_token_id is not None


def test_a_finished_run_is_prolonged_and_its_older_result_kept(
    place: Path, trained: tuple[Any, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = trained
    first = rows_of(run.path / "evals.jsonl")
    calls: list[int] = []

    class Steps(pytest.importorskip("transformers").TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            calls.append(state.global_step)

    more = ibtpo.train(resume=run.path, max_steps=3, callbacks=[Steps()])
    assert capsys.readouterr() == ("", "")
    assert calls == [3]
    assert yaml.safe_load((run.path / "config.yaml").read_text())["max_steps"] == 3
    assert more.before == run.before
    assert more.generated_tokens > run.generated_tokens
    rows = rows_of(run.path / "evals.jsonl")
    assert [row["step"] for row in rows] == [0, 2, 3]
    assert rows[0] == first[0]
    assert rows[1] == {**first[1], "kept": True}
    assert more.after == json.loads((run.path / "eval.json").read_text())["after"]
    assert {k: rows[2][k] for k in ("avg", "k", "n")} == {k: more.after[k] for k in ("avg", "k", "n")}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 1e-5}, r"leave out \['learning_rate'\]: only max_generated_tokens, max_steps, num_train"),
        ({"max_generated_tokens": 10**6}, r"ends by max_steps, max_generated_tokens cannot prolong it"),
        ({"max_steps": 1}, r"max_steps was \d, and the end of a run can only be put off; got 1"),
    ],
)
def test_nothing_but_the_end_of_a_run_may_change(trained: tuple[Any, list[str]], changes: dict, message: str) -> None:
    before = (trained[0].path / "config.yaml").read_bytes()
    with pytest.raises(ConfigError, match=message):
        ibtpo.train(resume=trained[0].path, **changes)
    assert (trained[0].path / "config.yaml").read_bytes() == before


def test_a_finished_run_without_checkpoints_cannot_be_prolonged(
    place: Path, trained: tuple[Any, list[str]], tmp_path: Path
) -> None:
    for name in ("config.yaml", "eval.json", "evals.jsonl", "metrics.jsonl"):
        (tmp_path / name).write_bytes((trained[0].path / name).read_bytes())
    before = (tmp_path / "config.yaml").read_bytes()
    for changes in ({"max_steps": 9}, {}):
        with pytest.raises(CheckpointError, match="is finished and its checkpoints are gone"):
            ibtpo.train(resume=tmp_path, **changes)
    assert (tmp_path / "config.yaml").read_bytes() == before


def test_a_run_that_its_tokens_end_within_a_generation_batch_is_prolonged_to_the_same_losses(
    place: Path, tmp_path: Path
) -> None:
    how = {"num_iterations": 2, "max_steps": -1, "eval_data": "none"}
    whole = ibtpo.train(settings(place, **how, max_generated_tokens=200), output=tmp_path / "whole")
    part = ibtpo.train(settings(place, **how, max_generated_tokens=1), output=tmp_path / "part")
    steps = tmp_path / "part" / "checkpoints"
    assert [p.name for p in steps.glob("checkpoint-*")] == ["checkpoint-1"]  # the second step of the batch is to come
    assert (steps / "checkpoint-1" / "ibtpo_batch_0.pt").is_file()
    more = ibtpo.train(resume=part.path, max_generated_tokens=200)
    assert more.generated_tokens == whole.generated_tokens > part.generated_tokens
    losses = [[r["loss"] for r in rows_of(run.path / "metrics.jsonl") if "loss" in r] for run in (whole, more)]
    assert len(losses[0]) > 2
    assert losses[1] == pytest.approx(losses[0], abs=1e-6)


def steps_of(calls: list[int]) -> Any:
    """A callback that adds the number of each step to `calls`."""

    class Steps(pytest.importorskip("transformers").TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            calls.append(state.global_step)

    return Steps()


def test_a_run_that_its_tokens_end_leaves_a_checkpoint_of_its_last_step(place: Path, tmp_path: Path) -> None:
    changes = {"max_steps": None, "eval_data": "none"}
    first = {k: v for k, v in settings(place, **changes).items() if v is not None}
    whole = ibtpo.train(first, output=tmp_path / "whole", max_generated_tokens=600)
    calls: list[int] = []
    run = ibtpo.train(first, output=tmp_path / "run", max_generated_tokens=300, callbacks=[steps_of(calls)])
    end = calls[-1]
    assert 2 <= end < 10  # before the first checkpoint that save_steps asks for
    assert [p.name for p in (run.path / "checkpoints").glob("*-*")] == [f"checkpoint-{end}"]
    same = ibtpo.train(resume=run.path, callbacks=[steps_of(calls)])
    assert (calls[-1], same.generated_tokens) == (end, run.generated_tokens)
    longer = ibtpo.train(resume=run.path, max_generated_tokens=600, callbacks=[steps_of(calls)])
    rows = [[row for row in rows_of(r.path / "metrics.jsonl") if "loss" in row] for r in (whole, longer)]
    assert calls == [row["step"] for row in rows[0]]
    assert calls[-1] > end
    assert [row["loss"] for row in rows[1]] == pytest.approx([row["loss"] for row in rows[0]], abs=1e-6)
    assert longer.generated_tokens == whole.generated_tokens >= 600
    shutil.rmtree(longer.path / "checkpoints")
    for more in ({"max_generated_tokens": 900}, {}):
        with pytest.raises(CheckpointError, match="is finished and its checkpoints are gone"):
            ibtpo.train(resume=longer.path, **more)


def test_a_run_that_its_steps_have_ended_trains_none_when_resumed(
    place: Path, trained: tuple[Any, list[str]], tmp_path: Path
) -> None:
    run = ibtpo.train(settings(place, eval_data="none"), output=tmp_path / "run")
    calls: list[int] = []
    again = ibtpo.train(resume=run.path, callbacks=[steps_of(calls)])
    assert calls == []
    assert again.generated_tokens == run.generated_tokens


def test_a_trainer_that_refuses_leaves_an_older_run_as_it_was(
    place: Path, trained: tuple[Any, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise ValueError("no")

    monkeypatch.setattr("ibtpo.training.trainer.IBTPOTrainer", refuse)
    files = {p: p.stat().st_mtime_ns for p in trained[0].path.rglob("*")}
    with pytest.raises(ConfigError, match="the trainer refuses these settings: no"):
        ibtpo.train(resume=trained[0].path, max_steps=9)
    with pytest.raises(ConfigError, match="the trainer refuses these settings: no"):
        ibtpo.train(settings(place), output=trained[0].path, overwrite=True)
    assert {p: p.stat().st_mtime_ns for p in trained[0].path.rglob("*")} == files


def test_what_training_sets_in_the_process_is_restored(place: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from transformers.utils import logging as hf

    def state() -> Any:
        bars, level = hf.is_progress_bar_enabled(), logging.getLogger("trl").level
        return hf.get_verbosity(), bars, level, list(warnings.filters), torch.get_num_threads()

    threads, verbosity = torch.get_num_threads(), hf.get_verbosity()
    try:
        torch.set_num_threads(2)
        hf.set_verbosity_info()
        before = state()
        ibtpo.train(settings(place, threads=1, max_steps=1, eval_data="none"), output=tmp_path / "run")
        assert state() == before
        with pytest.raises(DataError):
            ibtpo.train(settings(place, question_column="qestion"), output=tmp_path / "no")
        assert state() == before
    finally:
        torch.set_num_threads(threads)
        hf.set_verbosity(verbosity)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"learning_rat": 1}, ConfigError, "did you mean 'learning_rate'"),
        ({"output": "x"}, ConfigError, r"the recipe: 'output' is for the command line: --output \(in Python output"),
        ({"reward_weights": [1.0]}, ConfigError, r"1 weight for 2 reward functions"),
        ({"reward_weights": 1.0}, ConfigError, r"reward_weights must be a list such as \[1, 0.5\], got 1.0"),
        ({"verifier": "math, mth"}, ConfigError, "unknown reward 'mth'; did you mean 'math'"),
        ({"verifier": [1.5, True]}, ConfigError, "each of verifier must be text, got True"),
        ({"question_column": "qestion"}, DataError, "qestion"),
    ],
)
def test_what_is_wrong_is_told_before_an_older_run_is_touched(
    place: Path, trained: tuple[Any, list[str]], changes: dict, error: Any, message: str
) -> None:
    files = {p: p.stat().st_mtime_ns for p in trained[0].path.rglob("*")}
    with pytest.raises(error, match=message):
        ibtpo.train(settings(place, **changes), output=trained[0].path, overwrite=True)
    assert {p: p.stat().st_mtime_ns for p in trained[0].path.rglob("*")} == files


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora": {"lora_dropot": 8}}, "unknown option of lora 'lora_dropot'; did you mean 'lora_dropout'"),
        ({"lora": "all"}, r"lora must be a mapping such as \{key: value\}, got 'all'"),
        ({"lora": {"r": 8}, "lora_r": 4}, "lora_r is 4 but lora has r: 8; give the rank once"),
        ({"lora": {"r": 0}}, "PEFT"),
        ({"lora": {"target_modules": ["q_projj"]}}, "PEFT cannot put this adapter into"),
    ],
)
def test_a_wrong_adapter_is_told_before_an_older_run_is_touched(
    place: Path, trained: tuple[Any, list[str]], changes: dict, message: str
) -> None:
    pytest.importorskip("peft")
    files = {p: p.stat().st_mtime_ns for p in trained[0].path.rglob("*")}
    with pytest.raises(ConfigError, match=message):
        ibtpo.train(settings(place, **changes), output=trained[0].path, overwrite=True)
    assert {p: p.stat().st_mtime_ns for p in trained[0].path.rglob("*")} == files


def test_any_option_of_peft_can_be_given(place: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    lora = {"r": 2, "target_modules": ["q_proj"], "use_rslora": True}
    run = ibtpo.train(settings(place, lora=lora, max_steps=1, eval_data="none"), output=tmp_path / "lora")
    adapter = json.loads((run.path / "model" / "adapter_config.json").read_text())
    assert (adapter["r"], adapter["lora_alpha"], adapter["use_rslora"]) == (2, 16, True)
    assert adapter["target_modules"] == ["q_proj"]
    model, _ = run.load_model()
    assert any("lora_A" in name for name, _ in model.named_parameters())
    assert (run.before, run.after) == (None, None)


def test_the_command_reads_lists_and_mappings_as_yaml(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--verifier", "[math, letter_rewards:short]", "--reward_weights", "[1, 0.5]"]
    words += ["--lora", "{r: 8, target_modules: [q_proj, v_proj]}", "--question-column", "ask"]
    assert main(["train", "--dry-run", "--json", *words]) == 0
    plan = json.loads(capsys.readouterr().out)["settings"]
    assert plan["verifier"] == ["math", "letter_rewards:short"]
    assert plan["lora"] == {"r": 8, "target_modules": ["q_proj", "v_proj"]}
    assert plan["question_column"] == "ask"


def test_overwriting_and_going_on_exclude_each_other(place: Path) -> None:
    with pytest.raises(ConfigError, match="give one of them"):
        ibtpo.train(settings(place), output=place / "run", resume=True, overwrite=True)
    with pytest.raises(ConfigError, match="--resume needs the run folder"):
        ibtpo.train(resume=True)
