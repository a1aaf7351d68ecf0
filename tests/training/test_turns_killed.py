"""A run whose environments are at work is killed, and goes on to the losses of an undisturbed one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from helpers.tiny_model import make_tiny_model
from ibtpo.tree import read_trees

ENVIRONMENT = '''
import threading
import time


class Door:
    """Answers slowly, says how often it was knocked at, and holds a lock, so that it can only be replayed."""

    def __init__(self):
        self.lock = threading.Lock()

    def reset(self, **row):
        self.turns, self.knocks = 0, 0

    def respond(self, message):
        time.sleep(0.02)
        self.turns += 1
        self.knocks += message["content"].count("a")
        return None if self.turns > 2 else "abcde"[self.knocks % 5] * 2

    def get_reward(self):
        return float(self.knocks % 2)
'''


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    make_tiny_model(folder / "model")
    (folder / "door.py").write_text(ENVIRONMENT)
    rows = [{"question": "abc"[i % 3] + "defg"[i % 4] + "hij"[i % 3], "answer": "-"} for i in range(12)]
    (folder / "data.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    settings = {
        "model": str(folder / "model"), "data": str(folder / "data.jsonl"), "environment": "door:Door",
        "prompts_per_step": 2, "tree": "2,5,1,1", "num_generations": 6, "max_completion_length": 40, "temperature": 1.0,
        "learning_rate": 0.01, "save_steps": 1, "threads": 1, "seed": 3, "max_steps": 6, "eval_data": None,
        "splitter": "tokens:4", "save_trees_every": 1, "report_to": "none",
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(settings))
    return folder


def begin(place: Path, *words: str) -> "subprocess.Popen[str]":
    """A run in a process of its own."""
    paths = [str(place), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "ibtpo", "train", *words]
    return subprocess.Popen(command, env=env, cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def losses(run: Path) -> dict[int, Any]:
    """The losses that a run has logged, by step."""
    file = run / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    rows = [json.loads(line) for line in lines if line.endswith("}")]
    return {r["step"]: r["loss"] for r in rows if "loss" in r}


@pytest.mark.slow
def test_a_run_killed_while_its_environments_are_at_work_ends_with_the_losses_of_an_undisturbed_one(
    place: Path,
) -> None:
    whole = begin(place, "recipe.yaml", "--output", "whole")
    assert whole.wait(600) == 0, whole.stderr and whole.stderr.read()[-3000:]
    killed = begin(place, "recipe.yaml", "--output", "killed")
    while len(losses(place / "killed")) < 2:
        assert killed.poll() is None, killed.stderr and killed.stderr.read()[-3000:]
        time.sleep(0.02)
    time.sleep(0.1)  # while trees grow
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert len(losses(place / "killed")) < 6
    again = begin(place, "--resume", "killed")
    assert again.wait(600) == 0, again.stderr and again.stderr.read()[-3000:]
    expected, found = losses(place / "whole"), losses(place / "killed")
    assert list(found) == list(expected) == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(list(found.values()), list(expected.values()), atol=1e-6, rtol=0)
    for step in range(1, 7):
        name = f"trees/step_{step:06d}.jsonl.gz"
        trees, others = (list(read_trees(place / run / name)) for run in ("whole", "killed"))
        for tree, other in zip(trees, others, strict=True):
            for n, m in zip(tree.nodes, other.nodes, strict=True):
                assert (n.parent, n.step.token_ids, n.step.given) == (m.parent, m.step.token_ids, m.step.given)
                # Two processes' updates may differ in last bits, where memory is aligned differently.
                np.testing.assert_allclose(n.step.logprobs, m.step.logprobs, atol=1e-4)
        assert all(t.meta["environment"]["restored_by"] == "replay" for t in trees)
    assert any(t.given_tokens for t in trees)
