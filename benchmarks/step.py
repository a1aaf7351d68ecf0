"""A full training step, embedded model: `IBTPOTrainer` against TRL's `GRPOTrainer`, same model, G, questions, limits.

Both sample, grade, and update on 32 or 8 questions with 12 answers each, in micro-batches of 8 questions. Trees sample
fewer tokens for the same answers, so the figure is milliseconds a trained answer token: the same number of tokens in
the loss.
"""

import argparse
import tempfile
import time
from typing import Any

import torch
from datasets import Dataset
from harness import Row, paired, row, write
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

import ibtpo
from ibtpo import IBTPOConfig, IBTPOTrainer
from ibtpo.models import eos_token_ids
from ibtpo.tasks.data import trl_prompt
from ibtpo.verify.walk import walk_reward


class Clock(TrainerCallback):
    """Seconds and trained answer tokens of all steps but the first."""

    def __init__(self) -> None:
        self.seconds = self.tokens = 0.0
        self._begin = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Starts the clock."""
        self._begin = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stops it."""
        self.took = time.perf_counter() - self._begin

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Adds the step just logged."""
        if state.global_step > 1 and logs and "completions/mean_length" in logs:
            self.seconds += self.took
            self.tokens += (
                logs["completions/mean_length"] * args.per_device_train_batch_size * args.gradient_accumulation_steps
            )


def one(kind: type, questions: int, steps: int) -> float:
    """Milliseconds a trained token of one run."""
    model, tokenizer = ibtpo.load_model("nano")
    model.generation_config.eos_token_id = eos_token_ids(model, tokenizer)
    problems = ibtpo.load_problems("walk:train", limit=128)
    rows = [{**p.columns, "id": p.id, "prompt": trl_prompt(p, tokenizer, None)} for p in problems]
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        common: dict[str, Any] = {
            "output_dir": folder, "per_device_train_batch_size": 96, "num_generations": 12, "max_steps": steps + 1,
            "gradient_accumulation_steps": questions // 8,
            "max_completion_length": 36, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "learning_rate": 1e-5,
            "beta": 0.0, "report_to": "none", "save_strategy": "no", "logging_steps": 1, "bf16": False,
            "loss_type": "grpo", "use_cpu": True, "disable_tqdm": True, "seed": 0,
        }  # fmt: skip
        config = (
            IBTPOConfig(**common, tree="4,9,1,1", confidence="joint", save_trees_every=0)
            if kind is IBTPOTrainer
            else GRPOConfig(**common)
        )
        reward = ["walk"] if kind is IBTPOTrainer else walk_reward
        kind(model, reward, config, Dataset.from_list(rows), processing_class=tokenizer, callbacks=[clock]).train()
    return 1000 * clock.seconds / clock.tokens


def main(runs: int, steps: int) -> list[Row]:
    """Writes a row for 32 questions a step, and one for 8."""
    rows = []
    for questions, target in ((32, 1 / 0.7), (8, None)):
        figures = paired(
            lambda n=questions: one(IBTPOTrainer, n, steps), lambda n=questions: one(GRPOTrainer, n, steps), runs
        )
        name = f"full training step, embedded model, {questions} questions, G=12"
        rows.append(row(name, "TRL GRPOTrainer", *figures, "ms a trained token", target, more_is_better=False))
        print(rows[-1], flush=True)
    write(rows)
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    main(args.runs, args.steps)
