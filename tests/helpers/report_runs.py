"""Made-up run folders for the tests of the report, in which every number is known."""

import json
from pathlib import Path

import numpy as np
import yaml

from ibtpo.tree import ReasoningTree, Step, write_trees

CONFIG = {
    "model": "nano",
    "data": "walk:train",
    "method": "ibtpo",
    "tree": "2,2,1,1",
    "seed": 3,
    "dtype": "float32",
}
ENV = {"ibtpo": "0.1.0", "python": "3.11.7", "packages": {"torch": "2.6", "vllm": None}, "gpus": []}
TIMES = {"sampling": 3.0, "update": 1.5, "credit": 0.3, "verifying": 0.1, "other": 0.1, "total": 5.0}


def rows(n: int, **curves) -> list[dict]:
    """n rows of `metrics.jsonl`, of a run in which nothing happens but what the given metrics say.

    n: how many steps.
    curves: (n,) values of metrics by their names, in place of the uneventful ones; `ibtpo/` may be left out.
    """
    rng = np.random.default_rng(0)
    columns = {
        "eff_rate": 0.7 + 0.1 * rng.standard_normal(n), "avg_rate": 0.3 + 0.05 * rng.standard_normal(n),
        "rescued": np.full(n, 0.2), "cov_eta": 0.01 + 0.002 * rng.standard_normal(n),
        "ib_score": -0.5 + 0.05 * rng.standard_normal(n), "entropy": 0.4 + 0.01 * rng.standard_normal(n),
        "length": 80 + 4 * rng.standard_normal(n), "steps": np.full(n, 6.0), "truncated": np.full(n, 0.02),
        "branch_cost": np.full(n, 0.5), "branch_depth": np.full(n, 0.4), "root_branches": np.full(n, 0.2),
        "distinct": np.full(n, 0.95), "unique_ratio": np.full(n, 0.6), "trajectories": np.full(n, 96.0),
        "trajectories_per_1k_tokens": np.full(n, 12.0), "verifier_errors": np.zeros(n),
        "generated_tokens": np.full(n, 1000.0), "generated_tokens_total": 1000.0 * np.arange(1, n + 1),
        **{k: np.asarray(v, dtype=float) for k, v in curves.items() if "/" not in k and k != "kl"},
    }  # fmt: skip
    found = {f"ibtpo/{k}": v for k, v in columns.items()}
    found |= {f"time/{k}": np.full(n, v) for k, v in TIMES.items()}
    found["sampling/logp_gap_max"] = np.full(n, 1e-5)
    found["kl"] = 0.001 * np.arange(n)  # TRL logs it itself, unless beta is 0
    found |= {k: np.asarray(v, dtype=float) for k, v in curves.items() if "/" in k or k == "kl"}
    return [{"step": i + 1, **{k: float(v[i]) for k, v in found.items()}} for i in range(n)]


def result(avg: float, half: float = 0.04, k: int = 4, n: int = 200) -> dict:
    """An entry of `eval.json` with accuracy `avg`, and `half` of its interval on either side."""
    both = {"avg": avg, "avg_ci": [avg - half, avg + half], "pass": avg + 0.2, "pass_ci": [avg + 0.1, avg + 0.3]}
    return {**both, "k": k, "n": n, "truncated": 0.0}


def tree(
    id: str, rewards, *, prompt: str = "Make 5.", text: str = "step", answer: str | None = "2 + 3"
) -> ReasoningTree:
    """A tree of two first answers, and one branch for each further reward.

    id: the id of its problem.
    rewards: the answers' rewards, in order.
    prompt: the question.
    text: how every step begins.
    answer: the gold answer.

    Every branch starts after the first step of the first answer.
    """
    t = ReasoningTree(id, [1, 2], prompt, answer)
    for i, reward in enumerate(rewards):
        steps = [
            Step((10 + i,), f"{text} {i} begins.\n\n", (-0.1,)),
            Step((50 + i,), f"{text} {i} ends", (-0.1 * i - 0.1,)),
        ]
        t.add(0 if i < 2 else 1, steps if i < 2 else steps[1:], reward, "eos", round=max(0, i - 1), score=0.25)
    return t


def make_run(folder: Path, metrics=None, evals=None, trees=None, config=None) -> Path:
    """Makes a run folder and returns it; what is not given is uneventful.

    folder: where to make it.
    metrics: the rows of `metrics.jsonl`; default `rows(40)`.
    evals: the contents of `eval.json`; if it is empty, no file is made.
    trees: the trees to store, by step.
    config: settings in place of those of `CONFIG`, or on top of them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({**CONFIG, **(config or {})}, allow_unicode=True))
    (folder / "env.json").write_text(json.dumps(ENV))
    metrics = rows(40) if metrics is None else metrics
    text = "".join(json.dumps(row) + "\n" for row in metrics)
    if metrics:
        text += json.dumps({"step": metrics[-1]["step"], "train_runtime": 9.0, "train_loss": 0.1}) + "\n"
    (folder / "metrics.jsonl").write_text(text)
    evals = {"before": result(0.2), "after": result(0.4)} if evals is None else evals
    if evals:
        (folder / "eval.json").write_text(json.dumps(evals))
    if trees is None:
        trees = {1: [tree("all-wrong", [0, 0, 0])], 10: [tree("saved", [0, 0, 1, 0]), tree("best", [1, 1, 1])]}
    for step, grown in trees.items():
        write_trees(folder / "trees" / f"step_{step:06d}.jsonl.gz", grown)
    return folder
