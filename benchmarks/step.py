"""Times a full training step: `IBTPOTrainer` against TRL's `GRPOTrainer`, with the same model, G, questions and limits.

    python benchmarks/step.py nano
    python benchmarks/step.py smollm2 --threads 2 --steps 1

Both sample, grade, and update on the same number of questions with 12 answers each. A tree samples fewer tokens than
its answers have, because they share some. So the figure is milliseconds a token in the loss, shared ones counted in
every answer: it says what training on the same number of answer tokens takes.
"""

import argparse
import tempfile
import time
from dataclasses import dataclass
from typing import Any

import torch
import workload
from datasets import Dataset
from harness import paired, row, write
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

import ibtpo
from ibtpo import IBTPOConfig, IBTPOTrainer
from ibtpo.engines.models import eos_token_ids
from ibtpo.tasks.prompts import trl_prompt
from ibtpo.verify.math import math_reward
from ibtpo.verify.walk import walk_reward

GROUP = 12  # answers a question


@dataclass
class Setup:
    """A model, its questions, and how they are sampled.

    title: what the results call it.
    model: the name that `load_model` knows it by.
    data: the problems, as `load_problems` reads them.
    instruction: a text that goes with each question, or None.
    reward: the name of the reward or a function, for our trainer, and the function, for TRL's.
    options: options of both trainers: how answers are sampled, and on what machine.
    rows: answers of a micro-batch.
    questions: numbers of questions a step, each of which is a benchmark.
    dtype: what the model's weights are, see `load_model`.
    """

    title: str
    model: str
    data: str
    instruction: str | None
    reward: tuple[Any, Any]
    options: dict[str, Any]
    rows: int
    questions: tuple[int, ...]
    dtype: str = "float32"


SETUPS = {
    "nano": Setup(
        "embedded model", "nano", "walk:train", None, ("walk", walk_reward),
        {"max_completion_length": 36, "temperature": 1.0, "top_p": 1.0, "top_k": 0}, 96, (32, 8),
    ),
    "smollm2": Setup(
        "SmolLM2-135M on GSM8K", "smollm2-135m", str(workload.GSM8K), workload.ASK, ("math", math_reward),
        {"max_completion_length": 64, "temperature": 0.7, "top_p": 0.95, "top_k": 20}, 24, (4, 2),
    ),
}  # fmt: skip


class Clock(TrainerCallback):
    """Adds up the seconds and the trained answer tokens of all steps but the first, which warms up."""

    def __init__(self) -> None:
        self.seconds = self.tokens = 0.0
        self._begin = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Starts the clock."""
        self._begin = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stops the clock."""
        self.took = time.perf_counter() - self._begin

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Adds the step just logged: its number of answers times their mean length gives its tokens."""
        if state.global_step > 1 and logs and "completions/mean_length" in logs:
            self.seconds += self.took
            self.tokens += (
                logs["completions/mean_length"] * args.per_device_train_batch_size * args.gradient_accumulation_steps
            )


def one(kind: type, setup: Setup, questions: int, steps: int) -> float:
    """Trains for a few steps; returns milliseconds a trained token.

    kind: `IBTPOTrainer` or `GRPOTrainer`.
    setup: what to train on.
    questions: questions a step.
    steps: how many steps are timed, after one more to warm up.
    """
    model, tokenizer = ibtpo.load_model(setup.model, dtype=setup.dtype)
    model.generation_config.eos_token_id = eos_token_ids(model, tokenizer)
    problems = ibtpo.load_problems(setup.data, limit=128, instruction=setup.instruction)
    rows = [{**p.columns, "id": p.id, "prompt": trl_prompt(p, tokenizer, None)} for p in problems]
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        common: dict[str, Any] = {
            "output_dir": folder, "per_device_train_batch_size": setup.rows, "num_generations": GROUP,
            "gradient_accumulation_steps": questions * GROUP // setup.rows, "max_steps": steps + 1,
            "learning_rate": 1e-5, "beta": 0.0, "report_to": "none", "save_strategy": "no", "logging_steps": 1,
            "bf16": False, "loss_type": "grpo", "use_cpu": True, "disable_tqdm": True, "seed": 0, **setup.options,
        }  # fmt: skip
        config = (
            IBTPOConfig(**common, tree="4,9,1,1", confidence="joint", save_trees_every=0)
            if kind is IBTPOTrainer
            else GRPOConfig(**common)
        )
        name, function = setup.reward
        reward = name if kind is IBTPOTrainer else function
        kind(model, reward, config, Dataset.from_list(rows), processing_class=tokenizer, callbacks=[clock]).train()
    return 1000 * clock.seconds / clock.tokens


def main(setup: Setup, runs: int, steps: int) -> None:
    """Writes a row for each number of questions a step.

    setup: what to train on.
    runs: how many pairs are measured for a row.
    steps: how many steps are timed in each run.
    """
    for questions in setup.questions:
        figures = paired(
            lambda n=questions: one(IBTPOTrainer, setup, n, steps),
            lambda n=questions: one(GRPOTrainer, setup, n, steps),
            runs,
            warm_up=False,  # a run's first step is not counted
        )
        name = f"full training step, {setup.title}, {questions} questions, G={GROUP}"
        found = row(name, "TRL GRPOTrainer", *figures, "ms a trained token", 1 / 0.7, more_is_better=False)
        print(found, flush=True)
        write([found])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=SETUPS)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    main(SETUPS[args.what], args.runs, args.steps)
