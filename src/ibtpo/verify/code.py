"""Code: does the program of an answer pass its row's tests? It runs in the sandbox and nowhere else.

What a program prints and what its functions return is compared here, outside: the program never sees what is expected
of it. Only tests that are code themselves (HumanEval's `check`, an assert that is more than `… == literal`) run in its
process, where a program that is bent on it could deceive them.
"""

import math
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from itertools import zip_longest
from typing import Any

from ..sandbox import NOTHING, Limits, Run, Sandbox, require
from ..tasks.code import Test, read_tests
from .outcome import ARGUMENTS, TIMEOUT
from .tags import ANSWER_TAGS, THINKING_TAGS, final_texts

# Of the time for an answer, the share that its tests may take; the rest is for starting and ending the sandbox.
_SHARE = 0.8
_TOLERANCE = 1e-6  # of numbers with a fraction, relative and absolute: the usual one of programming contests
_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})[ \t]*([\w+-]*)[^\n]*\n(.*?)^[ \t]*\1[`~]*[ \t]*$", re.MULTILINE | re.DOTALL)
_PYTHON = ("python", "python3", "py")
# Names that answers in the style of LeetCode use without importing them, as its own server has them.
_PREAMBLE = """
from typing import *
from collections import *
from functools import *
from itertools import *
from heapq import *
from bisect import *
import bisect, collections, copy, functools, heapq, itertools, math, operator, random, re, string, sys
from math import inf
"""


def code_reward(
    completions: Sequence[Any],
    prompts: Sequence[Any] | None = None,
    thinking_tags: str = THINKING_TAGS,
    answer_tags: str = ANSWER_TAGS,
    verifier_timeout: float = TIMEOUT,
    limits: Limits | None = None,
    **columns: Any,
) -> list[float | None]:
    """TRL reward function: 1.0 for a program that passes all tests, 0.0 for any other.

    completions: (R,) texts, or TRL's lists of messages, of which the last counts.
    prompts, thinking_tags, answer_tags: see `tags.final_texts`.
    verifier_timeout: seconds for one answer; a program whose tests take longer has not passed them.
    limits: what each test may use.
    columns: (R,) lists; `tasks.code` says which hold the tests.

    Raises `DataError` for a row without tests and `DependencyError` where code cannot be isolated.
    """
    return [
        float(all(verdicts)) for verdicts in _judged(
            completions, prompts, thinking_tags, answer_tags, verifier_timeout, limits, columns, until_failure=True
        )
    ]  # fmt: skip


def code_share(
    completions: Sequence[Any],
    prompts: Sequence[Any] | None = None,
    thinking_tags: str = THINKING_TAGS,
    answer_tags: str = ANSWER_TAGS,
    verifier_timeout: float = TIMEOUT,
    limits: Limits | None = None,
    **columns: Any,
) -> list[float | None]:
    """TRL reward function: the share of the tests that a program passes. Arguments and errors as of `code_reward`."""
    return [
        sum(verdicts) / len(verdicts) for verdicts in _judged(
            completions, prompts, thinking_tags, answer_tags, verifier_timeout, limits, columns, until_failure=False
        )
    ]  # fmt: skip


def prepare() -> None:
    """Checks that code can be isolated here, before any answer is there to be judged."""
    require()


def _judged(
    completions: Sequence[Any],
    prompts: Sequence[Any] | None,
    thinking_tags: str,
    answer_tags: str,
    seconds: float,
    limits: Limits | None,
    columns: Mapping[str, Sequence[Any]],
    until_failure: bool,
) -> list[list[bool]]:
    """(R,) lists of which tests each answer's program passes."""
    texts = final_texts(completions, prompts, thinking_tags=thinking_tags, answer_tags=answer_tags)
    found = []
    for i, text in enumerate(texts):
        setup, tests = read_tests({name: values[i] for name, values in columns.items() if name not in ARGUMENTS})
        found.append(judge(find_code(text), setup, tests, limits, _SHARE * seconds, until_failure=until_failure))
    return found


def find_code(text: str) -> str:
    """The program in an answer: its last whole code block marked as Python, else the last without a mark.

    An answer without any code block is a program as a whole; one whose only block is not closed has none.
    """
    blocks = [(match[2].lower(), match[3]) for match in _FENCE.finditer(text)]
    for wanted in (_PYTHON, ("",)):
        programs = [code for language, code in blocks if language in wanted]
        if programs:
            return programs[-1]
    return "" if "```" in text else text


def judge(
    code: str, setup: str, tests: Sequence[Test], limits: Limits | None, seconds: float, *, until_failure: bool
) -> list[bool]:
    """(T,) which tests a program passes; after the first failure all are False if `until_failure`.

    code, setup: the program, and code that goes before it.
    tests: (T,) what it must do.
    limits: what each test may use.
    seconds: for all tests together.
    """
    verdicts = [False] * len(tests)
    if not code.strip():
        return verdicts
    with Sandbox(limits, deadline=seconds) as box:
        for i, test in enumerate(tests):
            before = setup if "stdin" in test.work else f"{_PREAMBLE}\n{setup}"
            run = box.run(code, setup=before, **test.work)
            verdicts[i] = _passed(run, test)
            if until_failure and not verdicts[i]:
                break
    return verdicts


def _passed(run: Run, test: Test) -> bool:
    if run.ended != "ok":
        return False
    if "stdin" in test.work:
        return same_output(run.stdout, test.expected)
    if run.value is NOTHING:
        return False
    if "call" in test.work:  # APPS puts the one value of a function into a list
        wrapped = isinstance(test.expected, list) and len(test.expected) == 1
        return same_value(run.value, test.expected) or (wrapped and same_value(run.value, test.expected[0]))
    if "expression" in test.work:
        return bool(run.value == test.expected[0])
    return run.value is True


def same_output(printed: str, expected: str) -> bool:
    """Whether a program has printed what it should: line by line, apart from white space at ends of lines and text.

    Lines may also differ in how they write numbers: all their words must be equal, or numbers equal in value.
    """
    ours, theirs = (text.strip().splitlines() for text in (printed, expected))
    return len(ours) == len(theirs) and all(map(_same_line, ours, theirs))


def _same_line(ours: str, theirs: str) -> bool:
    return ours.strip() == theirs.strip() or all(
        mine is not None and other is not None and (mine == other or _same_number(mine, other))
        for mine, other in zip_longest(ours.split(), theirs.split())
    )


def _same_number(mine: str, other: str) -> bool:
    """Whether two words are one number: equal, or near enough if the expected one has a fraction."""
    try:
        a, b = Decimal(mine), Decimal(other)
    except InvalidOperation:
        return False
    if not (a.is_finite() and b.is_finite()):
        return False
    return a == b or ("." in other and math.isclose(float(a), float(b), rel_tol=_TOLERANCE, abs_tol=_TOLERANCE))


def same_value(value: Any, expected: Any) -> bool:
    """Whether a function has returned what JSON can say of the expected value.

    Tuples are lists there, keys of objects are text, and numbers with a fraction are compared as in `same_output`.
    """
    if isinstance(value, tuple):
        value = list(value)
    if isinstance(value, list) and isinstance(expected, list):
        return len(value) == len(expected) and all(map(same_value, value, expected))
    if isinstance(value, dict) and isinstance(expected, dict):
        named = {str(key): item for key, item in value.items()}
        return named.keys() == expected.keys() and all(same_value(named[key], expected[key]) for key in expected)
    if isinstance(value, bool) != isinstance(expected, bool):
        return False
    if isinstance(value, float) or isinstance(expected, float):
        numbers = isinstance(value, int | float) and isinstance(expected, int | float)
        return numbers and math.isclose(value, expected, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
    return bool(value == expected)
