r"""`choice_reward`: does a completion choose the right letter of a multiple-choice question?"""

import re
from collections.abc import Sequence
from typing import Any

from . import completion_text
from .math import boxed_contents, gold_text

_LETTER = r"(?P<letter>[A-J])"
# What may stand between "answer is" and the letter: spaces, emphasis, a text macro, parentheses.
_OPEN = r"[\s:：*_$]*(?:\\(?:text|textbf|mathrm|mathbf)\s*\{\s*)?[\s*(（$]*"
_MACRO = re.compile(r"\\(?:text|textbf|textit|textrm|mbox|mathrm|mathbf|mathit|operatorname)\s*\{([^{}]*)\}")
# A letter stated in words. `_BOUNDARY` must match what follows it: "The answer is A lot" names no letter.
_STATED = re.compile(
    r"(?:(?i:\banswer\b|\boption\s+is\b|\bchoice\s+is\b)(?i:\s+(?:choice|option))?"
    r"(?:\s*(?i:is|would\s+be|must\s+be)\b|[*_]*\s*[:：=])|答案[是为：:]+)"
    + _OPEN
    + r"(?:(?i:option|choice|letter)\s+)?[*(（$]*"
    + _LETTER
    + r"(?P<after>[^\n]*)"
)
# The letter with nothing but decoration, and the letter with the option's text: "(B) 29", "B. 29".
_ALONE = re.compile(r"[\s*_$\\()（）\[\]]*" + _LETTER + r"[\s*_$\\().（）\[\]]*")
_WITH_TEXT = re.compile(r"[(（]\s*(?P<paren>[A-Ja-j])\s*[)）].*|(?P<dot>[A-J])\s*[).:：].*", re.DOTALL)
# The same within dollars. A formula with two letters in parentheses is a list of the options, and chooses none.
_IN_DOLLARS = re.compile(r"\$\s*\(" + _LETTER + r"\)(?:(?!\([A-J]\))[^$])*\$[\s.*]*")
# What follows the letter when a second one is named: "B or C".
_HEDGE = re.compile(r"[\s)）*.}$]*(?:,|/|\||&|\bor\b|\band\b)\s*[*(（$]*(?:\\text\w*\{)?\(?[A-J](?![a-z])")
_BOUNDARY = re.compile(r"\s*$|[)）}.,:;*$!?。，]|\s+(?:because|since|as|[-(（—–])")


def choice_reward(completions: Sequence[Any], answer: Sequence[Any], **kwargs: Any) -> list[float | None]:
    r"""TRL reward function: 1.0 if the last letter given as the answer is the gold one, else 0.0.

    completions: (R,) texts, or conversations whose last message is the answer.
    answer: (R,) gold letters A to J, such as "B" or "(B)".

    Returns (R,) rewards, None where a row's answer names no letter.
    """
    rewards: list[float | None] = []
    for completion, row in zip(completions, answer, strict=True):
        gold = gold_letter(row)
        rewards.append(None if gold is None else float(chosen_letter(completion_text(completion)) == gold))
    return rewards


def gold_letter(answer: Any) -> str | None:
    """The letter that a gold answer names, or None if it names none."""
    text = gold_text(answer)
    return None if text is None else _boxed_letter(text)


def chosen_letter(text: str) -> str | None:
    r"""The letter A to J that a text settles on, or None.

    A letter is named by `\boxed{B}`, by "answer is B" or "Answer: B", and by a last line that is nothing but the
    letter, "(B)", "**B**" or "$\textbf{(B)}$", or, within dollars, the letter and its text, "$\textbf{(B) } 29$".
    The last of these wins; if that one says "B or C", the text settles on none.
    """
    mentions = [(start, _boxed_letter(content)) for start, content in boxed_contents(text)]
    for match in _STATED.finditer(text):
        after = match["after"]
        if _HEDGE.match(after):
            mentions.append((match.start(), None))
        elif _BOUNDARY.match(after):
            mentions.append((match.start(), match["letter"]))
    last_line = _open_macros(text.rstrip().rpartition("\n")[2])
    if (alone := _ALONE.fullmatch(last_line)) or (alone := _IN_DOLLARS.fullmatch(last_line)):
        mentions.append((len(text), alone["letter"]))
    return max(mentions, key=lambda mention: mention[0])[1] if mentions else None


def _open_macros(text: str) -> str:
    r"""A text with what is inside its text macros in their place: "B" for `\textbf{\text{B}}`."""
    while (opened := _MACRO.sub(r"\1", text)) != text:
        text = opened
    return text.strip()


def _boxed_letter(content: str) -> str | None:
    """The letter in a box or a gold answer: alone, or with the option's text behind it."""
    content = _open_macros(content)
    if alone := _ALONE.fullmatch(content.upper()):
        return alone["letter"]
    if with_text := _WITH_TEXT.fullmatch(content):
        letter, rest = with_text["paren"] or with_text["dot"], content[with_text.end("paren") :]
        return None if with_text["paren"] and _HEDGE.match(rest) else letter.upper()
    return None
