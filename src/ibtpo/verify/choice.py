r"""`choice_reward`: does a completion choose the right letter of a multiple-choice question?

A letter counts where a text settles on it: in a box, in JSON, in "answer is B" and its like in other languages, in "B
is correct", alone in the last line, or before the option's text in the last or the only such line. A letter in a
sentence about another option ("A is wrong", "B or C") does not.
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from .extract import boxed_contents, without_markup
from .math import gold_text
from .tags import ANSWER_TAGS, THINKING_TAGS, final_texts, json_answer

_MACRO = re.compile(r"\\(?:text|textbf|textit|textrm|mbox|mathrm|mathbf|mathit|operatorname)\s*\{([^{}]*)\}")
_SPACES = re.compile(r"\\(?:rm|bf|it|sf|tt|sl|displaystyle|quad|left|right)(?![a-zA-Z])|\\[,;:! ]|~")
_QUOTES = "\"'`“”‘’«»「」『』"
# What may stand around a letter: spaces, emphasis, dollars, brackets, quotation marks.
_OPEN = rf"[\s*_$({{\[【{_QUOTES}\\]{{0,16}}"
_CLOSE = rf"[*_$)}}\]】{_QUOTES}\\]{{0,16}}"
# A letter: in upper case, or in lower case where brackets, quotation marks or the line's end set it apart from a word.
_LETTER = (
    rf"(?:(?P<upper>[A-J])(?![A-Za-z'’]\w)"
    rf"|(?<=[(\[{_QUOTES}*])(?P<set>[a-j])(?=[)\]{_QUOTES}*])|(?P<lower>[a-j])(?=\s*[.!]?\s*$))"
)
_NAMES = (
    r"(?:option|choice|letter|answer|letra|opci[óo]n|respuesta|lettre|r[ée]ponse|buchstabe|antwort|alternativa|op[çc][ãa]o|"
    r"resposta|lettera|opzione|risposta|optie|вариант|ответ|الخيار|الإجابة)"
)
_NAMED = rf"(?:(?:the\s+|la\s+|l')?{_NAMES}\s+|(?:选项|選項|選択肢|보기|옵션)\s*)?"
_ARTICLE = r"(?:(?:the|la|le|l'|el|(?-i:o|a)|die|der|das|de|het|il|lo)\s+)?"
_NOUN = (
    r"(?:\bans\.?(?=\s*[:-])|\brichtig(?=\s+ist\b)"
    r"|(?:\b|(?<=_))(?:answer|solution|response|selection|pick|respuesta|r[ée]ponse|antwort|l[öo]sung|resposta|gabarito|risposta|"
    r"antwoord|odpowied[źz]|odpov[ěe][ďd]|svar|vastaus|cevap|yan[ıi]t|jawaban(?:nya)?|r[ăa]spuns)\b"
    r"|\b(?:correct|right|best|true|final|chosen|proper|most\s+appropriate)\s+"
    r"(?:option|choice|letter|alternative|statement|one)\b"
    r"|\b(?:option|choice|letter)(?=\s+is\b|\s*[:：])"
    r"|\bopci[óo]n\s+correcta\b|\bbonne\s+option\b|\bbon\s+choix\b|\b(?:richtige|korrekte)\s+option\b"
    r"|\b(?:op[çc][ãa]o|alternativa)\s+corr?ec?ta\b"
    r"|\bopzione\s+corretta\b|\bjuiste\s+optie\b|đáp án|ответ|відповідь|(?:правильный|верный)\s+вариант"
    r"|إ?الإجابة|إجابة|الجواب|الخيار\s+الصحيح|(?:最も適切|最適|適切|正しい)な?の(?=は)"
    r"|उत्तर|正[确確]的?(?:选项|選項|答案)|答案|正解|答え|解答|정답|답)"
)
_ADVERB = (
    r"(?:\s*(?:definitely|clearly|therefore|thus|then|indeed|simply|just|probably|likely|most\s+likely|actually|"
    r"obviously|donc|quindi|alors|daher|somit|portanto|entonces)\b,?)?"
)
_VERB = (
    r"(?:\b(?:is|was|(?:would|must|should|will|has\s+to|ought\s+to|seems\s+to|appears\s+to|turns\s+out\s+to)\s+be"
    r"|es|sería|est|serait|ist|lautet|w[äa]re|é|seria|è|sarebbe|jest|är|er|on|este|olur|adalah|là|هي|هو|है|これは)\b"
    r"|[—–→=]|->|】\s*:?|(?<=\s)-(?=\s)|是|为|為|は|が|은|는|[:：])"
)
_STATED = re.compile(
    rf"{_NOUN}(?P<between>[^\n.:：=。!?]{{0,60}}?)(?:\*\*|__)?\s*{_VERB}(?:\s*[:：])?{_ADVERB}[\s*_]*"
    rf"(?:not\s+{_OPEN}[A-J]{_CLOSE},?\s+but\s+)?"
    rf"{_ARTICLE}{_NAMED}{_OPEN}(?:\s*{_NAMED}{_OPEN})?{_LETTER}(?=(?P<after>[^\n]{{0,80}}))",
    re.IGNORECASE | re.MULTILINE,
)
# A letter in upper case with which a sentence or a clause ends.
_LAST_WORD = r"(?-i:[A-J])(?=[*_)]*(?:\s*[.!,;]?\s*$|[.!]\s|,?\s*(?:because|since)\b|,\s+not\b))"
# "选B", "I choose B", "go with B".
_PICKED = re.compile(
    rf"(?:(?:故|应|應|所以|因此|我)?(?<![不别非勿])(?:选|選)(?:择|擇)?[是为：:]?"
    rf"|\bI(?:'d|\s+would|\s+will|'ll|'m|\s+am)?\s+(?:choose|chose|pick|picked|select|selected|go(?:ing)?\s+with|went\s+with|answer)"
    rf"|\b(?:elijo|escojo|c'est(?=\s+(?:la\s+)?(?:r[ée]ponse|l'option))|je\s+choisis|ich\s+wähle|escolho|scelgo|выбираю)|"
    rf"\b(?:it|this|that)(?:\s+(?:is|must\s+be|has\s+to\s+be|should\s+be)|'s)\s+(?=(?:option|choice|answer|letter)\b|[(*]|{_LAST_WORD})|"
    rf"\b(?:therefore|thus|so|hence|clearly|also|somit|daher)(?:,|\s+ist(?:\s+die\s+antwort)?)?\s+"
    rf"(?=(?:option|choice|answer|letter)\s+[({{*]?[A-J]|[(*]+[A-J]|{_LAST_WORD})"
    rf"|^[\s*_(]*(?=(?-i:[A-J]),?\s+(?:because|since)\b)|\bist\s+(?=(?-i:[A-J])\s+(?:richtig|korrekt)))"
    rf"\s*{_ARTICLE}{_NAMED}{_OPEN}(?P<upper>[A-J])(?![A-Za-z'’])(?=(?P<after>[^\n]{{0,80}}))",
    re.IGNORECASE | re.MULTILINE,
)
_RIGHT = (
    r"(?:is|are|(?:seems|appears|has|ought)\s+to\s+be|(?:must|would|should|will)\s+be|seems|es|est|ist|é|è|está|jest|är)\s+"
    r"(?:(?:the|a|la|le|el|o|die|der|das|definitely|clearly|therefore|thus|indeed|also)\s+)*"
    r"(?:(?:only|best|most\s+accurate)\s+)?(?:correct|right|answer|true|best|correcta|respuesta|correcte|bonne|vraie|réponse|"
    r"richtig|korrekt|antwort|corret[ao]|certa|resposta|corretta|giusta|risposta)\b(?!\s*[?]|,?\s+(?:if|when|only|unless|wenn|si)\b)"
    r"|(?:选项|選項|项|項)?(?:是|才是)?(?:正确|正確|对的|正解)(?!\s*[吗嗎?？])|[がは](?:正解|正しい|適切)(?!(?:では|じゃ|と)|で(?:は)?な)"
    r"|(?:[—–-]\s*(?:это\s+)?)?(?:верн|правильн)|(?:가|이|은|는)\s*(?:정답|맞|옳)(?!\S{0,3}\s*(?:아니|아닙|않))"
    r"|(?:(?:هو|هي)\s+)?(?:(?:الإجابة|الجواب|الخيار)\s+)?(?:ال)?صحيح"
)
_IS_RIGHT = re.compile(
    rf"(?:\b(?:option|choice|statement|answer|opción|option|opção|alternativa|opzione|вариант|选项|選項|選択肢|الخيار)\s*)?(?<![A-Za-z'’]){_OPEN}"
    rf"(?P<upper>[A-J])(?![A-Za-z'’]){_CLOSE}[.:]?\s*(?:{_RIGHT})",
    re.IGNORECASE,
)
# The letter with nothing but decoration, and the letter with the option's text: "(B) 29", "B. 29", "b) 29".
_ALONE = re.compile(
    rf"(?:[^\w?？~¬!≠°❌✗✘✖-]|-+>|-\s|\d{{1,2}}\.\s|A:\s)*{_OPEN}(?:(?:the\s+)?(?:{_NAMES}|ans\.?)\s+)?{_OPEN}(?P<letter>[A-J]){_CLOSE}"
    rf"(?:\s*(?:it\s+is|(?:<[^<>\n]{{0,40}}>)))?[^\w?？❌✗✘✖<>/,]*",
    re.IGNORECASE,
)
_WITH_TEXT = re.compile(
    r"[\s*_$>#-]*(?:(?:option|choice)\s+)?(?:[(\[]\s*(?P<paren>[A-J])\s*[)\]]|(?P<dot>[A-J])\s*(?:[)\]:]|\.(?=\s|$)|(?P<dash>\s[-–—])(?=\s)))[\s*_:.)–—-]*(?P<rest>.*)",
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
_BOUNDARY = re.compile(r"\s*$|[^\x00-\x7f]|\s*[)）}.,:;*$!?。，\]\"'`]|\s+(?:because|since|as|given|which|is|[-(—–])")
# In the words between "answer" and "is", or before "answer": what makes it another than the right one.
_WRONG = (
    r"(?:wrong|incorrect\w*|false|worst|worse|bad|second[\s-]best|falsch\w*|fals[aoe]\w*|fausse|mauvais\w*|incorret\w*|errad[ao]|"
    r"sbagliat[ao]|errat[ao]|equivocad[ao]|неправильн\w*|неверн\w*|错误的?|錯誤的?|間違\w*|誤\w*|틀린|خاطئة|الخاطئة|الخطأ)"
)
_NEGATED = re.compile(rf"\b(?:not|n't|never|cannot|no|nicht|pas|non|não|не)\b|n't\b|[不非]|ليس|{_WRONG}", re.IGNORECASE)
_WRONG_BEFORE = re.compile(
    rf"(?:{_WRONG}|\b(?:not|nicht)(?:\s+the)?|(?:n['’]t|\bnot)\s+(?:think|believe|say|sure)(?:\s+that)?(?:\s+the)?)[\s_]*$",
    re.IGNORECASE,
)
_SUPPOSED = re.compile(
    rf"\b(?:if|whether|suppose|supposing|assume|assuming|unless|wenn|ob|falls|if\s+option)\s+{_OPEN}$", re.IGNORECASE
)
# After the letter, in languages where the verb comes last: "B is not".
_NOT_AFTER = re.compile(
    rf"{_CLOSE}\s*(?:(?:では|じゃ|で)な|(?:가|이|은|는)?\s*아[니닙]|(?:は|が)?(?:正しく|誤|間違)|不正?[确確对]|错|錯)"
)
_NEAR = 60  # characters before and after a letter that may say something of it
_LAST_CHARS = 10_000  # in which words that name a letter are looked for
_LAST_LINES = 6
_MOST_DECORATED = 100  # characters


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
    text = without_markup(unicodedata.normalize("NFKC", text))
    mentions = [(start, _marked_letter(content)) for start, content in boxed_contents(text)[-1:]]
    if not mentions:  # a degenerate completion repeats itself for pages
        text = text[-_LAST_CHARS:]
    plain = _open_macros(text)
    if not mentions and "{" in text and (letter := _marked_letter(json_answer(text) or "")) is not None:
        return letter
    if not mentions:
        mentions = _in_words(plain)
    last_line = plain.rpartition("\n")[2].strip()
    alone = _alone(last_line)
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
            groups, before = match.groupdict(), text[max(match.start() - _NEAR, 0) : match.start()]
            if _NEGATED.search(groups.get("between") or "") or _WRONG_BEFORE.search(before):
                continue
            letter = match["upper"] or groups.get("set") or groups.get("lower") or ""
            after = match["after"]
            if not letter or (match["upper"] and not letter.isupper() and not _set_apart(match)):
                continue
            if _NOT_AFTER.match(after):
                continue
            if _HEDGE.match(after):
                mentions.append((match.start("after"), None))
            elif letter.upper() not in "AI" or _BOUNDARY.match(after):
                mentions.append((match.start("after"), letter.upper()))
    for match in _IS_RIGHT.finditer(text):
        if match["upper"].isupper() and not _SUPPOSED.search(
            text[max(match.start("upper") - _NEAR, 0) : match.start("upper")]
        ):
            hedged = _ONE_OF.search(text[max(match.start() - _NEAR, 0) : match.start()])
            mentions.append((match.end("upper"), None if hedged else match["upper"]))
    return mentions


def _alone(text: str) -> re.Match[str] | None:
    """The match of a text that is a letter with decoration, which is short."""
    return _ALONE.fullmatch(text) if len(text) <= _MOST_DECORATED else None


def _set_apart(match: re.Match[str]) -> bool:
    """Whether a letter in lower case is no word: it is in brackets or marks, or ends its line."""
    before = match.string[match.start("upper") - 1 : match.start("upper")]
    after = match.string[match.end("upper") : match.end("upper") + _NEAR]
    return (
        after[:1] == ")"
        or (before in tuple("([*" + _QUOTES) and after[:1] in tuple(")]*" + _QUOTES))
        or bool(re.match(r"\s*[.!)]?\s*(?:$|\n)", after))
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
    return _SPACES.sub(" ", text).strip()


def _marked_letter(content: str, *, whole: bool = True) -> str | None:
    """The letter in a box, a gold answer or a line: alone, or with the option's text behind it.

    whole: whether the content is all of an answer; else a sentence about the option is not counted.
    """
    content = _open_macros(unicodedata.normalize("NFKC", content))
    if alone := _alone(content):
        return alone["letter"].upper()
    with_text = _WITH_TEXT.fullmatch(content)
    if with_text is None:
        mentions = _in_words(content) if whole else []
        return mentions[-1][1] if mentions else None
    letter, rest = with_text["paren"] or with_text["dot"], with_text["rest"]
    if _LISTED.search(content) or _HEDGE.match(rest) or re.match(r"[\s,/]*\(?[A-J]\)?\s*$", rest):
        return None
    if with_text["dash"] and re.match(rf"{_WRONG}|{_NEGATED.pattern}", rest, re.IGNORECASE):
        return None
    return None if _ABOUT.match(rest) and not re.match(_RIGHT, rest, re.IGNORECASE) else str(letter).upper()
