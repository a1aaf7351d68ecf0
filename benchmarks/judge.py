"""Times a training step whose reward is an async judge: `IBTPOTrainer` against TRL's `GRPOTrainer`.

    python benchmarks/judge.py

The judge takes one second an answer, and answers a number of calls at once. A tree with `ib` chooses each branch by the
verdicts before it, so its answers come to the judge in rounds: with few questions its rounds leave the judge idle, with
many of them they keep it as busy as TRL's one batch does.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from datasets import Dataset
from harness import paired, row, write
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

import ibtpo
from ibtpo import IBTPOConfig, IBTPOTrainer
from ibtpo.engines.models import eos_token_ids
from ibtpo.tasks.prompts import trl_prompt
from ibtpo.verify.walk import walk_reward

GROUP = 12  # answers a question
SECONDS = 1.0  # what the judge takes for an answer
# Branching rule, questions a step, calls that the judge answers at once.
CASES = (("independent", 2, 24), ("ib", 16, 16), ("ib", 2, 24))
TARGET = 1 / 1.2


class SecondStep(TrainerCallback):
    """Takes the seconds of the second step; the first warms up, and looks for functions that compare answers."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Starts the clock."""
        self.began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stops the clock."""
        self.seconds = time.perf_counter() - self.began


def make_judge(at_once: int) -> Callable[..., Any]:
    """An async reward function that has at most `at_once` answers judged at any time."""
    free: dict[Any, asyncio.Semaphore] = {}

    async def judge(completions: Sequence[Any], **columns: Any) -> list[float]:
        mine = free.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(at_once))

        async def one() -> None:
            async with mine:
                await asyncio.sleep(SECONDS)

        await asyncio.gather(*(one() for _ in completions))
        return walk_reward(completions=completions, **columns)

    return judge


def one(kind: type, branching: str, questions: int, at_once: int) -> float:
    """Trains for two steps, and returns the seconds of the second.

    kind: `IBTPOTrainer` or `GRPOTrainer`.
    branching: the rule of the trees.
    questions: questions a step.
    at_once: how many answers the judge judges at once.
    """
    model, tokenizer = ibtpo.load_model("nano")
    model.generation_config.eos_token_id = eos_token_ids(model, tokenizer)
    problems = ibtpo.load_problems("walk:train", limit=128)
    rows = [{**p.columns, "id": p.id, "prompt": trl_prompt(p, tokenizer, None)} for p in problems]
    clock = SecondStep()
    with tempfile.TemporaryDirectory() as folder:
        common: dict[str, Any] = {
            "output_dir": folder, "per_device_train_batch_size": questions * GROUP, "num_generations": GROUP,
            "max_steps": 2, "learning_rate": 1e-5, "beta": 0.0, "report_to": "none", "save_strategy": "no",
            "bf16": False, "loss_type": "grpo", "use_cpu": True, "disable_tqdm": True, "seed": 0,
            "max_completion_length": 36, "temperature": 1.0, "top_p": 1.0, "top_k": 0,
        }  # fmt: skip
        config = (
            IBTPOConfig(**common, tree="4,9,1,1", branching=branching, confidence="joint", save_trees_every=0)
            if kind is IBTPOTrainer
            else GRPOConfig(**common)
        )
        data = Dataset.from_list(rows)
        kind(model, make_judge(at_once), config, data, processing_class=tokenizer, callbacks=[clock]).train()
    return clock.seconds


def main(runs: int) -> None:
    """Writes a row for each case, of so many pairs."""
    for branching, questions, at_once in CASES:
        figures = paired(
            lambda case=(branching, questions, at_once): one(IBTPOTrainer, *case),
            lambda case=(branching, questions, at_once): one(GRPOTrainer, *case),
            runs,
            warm_up=False,  # a run's first step is not counted
        )
        name = f"training step, async judge, {branching}, {questions} questions, {at_once} answers judged at once"
        found = row(name, "TRL GRPOTrainer", *figures, "s", TARGET, more_is_better=False)
        print(found, flush=True)
        write([found])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    torch.set_num_threads(1)
    main(parser.parse_args().runs)
