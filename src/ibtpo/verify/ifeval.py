"""IFEval's verifier: does an answer follow its instructions? The checkers are those of lm-evaluation-harness.

Four functions with TRL's reward signature, one for each of `LEVELS`. Strict judges the answer as it stands; loose also
without its first or last line and without asterisks. At prompt level all instructions must be followed, at
instruction level the value is the share of them.
"""

import json
import random
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

from ..errors import DependencyError
from . import completion_text

LEVELS = ("prompt_strict", "prompt_loose", "instruction_strict", "instruction_loose")

_INSTALL = "pip install 'ibtpo[ifeval]'"


def _level(level: str) -> Callable[..., list[float | None]]:
    def reward(
        completions: Sequence[Any],
        instruction_id_list: Sequence[list[str]],
        kwargs: Sequence[list[dict[str, Any]]],
        **columns: Any,
    ) -> list[float | None]:
        return [
            check(completion_text(completion), json.dumps(names), json.dumps(given))[level]
            for completion, names, given in zip(completions, instruction_id_list, kwargs, strict=True)
        ]

    reward.__name__ = level
    reward.__doc__ = f"TRL reward function: {level.replace('_', ' level, ')}. Takes IFEval's two columns."
    return reward


prompt_strict = ifeval_reward = _level("prompt_strict")
prompt_loose = _level("prompt_loose")
instruction_strict = _level("instruction_strict")
instruction_loose = _level("instruction_loose")


@lru_cache(maxsize=64)  # the four functions are asked about one answer after the other
def check(text: str, names: str, kwargs: str) -> dict[str, float | None]:
    """Level -> value of one answer. names, kwargs: the row's columns as JSON.

    Raises `DependencyError` without the checkers, `ValueError` for an instruction they do not know.
    """
    known, process = _checkers()
    instructions = json.loads(names)
    if unknown := [name for name in instructions if name not in known]:
        raise ValueError(f"lm-eval knows no instruction {unknown[0]!r}")
    state = random.getstate()
    random.seed(0)  # for a letter frequency of "#" or "!" lm-eval draws a letter at random
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
    """Raises `DependencyError` naming what to install, without importing the checkers."""
    for module, package in (("lm_eval", "lm-eval"), ("langdetect", "langdetect"), ("nltk", "nltk")):
        if find_spec(module) is None:
            raise DependencyError(f"the ifeval verifier needs {package}; install it with: {_INSTALL}")
    import nltk

    try:
        nltk.data.find("tokenizers/punkt_tab/english/")
    except LookupError as error:  # asked first: lm-eval would try to download it
        raise DependencyError(
            "the ifeval verifier needs NLTK's data 'punkt_tab'; get it once with: python -m nltk.downloader punkt_tab "
            "(or name a folder that has it in NLTK_DATA)"
        ) from error


def prepare() -> None:
    """Imports the checkers, so that the first row does not pay for it."""
    _checkers()


@lru_cache(maxsize=1)
def _checkers() -> tuple[set[str], Callable[..., dict[str, Any]]]:
    """Names of the known instructions, and lm-eval's grader of one answer."""
    require()
    from langdetect import DetectorFactory
    from lm_eval.tasks.ifeval.instructions_registry import INSTRUCTION_DICT
    from lm_eval.tasks.ifeval.utils import process_results

    DetectorFactory.seed = 0  # langdetect draws: without it one answer's grade differs from run to run
    return set(INSTRUCTION_DICT), process_results
