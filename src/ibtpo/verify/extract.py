r"""Where a text says its answer: in a box, behind `####`, in JSON, behind "answer is", in its last line.

Thinking and answer tags are no matter of this module: `tags.final_text` has been asked before.
"""

import re

from .tags import json_answer

BOX = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])")
MATH_SPAN = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
PROSE_CHARS = 300  # characters of prose that are searched for an expression: the search takes quadratic time

_BRACES = re.compile(
    r"\\(?:boxed|fbox)(?:(?P<box>\s*\{)|(?P<bare>\s+[^\s{}$\\]+|\d[^\s{}$\\]*))|\\.|[{}]", re.DOTALL
)  # `\.` skips escaped braces: those are a set's, not the box's
_HASHES = re.compile(r"^\s*####\s*(.+?)\s*$", re.MULTILINE)
_ANCHOR = re.compile(
    r"(?i)(?:\banswers?\b[^\n.:=]{0,60}?(?:\bis\b|\bare\b|[:=])|答案[是为：:]+)[\s:：*_]*(?P<answer>[^\n]*)"
)
_ASIDE = re.compile(r"[*_`]*,?\s+(?:not|rather\s+than|instead\s+of|because|since|whereas)\b")
_NOT = re.compile(r"[*_`]*,?\s+not\s+(?=[$\\*]*\d)")
_SENTENCE_END = re.compile(r"\.(?=\s|[*`_]*\s*$)|。")
_ITEM = re.compile(r"\s*(?:[-+•>*]|#{1,6}|\d{1,2}[.)])\s+(?P<text>\S.*)")
_FENCE = re.compile(r"^\s*```\w*\s*$", re.MULTILINE)
_MARKS = " *`_\t"


def boxed_contents(text: str) -> list[tuple[int, str]]:
    r"""All complete boxes of a text, as (start, content) in the order of their starts.

    Complete is a `\boxed{...}` or `\fbox{...}` whose braces balance, and a `\boxed 5` without braces.
    """
    found: list[tuple[int, str]] = []
    open_braces: list[tuple[int, int] | None] = []  # (start of the box, start of its content); None: any other brace
    for token in _BRACES.finditer(text):  # one pass only: a degenerate completion repeats an unfinished box for pages
        if token["box"]:
            open_braces.append((token.start(), token.end()))
        elif token["bare"]:
            found.append((token.start(), token["bare"].strip()))
        elif token[0] == "{":
            open_braces.append(None)
        elif token[0] == "}" and open_braces and (box := open_braces.pop()) is not None:
            found.append((box[0], text[box[1] : token.start()].strip()))
    return sorted(found)


def last_boxed(text: str) -> str | None:
    r"""The content of the last complete `\boxed{...}` of a text, or None."""
    boxes = boxed_contents(text)
    return boxes[-1][1] if boxes else None


def explicit_answer(text: str) -> str | None:
    r"""What a text marks as its answer, or None.

    It is the content of the last complete `\boxed{}`, else the last line that starts with `####`, else the last
    `"answer"` of a JSON object.
    """
    boxed = last_boxed(text)
    if boxed is not None:
        return boxed
    hashes = _HASHES.findall(text)
    if hashes:
        return str(hashes[-1])
    return json_answer(text) if "{" in text else None


def final_words(text: str) -> tuple[str, bool]:
    """The words of a text that hold its final answer, and whether an "answer is" stands before them.

    They are what follows the last "answer is", to the end of its line, of the formula or of the list it starts, else
    the last line.
    """
    text = _FENCE.sub("", text).strip()
    for anchor in reversed(list(_ANCHOR.finditer(text))):
        line = anchor["answer"].strip(_MARKS)
        formula = MATH_SPAN.match(text, anchor.start("answer"))
        if formula and "\n" in formula[0] and len(formula[0]) < PROSE_CHARS:
            return formula[0], True
        begins = text.rfind("\n", 0, anchor.start("answer")) + 1
        if begins > anchor.start() and (items := _items(text[begins:])):
            return ", ".join(items)[:PROSE_CHARS], True
        if line:
            return _ASIDE.split(line[:PROSE_CHARS], maxsplit=1)[0].strip(_MARKS) or line[:PROSE_CHARS], True
    last = text[-PROSE_CHARS:].rpartition("\n")[2]
    item = _ITEM.fullmatch(last)
    return _NOT.split(item["text"] if item else last)[0].strip(_MARKS), False


def first_sentence(text: str) -> str:
    """The first sentence of a text, without its full stop and Markdown's marks."""
    return _SENTENCE_END.split(text, maxsplit=1)[0].strip(_MARKS)


def _items(text: str) -> list[str]:
    """The items of the list that a text begins with."""
    found = []
    for line in text.split("\n"):
        if (item := _ITEM.fullmatch(line)) is None:
            break
        found.append(item["text"].strip(_MARKS).rstrip(".,;"))
    return found
