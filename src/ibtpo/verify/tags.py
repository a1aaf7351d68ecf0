r"""Reasoning markup: which part of a completion is its final answer.

    <think>Perhaps \boxed{4}? No.</think> The answer is <answer>5</answer>.

What stands inside thinking is never graded. The rest is, or of it only the answer's tags where there are some.
"""

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from .._options import OPTIONS
from ..errors import ConfigError
from . import completion_text

THINKING_TAGS: str = OPTIONS["thinking_tags"].default
ANSWER_TAGS: str = OPTIONS["answer_tags"].default

_JSON_KEY = re.compile(
    r"""["'](?:the[ _])?(?:final|correct|right|best|my|chosen|selected)?[ _]?"""
    r"""(?:answer|choice|option|letter|selection|selected|chosen|solution|result|respuesta|réponse|antwort|答案)"""
    r"""(?:[ _](?:choice|letter|option))?["']\s*:\s*"""
    r"""(?P<value>\[[^\[\]]*\]|(?:"(?:\\.|[^"\\])*"|'[^'\n]*'|-?[\d.]+(?:[eE][-+]?\d+)?))""",
    re.IGNORECASE,
)


@lru_cache(maxsize=16)
def pairs(tags: str) -> tuple[tuple[str, str], ...]:
    """The pairs of opening and closing tags in an option's text, such as `<think> </think>`.

    Raises `ConfigError` unless there is an even number of tags, all different.
    """
    words = tags.split()
    if len(words) % 2 or len(set(words)) < len(words):
        raise ConfigError(f"tags must be pairs of an opening and a closing tag, all different, got {tags!r}")
    return tuple(zip(words[::2], words[1::2], strict=True))


def final_texts(
    completions: Sequence[Any],
    prompts: Sequence[Any] | None = None,
    *,
    thinking_tags: str = THINKING_TAGS,
    answer_tags: str = ANSWER_TAGS,
) -> list[str]:
    """The final text of each completion, see `final_text`.

    completions: (R,) texts or conversations.
    prompts: (R,) what was asked, or None. One that ends with an opening tag has begun the thinking already.
    """
    found = []
    for i, completion in enumerate(completions):
        text = completion_text(completion)
        if prompts is not None and isinstance(prompts[i], str):
            begun = next((o for o, _ in pairs(thinking_tags) if prompts[i].rstrip().endswith(o)), "")
            text = begun + text
        found.append(final_text(text, thinking_tags=thinking_tags, answer_tags=answer_tags))
    return found


def final_text(text: str, *, thinking_tags: str = THINKING_TAGS, answer_tags: str = ANSWER_TAGS) -> str:
    """The part of a completion that is graded: all but its thinking, or the content of its last complete answer tag.

    All before a closing tag without an opening one is thinking, because a chat template may have opened it, and so is
    all after an opening tag that is never closed. An answer tag that is never closed holds no answer, like a box.

    text: the completion.
    thinking_tags: pairs of tags around thinking.
    answer_tags: pairs of tags around the final answer. Case does not matter in either, nor do spaces and attributes in
        a tag such as `<answer>`.
    """
    text = without_thinking(text, thinking_tags)
    answer: str | None = None
    begun: int | None = None
    for token, (_, opens) in _tokens(text, answer_tags):
        if opens:
            begun = token.end()
            answer = "" if answer is None else answer
        elif begun is not None:
            answer, begun = text[begun : token.start()].strip(), None
    return text if answer is None else answer


def without_thinking(text: str, thinking_tags: str = THINKING_TAGS) -> str:
    """A completion without its thinking, see `final_text`."""
    kept: list[str] = []
    outside: int | None = 0  # where the present part outside of thinking starts; None within thinking
    inside = -1  # the number of the pair that was opened
    for token, (pair, opens) in _tokens(text, thinking_tags):
        if opens and outside is not None:
            kept.append(text[outside : token.start()])
            outside, inside = None, pair
        elif not opens and outside is not None:
            kept.clear()
            outside = token.end()
        elif not opens and pair == inside:
            outside = token.end()
    if outside is not None:
        kept.append(text[outside:])
    return "\n".join(kept) if kept else ""


def json_answer(text: str) -> str | None:
    """The value of the last `"answer": …` (or choice, option, letter, …) of a JSON object in a text, or None."""
    found = [match["value"] for match in _JSON_KEY.finditer(text)]
    if not found:
        return None
    value = found[-1]
    if value.startswith("["):
        return ", ".join(text.strip(" \t\r\n\"'") for text in value[1:-1].split(","))
    if value.startswith("'"):
        return value[1:-1]
    value = re.sub(r"(?<!\\)\\(?=[a-zA-Z]{2,})", r"\\\\", value)  # "\frac", which is LaTeX and not a form feed
    try:
        return str(json.loads(value, parse_float=str))
    except ValueError:
        return value.strip('"')  # LaTeX with single backslashes is not JSON, but models write it


def _tokens(text: str, tags: str) -> Iterator[tuple[re.Match[str], tuple[int, bool]]]:
    """The tags in a text in their order, each with the number of its pair and whether it opens."""
    known = pairs(tags)
    if any(tag[0] in text for pair in known for tag in pair):
        for token in _any_tag(tags).finditer(text):
            number = token.lastindex - 1  # type: ignore[operator]  # one of the groups has matched
            yield token, (number // 2, number % 2 == 0)


@lru_cache(maxsize=16)
def _any_tag(tags: str) -> re.Pattern[str]:
    """A pattern of any of the tags, a group each. One like `<answer>` may have spaces and attributes in it."""
    found = []
    for tag in itertools.chain(*pairs(tags)):
        xml = re.fullmatch(r"<(/?)(\w[\w-]*)>", tag)
        found.append(rf"<\s*{xml[1]}\s*{re.escape(xml[2])}(?:\s[^<>]{{0,200}})?>" if xml else re.escape(tag))
    return re.compile("|".join(f"({pattern})" for pattern in found), re.IGNORECASE)
