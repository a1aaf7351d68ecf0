r"""`math_reward`: is the final answer of a completion mathematically equal to the gold answer?

Three questions, a module each: which part of the completion counts (`tags`: no thinking), where that says its answer
(`extract`: the last complete `\boxed{...}`, a `####` line, "answer is", the last line), and whether that equals the
gold answer (`equivalence`, which asks math-verify where no cheaper comparison decides).
"""

import math
import re
from collections.abc import Sequence
from typing import Any

from .._text import short
from ..errors import DataError
from .equivalence import equivalent, reads_whole
from .extract import BOX, MATH_SPAN, PROSE_CHARS, explicit_answer, final_words, first_sentence, last_boxed
from .latex import clean, unify
from .symbolic import parse, parse_prose, same_value
from .tags import ANSWER_TAGS, THINKING_TAGS, final_text, final_texts

# A number in prose, with what may follow it; and what must not stand beside it, because it is part of a formula then.
_NUMBER = re.compile(
    r"(?P<number>-?(?:\d+ \d+/\d+|\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d+)?(?:/\d+|(?::\d+)+)?)(?:\s?\\?%)?)(?!\w)"
)
_FORMULA_BEFORE = re.compile(r"[-+*/^\\{(\[,]\s*$|[A-Za-z\d_)}\]]$")
_FORMULA_AFTER = re.compile(r"\s*[-+*/^=<>_({\\\[]|\s*[)\]}]")
# Words before a number that is not the answer, or not all of it.
_HEDGED = re.compile(
    r"(?i)(?:\b(?:not|never|cannot|(?:less|more|greater|larger|smaller|fewer|higher|lower)\s+than|at\s+(?:least|most)|either|"
    r"neither|nor|or|between)|n['’]t|\d[^.\n]{0,20}\b(?:and|to))\s+(?:be\s+|equal\s+to\s+)?$"
)
_RATIO = re.compile(r"\d+(?::\d+)+")


def math_reward(
    completions: Sequence[Any],
    answer: Sequence[Any],
    prompts: Sequence[Any] | None = None,
    thinking_tags: str = THINKING_TAGS,
    answer_tags: str = ANSWER_TAGS,
    **kwargs: Any,
) -> list[float | None]:
    r"""TRL reward function: 1.0 if the final answer equals the gold one, else 0.0.

    completions: (R,) texts, or conversations whose last message is the answer.
    answer: (R,) gold answers, see `gold_text`.
    prompts, thinking_tags, answer_tags: see `tags.final_texts`.

    Returns (R,) rewards, None where a row has no gold answer.

    Raises `DataError` for a gold answer that is neither text nor a number, and `DependencyError` when math-verify is
    needed and not installed.
    """
    texts = final_texts(completions, prompts, thinking_tags=thinking_tags, answer_tags=answer_tags)
    return [
        None if (gold := gold_text(row)) is None else float(is_correct(text, gold))
        for text, row in zip(texts, answer, strict=True)
    ]


def gold_text(answer: Any) -> str | None:
    """A gold answer as text: its box or `####` line if it has one. None for None, NaN and an empty text.

    answer: text in LaTeX or plain, or a number, or a list with one of them. What several texts in a list mean, all
        parts of one answer or forms of which each will do, cannot be told from the list.

    Raises `DataError` for anything else.
    """
    if isinstance(answer, list | tuple) and len(answer) == 1:
        answer = answer[0]
    if answer is None or (isinstance(answer, float) and math.isnan(answer)):
        return None
    if not isinstance(answer, str) and not hasattr(answer, "__float__"):
        raise DataError(
            f"a gold answer must be text or a number, got {type(answer).__name__} {short(answer, 80)}; "
            "write an answer of several parts as one text, such as '3, 5'"
        )
    text = final_text(str(answer)).strip()
    return explicit_answer(text) or text or None


def is_correct(text: str, gold: str) -> bool:
    r"""Whether the final answer of a text equals the gold answer.

    The final answer is the last complete `\boxed{}`; without a box it is what follows the last `####`, else the value
    of `"answer"` in JSON, else what follows the last "answer is" or "answer:", else the last expression of the text.

    text: the completion without its thinking, see `tags.final_text`.
    gold: the gold answer, without a box or prose around it.
    """
    if BOX.search(text):
        boxed = last_boxed(text)
        return boxed is not None and equivalent(gold, boxed)
    marked = explicit_answer(text)
    if marked is not None:
        return equivalent(gold, marked)
    text = text.replace(r"\$", "").strip()  # a dollar sign that stands for money would pair with one around a formula
    tail, stated_in_words = final_words(text)
    sentence = first_sentence(tail)
    if equivalent(gold, sentence) or (len(text) < PROSE_CHARS and "\n" in text and equivalent(gold, text)):
        return True
    spans = [next(filter(None, groups)) for groups in MATH_SPAN.findall(tail)]
    if spans:
        if _HEDGED.search(tail[: tail.rfind(spans[-1])].rstrip("$\\([").rstrip() + " "):
            return False
        return equivalent(gold, ", ".join(spans) if stated_in_words else spans[-1])
    if sentence and reads_whole(sentence):
        return False  # all of the stated answer is an expression, and not the gold one: no part of it counts
    before = text[-PROSE_CHARS:].rpartition("\n")[0]  # an expression may stand in an earlier line than the last words
    prose = re.sub(r"\*\*|__|`|[€£¥₹₽₩]", "", unify(tail if stated_in_words else f"{before}\n{tail}"))
    if any(_HEDGED.search(prose[: found.start()]) for found in list(_NUMBER.finditer(prose))[-1:]):
        return False
    if (number := _last_number(prose)) is not None:
        return equivalent(gold, number)
    return same_value(parse(clean(gold)), parse_prose(_RATIO.sub(" ", prose)))


def _last_number(text: str) -> str | None:
    """The last number in prose, if it stands alone there: not as a part of a formula."""
    found = list(_NUMBER.finditer(text))
    if not found or re.search(r"[\d\\√]", text[found[-1].end() :]):
        return None
    last = found[-1]
    start = last.start("number")
    if _FORMULA_BEFORE.search(text[:start]) or _FORMULA_AFTER.match(text, last.end()):
        return None
    return last["number"].rstrip(",")


def prepare() -> None:
    """Imports and warms up math-verify, so that the first row does not pay for it."""
    math_reward([r"\boxed{1 + x^2}"], [r"x^2 + 1"])  # no cheaper comparison decides
