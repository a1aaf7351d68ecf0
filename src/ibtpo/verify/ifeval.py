"""IFEval's verifier (arXiv 2311.07911): does an answer follow its instructions?

The checkers are those of lm-evaluation-harness. There are four functions with TRL's reward signature, one for each of
`LEVELS`. "Strict" judges the answer as it stands; "loose" also judges it without its first or last line and without
asterisks, and one success is enough. At prompt level all instructions must be followed; at instruction level the value
is the share of them that are. Thinking (`<think>…</think>`) is cut off before: instructions are about the answer.
"""

import json
import random
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

from ..errors import DependencyError
from .tags import THINKING_TAGS, final_texts

LEVELS = ("prompt_strict", "prompt_loose", "instruction_strict", "instruction_loose")

_INSTALL = "pip install 'ibtpo[ifeval]'"


def _level(level: str) -> Callable[..., list[float]]:
    """The reward function of one of `LEVELS`."""

    def reward(
        completions: Sequence[Any],
        instruction_id_list: Sequence[list[str]],
        kwargs: Sequence[list[dict[str, Any]]],
        prompts: Sequence[Any] | None = None,
        thinking_tags: str = THINKING_TAGS,
        **columns: Any,
    ) -> list[float]:
        texts = final_texts(completions, prompts, thinking_tags=thinking_tags, answer_tags="")
        return [
            check(text, json.dumps(names), json.dumps(given))[level]
            for text, names, given in zip(texts, instruction_id_list, kwargs, strict=True)
        ]

    reward.__name__ = level
    reward.__doc__ = f"TRL reward function: {level.replace('_', ' level, ')}. Takes IFEval's two columns."
    return reward


prompt_strict = ifeval_reward = _level("prompt_strict")
prompt_loose = _level("prompt_loose")
instruction_strict = _level("instruction_strict")
instruction_loose = _level("instruction_loose")


@lru_cache(maxsize=64)  # the four functions are asked about the same answer, one after another
def check(text: str, names: str, kwargs: str) -> dict[str, float]:
    """Grades one answer at all of `LEVELS`.

    text: the answer.
    names: the row's column `instruction_id_list`, as JSON.
    kwargs: the row's column `kwargs`, as JSON.

    Returns level -> value in [0, 1].

    Raises `DependencyError` when the checkers are not installed, `ValueError` for an instruction they do not know.
    """
    known, process = _checkers()
    instructions = json.loads(names)
    if unknown := [name for name in instructions if name not in known]:
        raise ValueError(f"lm-eval knows no instruction {unknown[0]!r}")
    state = random.getstate()
    random.seed(0)  # asked for the frequency of "#" or "!", lm-eval draws a letter at random in its place
    document = {"key": 0, "prompt": "", "instruction_id_list": instructions, "kwargs": json.loads(kwargs)}
    try:
        found = process(document, [text])
    finally:
        random.setstate(state)
    shares = {side: found[f"inst_level_{side}_acc"] for side in ("strict", "loose")}
    return {
        "prompt_strict": float(found["prompt_level_strict_acc"]),
        "prompt_loose": float(found["prompt_level_loose_acc"]),
        "instruction_strict": sum(shares["strict"]) / len(instructions),
        "instruction_loose": sum(shares["loose"]) / len(instructions),
    }


def require() -> None:
    """Checks that the checkers are installed, without importing them; raises `DependencyError` naming what is not."""
    for module, package in (("lm_eval", "lm-eval"), ("langdetect", "langdetect"), ("nltk", "nltk")):
        if find_spec(module) is None:
            raise DependencyError(f"the ifeval verifier needs {package}; install it with: {_INSTALL}")
    import nltk

    try:
        nltk.data.find("tokenizers/punkt_tab/english/")
    except LookupError as error:  # asked before lm-eval is imported, which would try to download the data
        raise DependencyError(
            "the ifeval verifier needs NLTK's data 'punkt_tab'; get it once with: python -m nltk.downloader punkt_tab "
            "(or name a folder that has it in NLTK_DATA)"
        ) from error


def prepare() -> None:
    """Imports the checkers, so that the first row does not pay for it."""
    _checkers()


@lru_cache(maxsize=1)
def _checkers() -> tuple[set[str], Callable[..., dict[str, Any]]]:
    """The names of the known instructions, and lm-eval's function that grades one answer."""
    require()
    from langdetect import DetectorFactory
    from lm_eval.tasks.ifeval.instructions_registry import INSTRUCTION_DICT
    from lm_eval.tasks.ifeval.utils import process_results

    DetectorFactory.seed = 0  # langdetect draws at random: without a seed an answer's grade differs from run to run
    return set(INSTRUCTION_DICT), process_results
