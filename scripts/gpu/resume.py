"""Kills `ibtpo sample` and `ibtpo train` in the middle, goes on with them, and compares with what nobody disturbed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpu_report import Report

ROOT = Path(__file__).resolve().parents[2]
TREES = 32
STEPS = 4


def command(*words: str) -> tuple[list[str], dict[str, Any]]:
    """How to start `ibtpo` with these words in a process of its own: the command, and options of `subprocess`."""
    paths = [str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}
    return [sys.executable, "-m", "ibtpo", *words], {"env": environment, "stdout": subprocess.DEVNULL}


def whole(*words: str) -> None:
    """Runs `ibtpo` to its end. Raises `RuntimeError` with its last words if it fails."""
    words, options = command(*words)
    done = subprocess.run(words, stderr=subprocess.PIPE, text=True, check=False, **options)
    if done.returncode:
        raise RuntimeError(done.stderr[-300:])


def killed(ready: Callable[[], bool], *words: str) -> None:
    """Runs `ibtpo` and kills it once `ready` says so. Raises `RuntimeError` if it ends before."""
    words, options = command(*words)
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, **options)
    try:
        while not ready():
            if process.poll() is not None:
                raise RuntimeError(f"it ended before it could be killed: {process.communicate()[1][-300:]}")
            time.sleep(0.005)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.communicate()


def lines(path: Path, word: str = "") -> list[str]:
    """The whole lines of a file that hold a word; none if there is no file."""
    text = path.read_text() if path.exists() else ""
    return [line for line in text.splitlines(keepends=True) if line.endswith("\n") and word in line]


def killed_sampling(report: Report, folder: Path, device: str) -> None:
    """Trees of a killed and resumed `ibtpo sample` are all there once; those that were on disk stay as they were."""
    words = [
        "sample", "--model", "nano", "--device", device, "--data", "walk:train", "--limit", str(TREES),
        "--max-in-flight", "8", "--max-completion-length", "36", "--temperature", "1", "--top-p", "1", "--top-k", "0",
        "--tree", "4,3,1,1", "--quiet",
    ]  # fmt: skip
    whole(*words, "--output", str(folder / "whole.jsonl"))
    path = folder / "killed.jsonl"
    part = path.with_name(path.name + ".partial")
    killed(lambda: len(lines(part)) >= TREES // 8, *words, "--output", str(path))
    kept = lines(part)
    whole(*words, "--output", str(path), "--resume")
    expected, found = ([json.loads(line) for line in lines(folder / f"{n}.jsonl")] for n in ("whole", "killed"))
    report.add("sampling killed and resumed: trees missing or twice", _differ(found, expected), 0)
    lost = set(kept) - set(lines(path))
    report.add("sampling killed and resumed: trees on disk that changed", len(lost), 0, note=f"of {len(kept)}")
    tokens = [[[node.get("token_ids") for node in tree["nodes"]] for tree in trees] for trees in (found, expected)]
    same = sum(a == b for a, b in zip(*tokens, strict=True)) / len(expected)
    report.add("sampling killed and resumed: share of the undisturbed run's trees", same, 0.8, least=True)


def _differ(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> int:
    ids = [[tree["id"] for tree in trees] for trees in (found, expected)]
    return abs(len(ids[0]) - len(ids[1])) + sum(a != b for a, b in zip(*ids, strict=False))


def killed_training(report: Report, folder: Path, device: str) -> None:
    """A killed and resumed `ibtpo train` makes each step once, and ends with the losses of an undisturbed run."""
    words = [
        "train", "nano-walk", "--prompts_per_step", "4", "--max_steps", str(STEPS), "--save_steps", "1",
        "--eval_limit", "4", "--eval_k", "1", "--deterministic_rollouts", "true", "--quiet",
    ]  # fmt: skip
    if device == "cpu":
        words += ["--use_cpu", "true"]
    whole(*words, "--output", str(folder / "whole"))
    run = folder / "killed"
    killed(lambda: len(lines(run / "metrics.jsonl", '"loss"')) >= STEPS // 2, *words, "--output", str(run))
    whole("train", "--resume", str(run), "--quiet")
    expected, found = (_losses(folder / name) for name in ("whole", "killed"))
    wrong = len(set(found) ^ set(expected)) + (len(found) != STEPS)
    report.add("training killed and resumed: steps missing or too many", wrong, 0)
    gap = max(abs(found[step] - expected[step]) for step in found.keys() & expected.keys())
    # On a GPU a draw that rounding turns changes a tree, and with it the losses that follow.
    report.add("training killed and resumed: largest difference of a loss", gap, 1e-6 if device == "cpu" else None)


def _losses(run: Path) -> dict[int, float]:
    rows = [json.loads(line) for line in lines(run / "metrics.jsonl", '"loss"')]
    return {row["step"]: row["loss"] for row in rows}
