r"""`choice_reward`: does a completion choose the right letter of a multiple-choice question?

A letter counts where a text settles on it: in a box, in JSON, in "answer is B" and its like in other languages, in "B
is correct", alone in the last line, or before the option's text in the last or the only such line. A letter in a
sentence about another option ("A is wrong", "B or C") does not.
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from .extract import boxed_contents
from .math import gold_text
from .tags import ANSWER_TAGS, THINKING_TAGS, final_texts, json_answer

_MACRO = re.compile(r"\\(?:text|textbf|textit|textrm|mbox|mathrm|mathbf|mathit|operatorname)\s*\{([^{}]*)\}")
_QUOTES = "\"'`“”‘’«»"
# What may stand around a letter: spaces, emphasis, dollars, brackets, quotation marks.
_OPEN = rf"[\s*_$({{\[{_QUOTES}\\]*"
_CLOSE = rf"[*_$)}}\]{_QUOTES}\\]*"
# A letter: in upper case, or in lower case where brackets, quotation marks or the line's end set it apart from a word.
_LETTER = (
    rf"(?:(?P<upper>[A-J])(?![A-Za-z'’]\w)"
    rf"|(?<=[(\[{_QUOTES}*])(?P<set>[a-j])(?=[)\]{_QUOTES}*])|(?P<lower>[a-j])(?=\s*[.!]?\s*$))"
)
_NAMES = (
    r"(?:option|choice|letter|answer|letra|opci[óo]n|respuesta|lettre|r[ée]ponse|buchstabe|antwort|alternativa|op[çc][ãa]o|"
    r"resposta|lettera|opzione|risposta|optie|вариант)"
)
_NAMED = rf"(?:(?:the\s+|la\s+|l')?{_NAMES}\s+)?"
_ARTICLE = r"(?:(?:the|la|le|l'|el|o|a|die|der|das|de|het|il|lo)\s+)?"
_NOUN = (
    r"(?:\bans(?=\s*:)|\brichtig(?=\s+ist\b)"
    r"|\b(?:answer|solution|response|selection|pick|respuesta|r[ée]ponse|antwort|l[öo]sung|resposta|gabarito|risposta|"
    r"antwoord|odpowied[źz]|odpov[ěe][ďd]|svar|vastaus|cevap|yan[ıi]t|jawaban(?:nya)?|r[ăa]spuns)\b"
    r"|\b(?:correct|right|best|true|final|chosen|proper|most\s+appropriate)\s+"
    r"(?:option|choice|letter|alternative|statement|one)\b"
    r"|\b(?:option|choice)(?=\s+is\b)"
    r"|\bopci[óo]n\s+correcta\b|\bbonne\s+option\b|\b(?:richtige|korrekte)\s+option\b"
    r"|\b(?:op[çc][ãa]o|alternativa)\s+corr?ec?ta\b"
    r"|\bopzione\s+corretta\b|\bjuiste\s+optie\b|đáp án|ответ|відповідь|(?:правильный|верный)\s+вариант"
    r"|الإجابة|الجواب"
    r"|उत्तर|正[确確]的?(?:选项|選項|答案)|答案|正解|答え|解答|정답|답)"
)
_ADVERB = (
    r"(?:\s*(?:definitely|clearly|therefore|thus|then|indeed|simply|just|probably|likely|most\s+likely|actually|"
    r"obviously)\b,?)?"
)
_VERB = (
    r"(?:\b(?:is|was|(?:would|must|should|will|has\s+to|ought\s+to|seems\s+to|appears\s+to|turns\s+out\s+to)\s+be"
    r"|es|sería|est|serait|ist|lautet|w[äa]re|é|seria|è|sarebbe|jest|är|er|on|este|olur|adalah|là|هي|هو|है|これは)\b"
    r"|[—–→=]|->|】\s*:?|(?<=\s)-(?=\s)|是|为|為|は|が|은|는|[:：])"
)
_STATED = re.compile(
    rf"{_NOUN}(?P<between>[^\n.:：=。!?]{{0,60}}?)(?:\*\*|__)?\s*{_VERB}(?:\s*[:：])?{_ADVERB}[\s*_]*"
    rf"{_ARTICLE}{_NAMED}{_OPEN}(?:\s*{_NAMED}{_OPEN})?{_LETTER}(?=(?P<after>[^\n]*))",
    re.IGNORECASE | re.MULTILINE,
)
# "选B", "I choose B", "go with B".
_PICKED = re.compile(
    rf"(?:(?:故|应|應|所以|因此|我)?(?:选|選)(?:择|擇)?[是为：:]?"
    rf"|\bI(?:'d|\s+would|\s+will|'ll)?\s+(?:choose|chose|pick|picked|select|selected|go\s+with|went\s+with|answer)"
    rf"|\b(?:elijo|escojo|c'est(?=\s+(?:la\s+)?(?:r[ée]ponse|l'option))|je\s+choisis|ich\s+wähle|escolho|scelgo|выбираю)|"
    rf"\b(?:it|this|that)(?:\s+(?:is|must\s+be|has\s+to\s+be|should\s+be)|'s)\s+(?=(?:option|choice|answer|letter)\b|[(*])|"
    rf"\b(?:therefore|thus|so|hence),?\s+(?=(?:option|choice|answer|letter)\s+[({{*]?[A-J]|[(*]+[A-J]))"
    rf"\s*{_ARTICLE}{_NAMED}{_OPEN}(?P<upper>[A-J])(?![A-Za-z'’])(?=(?P<after>[^\n]*))",
    re.IGNORECASE,
)
_RIGHT = (
    r"(?:is|are|must\s+be|es|est|ist|é|è|está|jest|är)\s+"
    r"(?:(?:the|a|la|le|el|o|die|der|das|definitely|clearly|therefore|thus|indeed|also)\s+)*"
    r"(?:(?:only|best|most\s+accurate)\s+)?(?:correct|right|answer|true|best|correcta|respuesta|correcte|bonne|vraie|réponse|"
    r"richtig|korrekt|antwort|corret[ao]|certa|resposta|corretta|giusta|risposta)\b(?!\s*[?])"
    r"|(?:是)?(?:正确|正確|对的|正解)|が正解|верн|правильн"
)
_IS_RIGHT = re.compile(
    rf"(?:\b(?:option|choice|statement|answer|opción|option|opção|alternativa|opzione|вариант|选项|選項)\s*)?(?<![A-Za-z'’]){_OPEN}"
    rf"(?P<upper>[A-J])(?![A-Za-z'’]){_CLOSE}[.:]?\s*(?:{_RIGHT})",
    re.IGNORECASE,
)
# The letter with nothing but decoration, and the letter with the option's text: "(B) 29", "B. 29", "b) 29".
_ALONE = re.compile(
    rf"{_OPEN}(?:(?:the\s+)?{_NAMES}\s+)?{_OPEN}(?P<letter>[A-J]){_CLOSE}[\s*_$\\().\]{_QUOTES}!]*",
    re.IGNORECASE,
)
_WITH_TEXT = re.compile(
    r"[\s*_$>#-]*(?:(?:option|choice)\s+)?(?:[(\[]\s*(?P<paren>[A-J])\s*[)\]]|(?P<dot>[A-J])\s*(?:[)\]:]|\.(?=\s|$)))[\s*_:.)]*(?P<rest>.*)",
    re.IGNORECASE | re.DOTALL,
)
_LISTED = re.compile(r"\(\s*[A-J]\s*\).*\(\s*[A-J]\s*\)", re.DOTALL)
_ABOUT = re.compile(
    r"(?:is|are|was|were|isn't|cannot|can't|can|would|could|does|doesn't|has|says|seems|looks|might|may|and|or|vs)\b|(?:是)?错|不"
)
# What follows the letter when a second one is named: "B or C"; not "B, A is a distractor".
_HEDGE = re.compile(
    r"[\s)\]*.}$\"'`]*(?:(?:/|\||&|\bor\b|\band\b|\bou\b|\boder\b|\bo\b|或|和)\s*(?:option\s+)?|,\s*(?=[*(（$\s]*[A-J][)）*$]*\s*(?:[.,;)]|$|\bor\b|\band\b)))"
    r"[*(（$]*(?:\\text\w*\{)?\(?[A-J](?![a-zA-Z])"
)
_ONE_OF = re.compile(rf"\b[A-J]{_CLOSE}\s*(?:,|/|&|\b(?:or|and|nor|ou|oder|und|et|y|o)\b|或|和)\s*(?:option\s+)?$")
# What may follow the English words A and I when they are letters of options.
_BOUNDARY = re.compile(r"\s*$|\s*[)）}.,:;*$!?。，\]\"'`]|\s+(?:because|since|as|given|which|is|[-(—–])")
_NEGATED = re.compile(r"\b(?:not|n't|never|cannot|no|nicht|pas|non|não)\b", re.IGNORECASE)
_LAST_LINES = 6


def choice_reward(
    completions: Sequence[Any],
    answer: Sequence[Any],
    prompts: Sequence[Any] | None = None,
    thinking_tags: str = THINKING_TAGS,
    answer_tags: str = ANSWER_TAGS,
    **kwargs: Any,
) -> list[float | None]:
    r"""TRL reward function: 1.0 if the last letter given as the answer is the gold one, else 0.0.

    completions: (R,) texts, or conversations whose last message is the answer.
    answer: (R,) gold letters A to J, such as "B" or "(B)".
    prompts, thinking_tags, answer_tags: see `tags.final_texts`.

    Returns (R,) rewards, None where a row's answer names no letter.

    Raises `DataError` for a gold answer that is neither text nor a number.
    """
    texts = final_texts(completions, prompts, thinking_tags=thinking_tags, answer_tags=answer_tags)
    rewards: list[float | None] = []
    for text, row in zip(texts, answer, strict=True):
        gold = gold_letter(row)
        rewards.append(None if gold is None else float(chosen_letter(text) == gold))
    return rewards


def gold_letter(answer: Any) -> str | None:
    """The letter that a gold answer names, or None if it names none."""
    text = gold_text(answer)
    return None if text is None else _marked_letter(text)


def chosen_letter(text: str) -> str | None:
    r"""The letter A to J that a text settles on, or None.

    It is that of the last box, else of JSON's `"answer"`, else of the last place that names one: "answer is B", "I
    choose B", "B is correct", or a last line that is nothing but the letter. If that place says "B or C", the text
    settles on none. Without any, it is the letter of the only line that begins with one: "B) 4 metres".

    text: the completion without its thinking, see `tags.final_text`.
    """
    text = unicodedata.normalize("NFKC", text).strip()
    mentions = [(start, _marked_letter(content)) for start, content in boxed_contents(text)]
    plain = _open_macros(text)
    if not mentions and "{" in text and (letter := _marked_letter(json_answer(text) or "")) is not None:
        return letter
    if not mentions:
        mentions = _in_words(plain)
    last_line = plain.rpartition("\n")[2].strip()
    alone = _ALONE.fullmatch(last_line)
    if alone and not any(mention[0] >= len(text) - len(last_line) for mention in mentions):
        mentions.append((len(text), alone["letter"].upper()))
    if mentions:
        return max(mentions, key=lambda mention: mention[0])[1]
    return _option_line(plain)


def _in_words(text: str) -> list[tuple[int, str | None]]:
    """The places that name a letter in words, each with the letter, or None for two letters."""
    mentions: list[tuple[int, str | None]] = []
    for pattern in (_STATED, _PICKED):
        for match in pattern.finditer(text):
            groups = match.groupdict()
            if _NEGATED.search(groups.get("between") or ""):
                continue
            letter = match["upper"] or groups.get("set") or groups.get("lower") or ""
            after = match["after"]
            if not letter or (match["upper"] and not letter.isupper() and not _set_apart(match)):
                continue
            if _HEDGE.match(after):
                mentions.append((match.start("after"), None))
            elif letter.upper() not in "AI" or _BOUNDARY.match(after):
                mentions.append((match.start("after"), letter.upper()))
    for match in _IS_RIGHT.finditer(text):
        if match["upper"].isupper():
            hedged = _ONE_OF.search(text[: match.start()])
            mentions.append((match.end("upper"), None if hedged else match["upper"]))
    return mentions


def _set_apart(match: re.Match[str]) -> bool:
    """Whether a letter in lower case is no word: it is in brackets or marks, or ends its line."""
    before = match.string[match.start("upper") - 1 : match.start("upper")]
    after = match.string[match.end("upper") :]
    return (before in tuple("([*" + _QUOTES) and after[:1] in tuple(")]*" + _QUOTES)) or bool(
        re.match(r"\s*[.!)]?\s*(?:$|\n)", after)
    )


def _option_line(text: str) -> str | None:
    """The letter before an option's text in the last line, or else in the first; None where several are listed."""
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    letters = {letter for line in lines[-_LAST_LINES:] if (letter := _marked_letter(line, whole=False))}
    if len(letters) != 1:
        return None
    for line in (lines[-1], lines[0]):
        if letter := _marked_letter(line, whole=False):
            return letter
    return None


def _open_macros(text: str) -> str:
    r"""A text with what is inside its text macros in their place: "B" for `\textbf{\text{B}}`."""
    while (opened := _MACRO.sub(r"\1", text)) != text:
        text = opened
    return text.strip()


def _marked_letter(content: str, *, whole: bool = True) -> str | None:
    """The letter in a box, a gold answer or a line: alone, or with the option's text behind it.

    whole: whether the content is all of an answer; else a sentence about the option is not counted.
    """
    content = _open_macros(unicodedata.normalize("NFKC", content))
    if alone := _ALONE.fullmatch(content):
        return alone["letter"].upper()
    with_text = _WITH_TEXT.fullmatch(content)
    if with_text is None:
        mentions = _in_words(content) if whole else []
        return mentions[-1][1] if mentions else None
    letter, rest = with_text["paren"] or with_text["dot"], with_text["rest"]
    if _LISTED.search(content) or _HEDGE.match(rest) or re.match(r"[\s,/]*\(?[A-J]\)?\s*$", rest):
        return None
    return None if _ABOUT.match(rest) and not re.match(_RIGHT, rest, re.IGNORECASE) else str(letter).upper()
