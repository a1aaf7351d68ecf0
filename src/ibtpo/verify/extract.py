r"""Where a text says its answer: in a box, behind `####`, in JSON, behind "answer is", in its last line.

Thinking and answer tags are no matter of this module: `tags.final_text` has been asked before.
"""

import re

from .tags import json_answer

BOX = re.compile(r"\\(?:boxed|fbox|framebox)(?![a-zA-Z])")
MATH_SPAN = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
PROSE_CHARS = 300  # characters of prose that are searched for an expression: the search takes quadratic time

_BRACES = re.compile(
    r"\\\\?(?:boxed|fbox|framebox)(?:(?P<box>\s*\{)|(?P<bare>\s+[^\s{}$\\]+|\d[^\s{}$\\]*))|\\.|[{}]", re.DOTALL
)  # `\.` skips escaped braces: those are a set's, not the box's
_HEADING = re.compile(  # a heading of Markdown, not GSM8K's way to say an answer
    r"(?i)\W*(?:(?:step|part|case|method|section|question|problem|approach)\b.*|.*[:：]\W*|"
    r"(?:the\s+)?(?:final\s+)?(?:answer|result|solution|conclusion|explanation|verification|check|reasoning|summary)\W*)"
)
_HASHES = re.compile(r"^[ \t]*####(.{1,500})$", re.MULTILINE)
_ANCHOR = re.compile(
    r"(?i)(?:\banswers?\b[^\n.:=]{0,60}?(?:\bis\b|\bare\b|[:=])|答案[是为為：:]+|(?:答え|正解)[は：:]+|(?:정답|답)[은：:]+"
    r"|\b(?:respuesta|antwort|réponse|risposta|resposta|ответ|الإجابة|الجواب)\b[^\n.:=]{0,30}?(?:\b(?:es|ist|lautet|est|è|é|هي|هو)\b|[:=：—]))[\s:：*_]*(?P<answer>[^\n]*)"
)
_ASIDE = re.compile(r"[*_`]*,?\s+(?:not|rather\s+than|instead\s+of|because|since|whereas)\b")
_NOT = re.compile(r"[*_`]*,?\s+not\s+(?=[$\\*]*\d)")
_SENTENCE_END = re.compile(r"\.(?=\s|[*`_]*\s*$)|。")
_ITEM = re.compile(r"\s*(?:[-+•>*]|#{1,6}|\d{1,2}[.)])\s+(?P<text>\S.*)")
_FENCE = re.compile(r"^[ \t]*```\w*[ \t]*$", re.MULTILINE)
_HTML = re.compile(r"</?(?:b|strong|em|i|u|p|br|div|span|code|mark)\b[^<>]{0,200}>", re.IGNORECASE)
_STRUCK = re.compile(r"~~[^~\n]{1,200}~~")  # what the model takes back
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
    for line in reversed(_HASHES.findall(text)):
        if (answer := line.strip()) and not _HEADING.fullmatch(answer):
            return str(answer)
    return json_answer(text) if "{" in text else None


def final_words(text: str) -> tuple[str, bool]:
    """The words of a text that hold its final answer, and whether an "answer is" stands before them.

    They are what follows the last "answer is", to the end of its line, of the formula or of the list it starts, else
    the last line.
    """
    text = without_markup(text)
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


def without_markup(text: str) -> str:
    """A text without the marks of code blocks and of HTML, and without what is struck out."""
    return _STRUCK.sub("", _HTML.sub("", _FENCE.sub("", text))).strip()


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
