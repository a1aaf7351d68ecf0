"""`ibtpo train` as a user runs it: killed and resumed, refused when the folder is taken."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from helpers import own_engine
from helpers.tiny_model import make_tiny_model
from ibtpo.cli import main

REWARD = """
def reward(completions, **columns):
    return [float(c.count("a") > c.count("b")) for c in completions]
"""
SETTINGS = {
    "eval_limit": 4,
    "eval_k": 2,
    "verifier": "more_a:reward",
    "prompts_per_step": 4,
    "num_generations": 12,
    "max_completion_length": 24,
    "temperature": 1.0,
    "learning_rate": 0.01,
    "save_steps": 2,
    "threads": 1,
    "seed": 3,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a tiny model, problems, a verifier and a recipe of about eleven steps."""
    folder = tmp_path_factory.mktemp("train")
    make_tiny_model(folder / "model")
    (folder / "more_a.py").write_text(REWARD)
    rows = [{"question": "abc"[i % 3] + "defg"[i % 4] + "hij"[i % 3], "answer": "-"} for i in range(12)]
    for name in ("data", "held_out"):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    settings = {**SETTINGS, "model": str(folder / "model"), "data": str(folder / "data.jsonl")}
    settings |= {"eval_data": str(folder / "held_out.jsonl"), "max_generated_tokens": 8000}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(settings))
    return folder


def environment(place):
    paths = [str(place), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def ibtpo(place, *args, launcher=()):
    command = [sys.executable, *launcher, "-m", "ibtpo", "train", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, env=environment(place), cwd=place, timeout=500)


def losses(run: Path) -> dict[int, float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {r["step"]: r["loss"] for r in rows if "loss" in r}


@pytest.fixture(scope="module")
def whole(place):
    done = ibtpo(place, "recipe.yaml", "--output", "whole")
    assert done.returncode == 0, done.stderr[-3000:]
    return place / "whole", done


def test_a_run_leaves_the_documented_folder_and_prints_before_and_after(whole):
    folder, done = whole
    steps = losses(folder)
    assert list(steps) == list(range(1, len(steps) + 1))
    assert len(steps) >= 6
    result = json.loads((folder / "eval.json").read_text())
    for name in ("before", "after"):
        assert result[name]["n"] == 4
        assert result[name]["k"] == 2
        assert 0 <= result[name]["avg"] <= result[name]["pass"] <= 1
    assert yaml.safe_load((folder / "config.yaml").read_text())["ib_beta"] == 5.0
    assert json.loads((folder / "env.json").read_text())["ibtpo"]
    assert (folder / "trees" / "step_000001.jsonl.gz").exists()
    assert (folder / "model" / "model.safetensors").exists()
    assert "before" in done.stdout
    assert "after" in done.stdout
    assert done.stdout.splitlines()[-1] == f"report: {folder.name}/report.html"
    assert (folder / "report.html").exists()
    assert (folder / "trees.html").exists()
    assert "\x1b" not in done.stdout  # plain lines when not a terminal


def test_a_run_killed_again_and_again_ends_with_the_losses_of_an_undisturbed_one(place, whole):
    expected = losses(whole[0])
    run = place / "killed"
    args = ["recipe.yaml", "--output", "killed"]
    for rows, pause in ((1, 0.0), (3, 0.15), (5, 0.05)):  # at different places of a step and of a checkpoint
        process = begin(place, *args)
        wait_for_rows(process, run, rows)
        time.sleep(pause)
        assert process.poll() is None, "the run ended before it could be killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
        args = ["--resume", "killed"]
    done = ibtpo(place, "--resume", "killed")
    assert done.returncode == 0, done.stderr[-3000:]
    found = losses(run)
    assert list(found) == list(expected)
    np.testing.assert_allclose(list(found.values()), list(expected.values()), atol=1e-6, rtol=0)
    evals = [json.loads((f / "eval.json").read_text()) for f in (whole[0], run)]
    assert evals[0] == evals[1]


def begin(place, *words):
    """A run in a process of its own."""
    command = [sys.executable, "-m", "ibtpo", "train", *words]
    how = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment(place), cwd=place, **how)


def wait_for_rows(process, run, rows):
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        if (run / "metrics.jsonl").exists() and len(losses_so_far(run)) >= rows:
            break
        time.sleep(0.02)
    assert process.poll() is None, process.stderr.read()[-3000:]


def test_signals_end_a_run_with_a_checkpoint_and_it_goes_on_to_the_same_losses(place, whole):
    expected = losses(whole[0])
    run = place / "stopped folder"  # a name that a shell would take apart
    words = ["recipe.yaml", "--output", run.name, "--save_steps", "100", "--quiet"]
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        before = len(losses_so_far(run)) if run.exists() else 0
        process = begin(place, *words)
        wait_for_rows(process, run, before + 1)  # a signal in the first seconds would meet no training yet
        if number == signal.SIGTERM:  # a second process is refused, also while the first one hangs
            process.send_signal(signal.SIGSTOP)
            second = ibtpo(place, "--resume", run.name)
            process.send_signal(signal.SIGCONT)
            assert second.returncode == 2
            assert f"{run.name} is being trained by process {process.pid} on " in second.stderr
            assert second.stderr.count("\n") == 1
        process.send_signal(number)
        _, err = process.communicate(timeout=300)
        assert process.returncode == 128 + number, err[-3000:]
        assert err.splitlines()[-1] == "interrupted; go on with: ibtpo train --resume 'stopped folder'"
        step = max(losses(run))
        assert step < len(expected)
        assert (run / "checkpoints" / f"checkpoint-{step}" / "ibtpo_state.json").is_file()
        assert not (run / "model").exists()
        words = ["--resume", run.name, "--quiet"]
    done = ibtpo(place, *words)
    assert done.returncode == 0, done.stderr[-3000:]
    found = losses(run)
    assert list(found) == list(expected)
    np.testing.assert_allclose(list(found.values()), list(expected.values()), atol=1e-6, rtol=0)
    assert json.loads((run / "eval.json").read_text()) == json.loads((whole[0] / "eval.json").read_text())


def losses_so_far(run):
    return [line for line in (run / "metrics.jsonl").read_text().splitlines() if '"loss"' in line]


def test_resuming_a_finished_run_trains_no_further(place, whole):
    folder, _ = whole
    before = (folder / "metrics.jsonl").read_text()
    done = ibtpo(place, "--resume", "whole")
    assert done.returncode == 0, done.stderr[-3000:]
    old, new = (
        [json.loads(line)["step"] for line in text.splitlines() if '"loss"' in line]
        for text in (before, (folder / "metrics.jsonl").read_text())
    )
    assert new == old


def test_a_finished_run_goes_on_with_more_tokens_and_keeps_its_older_result(place, whole):
    longer = place / "longer"
    shutil.copytree(whole[0], longer)
    done = ibtpo(place, "--resume", "longer", "--max_generated_tokens", 10000)
    assert done.returncode == 0, done.stderr[-3000:]
    first, found = losses(whole[0]), losses(longer)
    assert len(found) > len(first)
    np.testing.assert_allclose([found[step] for step in first], list(first.values()), atol=1e-6, rtol=0)
    assert yaml.safe_load((longer / "config.yaml").read_text())["max_generated_tokens"] == 10000
    before, after = (
        [json.loads(line) for line in (folder / "evals.jsonl").read_text().splitlines()]
        for folder in (whole[0], longer)
    )
    assert after[:-1] == [before[0], {**before[1], "kept": True}]
    assert after[-1]["generated_tokens"] >= 8000
    assert json.loads((longer / "eval.json").read_text())["after"]["avg"] == after[-1]["avg"]


def test_accelerate_launch_that_starts_one_process_for_two_is_refused(place):
    launcher = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1"]
    launcher += ["--mixed_precision", "no", "--dynamo_backend", "no", "--quiet"]
    done = ibtpo(place, "recipe.yaml", "--output", "two", launcher=launcher)
    assert done.returncode == 1
    (message,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert message.startswith("error: accelerate launch was to start several processes and started one")
    assert not (place / "two").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="on GPUs the processes find each other")
def test_processes_that_would_each_train_alone_are_refused(place):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = ibtpo(place, "recipe.yaml", "--output", "alone", launcher=launcher)
    assert done.returncode == 1
    messages = {line for line in done.stderr.splitlines() if line.startswith("error: ")}
    (message,) = messages  # both processes say it
    assert message.startswith("error: a launcher started 2 processes, but accelerate brought 1 together")
    assert not (place / "alone").exists()


def test_grpo_runs_at_the_same_token_budget(place, whole):
    done = ibtpo(place, "recipe.yaml", "--method", "grpo", "--output", "grpo", "--json", "--quiet")
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1])["after"]["n"] == 4
    rows = [json.loads(line) for line in (place / "grpo" / "metrics.jsonl").read_text().splitlines()]
    trajectories = {r["ibtpo/trajectories"] for r in rows if "loss" in r}
    assert trajectories == {4 * 8}
    totals = [r["ibtpo/generated_tokens_total"] for r in rows if "loss" in r]
    assert totals[-1] >= 8000 > totals[-2]


def test_a_folder_that_exists_is_refused_and_nothing_in_it_is_touched(place, whole, capsys):
    folder, _ = whole
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    assert main(["train", str(place / "recipe.yaml"), "--output", str(folder)]) == 2
    message = capsys.readouterr().err
    assert "--resume" in message
    assert "--overwrite" in message
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before


def test_an_engine_by_dotted_path_trains_and_evaluates(place, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(place))
    monkeypatch.setenv("PYTHONPATH", str(place))
    own_engine.MADE.clear()
    more = ["--engine", "helpers.own_engine:make", "--max_generated_tokens", "100", "--threads", "1", "--quiet"]
    assert main(["train", str(place / "recipe.yaml"), "--output", str(place / "own"), *more]) == 0, capsys.readouterr()
    assert sorted(len(engine.answers) for engine in own_engine.MADE) == [8, 8, 48]  # two evaluations and a step
    found = json.loads((place / "own" / "eval.json").read_text())
    # The engine's answers depend on the seed alone, so training changes nothing.
    answers = next(engine.answers for engine in own_engine.MADE if len(engine.answers) == 8)
    right = [ids.count(own_engine.A) > ids.count(own_engine.B) for ids in answers]
    assert found["before"]["avg"] == found["after"]["avg"] == pytest.approx(sum(right) / 8)
    assert yaml.safe_load((place / "own" / "config.yaml").read_text())["engine"] == "helpers.own_engine:make"


def test_a_dry_run_prints_the_plan_and_makes_no_folder(place, capsys):
    assert main(["train", str(place / "recipe.yaml"), "--output", str(place / "dry"), "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["trajectories_per_question"] == 12
    assert plan["answers_per_step"] == 48
    assert plan["settings"]["learning_rate"] == 0.01
    assert not (place / "dry").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU differentiates FlexAttention")
def test_flex_attention_is_refused_on_a_cpu_before_anything_starts(place, capsys):
    flex = ["--attn_implementation", "flex_attention", "--output", str(place / "flex")]
    assert main(["train", str(place / "recipe.yaml"), *flex]) == 2
    assert "flex_attention cannot train on a CPU" in capsys.readouterr().err
    assert not (place / "flex").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--learning_rat", "1e-6"], "did you mean 'learning_rate'"),
        (["--overwrit"], "did you mean 'overwrite'"),
        (["--method", "grp"], "did you mean 'grpo'"),
        (["--prompts_per_step", "many"], "prompts_per_step must be an integer"),
        (["--rows_per_forward", "7"], "rows_per_forward (7) must divide"),
        (["--num_generations", "10", "--tree", "4,9,1,1"], "12 trajectories but num_generations is 10"),
    ],
)
def test_wrong_options_name_themselves(place, capsys, args, message):
    recipe = "" if "--tree" in args else str(place / "recipe.yaml")
    assert main(["train", *filter(None, [recipe]), *args, "--dry-run"]) == 2
    assert message in capsys.readouterr().err
