"""The questions and models the benchmarks run on: the embedded task, and real GSM8K problems for SmolLM2."""

from pathlib import Path
from typing import Any

import ibtpo
from ibtpo.search import Prompt

GSM8K = Path(__file__).parents[2] / "shared" / "data" / "gsm8k_train_2000.jsonl"
ASK = "Solve the problem step by step, with a blank line between steps. End with the answer as \\boxed{number}."


def nano(problems: int) -> tuple[Any, Any, list[Prompt]]:
    """Embedded model, tokenizer and prompts."""
    model, tokenizer = ibtpo.load_model("nano")
    return model, tokenizer, _prompts(ibtpo.load_problems("countdown:train", limit=problems), tokenizer)


def smollm2(problems: int) -> tuple[Any, Any, list[Prompt]]:
    """SmolLM2-135M-Instruct, tokenizer and GSM8K prompts. Raises `FileNotFoundError` without the data."""
    if not GSM8K.exists():
        raise FileNotFoundError(f"{GSM8K} is needed for this benchmark")
    model, tokenizer = ibtpo.load_model("smollm2-135m")
    found = ibtpo.load_problems(str(GSM8K), limit=problems, instruction=ASK)
    return model, tokenizer, _prompts(found, tokenizer)


def _prompts(problems: list[Any], tokenizer: Any) -> list[Prompt]:
    prompts = []
    for p in problems:
        text, ids = ibtpo.encode_prompt(p, tokenizer)
        prompts.append(Prompt(p.id, tuple(ids), text, {**p.columns, "answer": p.answer}))
    return prompts


def decoder(tokenizer: Any) -> Any:
    """Token ids -> text."""
    return lambda ids: tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
