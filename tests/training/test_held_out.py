"""Held-out accuracy on the way (`eval_every_tokens`): it changes no loss, is written once, and costs no step time."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from helpers.tiny_model import make_tiny_model
from ibtpo.errors import CheckpointError
from ibtpo.storage.run_folder import RunFolder

REWARD = "def reward(completions, **columns):\n    return [float(c.count('a') > c.count('b')) for c in completions]\n"
SETTINGS = {
    "model": "model", "data": "data.jsonl", "eval_data": "data.jsonl", "eval_limit": 5, "eval_k": 2,
    "verifier": "more_a:reward", "prompts_per_step": 2, "num_generations": 12, "max_completion_length": 24,
    "temperature": 1.0, "learning_rate": 0.01, "save_steps": 2, "threads": 1, "seed": 3, "max_generated_tokens": 2000,
}  # fmt: skip
EVERY = 600


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("held_out")
    make_tiny_model(folder / "model")
    (folder / "more_a.py").write_text(REWARD)
    rows = [{"id": f"p{i}", "question": "abc"[i % 3] + "defg"[i % 4], "answer": "-"} for i in range(12)]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "recipe.yaml").write_text(yaml.safe_dump(SETTINGS))
    return folder


def train(place: Path, *words: object) -> "subprocess.Popen[str]":
    paths = [str(place), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "ibtpo", "train", *map(str, words), "--quiet"]
    return subprocess.Popen(command, cwd=place, env=env, text=True, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)


def finish(process: "subprocess.Popen[str]") -> None:
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err[-3000:]


def steps(run: Path) -> dict[int, dict]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row for row in rows if "loss" in row}


@pytest.fixture(scope="module")
def measured(place: Path) -> Path:
    finish(train(place, "recipe.yaml", "--output", "measured", "--eval_every_tokens", EVERY))
    return place / "measured"


@pytest.mark.slow
def test_measuring_on_the_way_changes_nothing_else(place: Path, measured: Path) -> None:
    finish(train(place, "recipe.yaml", "--output", "plain", "--eval_before", "false"))
    without, with_ = steps(place / "plain"), steps(measured)
    timed = {key for row in with_.values() for key in row if key.startswith("time/")} | {"step_time"}
    for step, row in without.items():  # to the last bit: losses, tokens, every metric but times
        assert {k: v for k, v in row.items() if k not in timed} == {
            k: v for k, v in with_[step].items() if k not in timed
        }
    assert list(without) == list(with_)
    plain = json.loads((place / "plain" / "eval.json").read_text())
    assert list(plain) == ["after"]
    assert plain["after"] == json.loads((measured / "eval.json").read_text())["after"]


def test_the_rows_say_when_and_what(measured: Path) -> None:
    rows, logged = RunFolder(measured).read_evals(), steps(measured)
    totals = {step: row["ibtpo/generated_tokens_total"] for step, row in logged.items()}
    last = max(totals)
    due = [s for s in totals if s < last and totals[s] // EVERY > totals.get(s - 1, 0) // EVERY]
    assert len(due) >= 2
    assert [row["step"] for row in rows] == [0, *due, last]
    assert [row["generated_tokens"] for row in rows] == [0, *(totals[s] for s in (*due, last))]
    evals = json.loads((measured / "eval.json").read_text())
    assert (rows[0]["avg"], rows[-1]["avg"]) == (evals["before"]["avg"], evals["after"]["avg"])
    for row in rows:
        assert list(row["grades"]) == [f"p{i}" for i in range(5)]
        assert np.mean(list(row["grades"].values())) == pytest.approx(row["avg"])
        # Of training alone, so the same as the steps' own times, between which evaluations took place.
        seconds = sum(logged[s]["time/total"] for s in logged if s <= row["step"])
        assert row["seconds"] == pytest.approx(seconds, abs=0.01)


def test_the_report_draws_every_evaluation(measured: Path) -> None:
    page = (measured / "report.html").read_text()
    for row in RunFolder(measured).read_evals()[1:-1]:
        assert f"held out after step {row['step']} {100 * row['avg']:.1f} %" in page


@pytest.mark.slow
def test_a_killed_run_has_every_row_once(place: Path, measured: Path) -> None:
    run = place / "killed"
    process = train(place, "recipe.yaml", "--output", "killed", "--eval_every_tokens", EVERY)
    deadline = time.monotonic() + 200
    while len(RunFolder(run).read_evals()) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)  # until the first evaluation on the way is written; its checkpoint may not be
    assert process.poll() is None, process.stderr
    process.send_signal(signal.SIGKILL)
    process.communicate()
    finish(train(place, "--resume", "killed"))

    def without_times(folder: Path) -> list[dict]:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in RunFolder(folder).read_evals()]

    assert without_times(run) == without_times(measured)


def test_rows_of_a_step_replace_those_of_it_and_later_ones(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for step in (0, 4, 8):
        folder.add_evals(step, {"step": step, "avg": step / 10})
    folder.add_evals(4, {"step": 4, "avg": 0.9})
    assert folder.read_evals() == [{"step": 0, "avg": 0.0}, {"step": 4, "avg": 0.9}]
    folder.add_evals(1)
    assert [row["step"] for row in folder.read_evals()] == [0]
    (tmp_path / "evals.jsonl").write_text('{"step": 0}\n{"avg": 1}\n')
    with pytest.raises(CheckpointError, match=r"evals\.jsonl:2: expected an object with a step"):
        folder.read_evals()
