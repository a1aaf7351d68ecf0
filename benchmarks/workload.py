"""The questions and models that the benchmarks run on: the embedded task, and real GSM8K problems for SmolLM2."""

from pathlib import Path
from typing import Any

import ibtpo
from ibtpo.engines import Sampling
from ibtpo.search import Budget, Prompt, SearchOptions

GSM8K = Path(__file__).parents[2] / "shared" / "data" / "gsm8k_train_2000.jsonl"
ASK = "Solve the problem step by step, with a blank line between steps. End with the answer as \\boxed{number}."

TREES = 16  # questions of the tree benchmark with SmolLM2


def tree_options(*, small: bool) -> SearchOptions:
    """The options of (4,9,1,1) trees.

    small: whether they are for the embedded model, with its task's sampling; if not, they are for SmolLM2, with the
        paper's sampling and at most 48 tokens.
    """
    return SearchOptions(
        budget=Budget(4, 9, 1, 1), sampling=Sampling(1.0, 1.0, 0) if small else Sampling(),
        max_completion_length=36 if small else 48, max_in_flight=64, deterministic=True,
    )  # fmt: skip


def nano(problems: int) -> tuple[Any, Any, list[Prompt]]:
    """The embedded model, its tokenizer, and prompts of its task, `problems` of them."""
    model, tokenizer = ibtpo.load_model("nano")
    return model, tokenizer, _prompts(ibtpo.load_problems("walk:train", limit=problems), tokenizer)


def smollm2(problems: int, *, chat: bool = True) -> tuple[Any, Any, list[Prompt]]:
    """SmolLM2-135M-Instruct, its tokenizer, and GSM8K prompts.

    problems: how many prompts.
    chat: whether a prompt is an instruction in the model's chat template; if not, it is the bare question.

    Raises `FileNotFoundError` if the data are not there.
    """
    if not GSM8K.exists():
        raise FileNotFoundError(f"{GSM8K} is needed for this benchmark")
    model, tokenizer = ibtpo.load_model("smollm2-135m")
    found = ibtpo.load_problems(str(GSM8K), limit=problems, instruction=ASK if chat else None)
    return model, tokenizer, _prompts(found, tokenizer, chat)


def _prompts(problems: list[Any], tokenizer: Any, chat: bool | None = None) -> list[Prompt]:
    prompts = []
    for p in problems:
        text, ids = ibtpo.encode_prompt(p, tokenizer, chat_template=chat)
        prompts.append(Prompt(p.id, tuple(ids), text, {**p.columns, "answer": p.answer}))
    return prompts
