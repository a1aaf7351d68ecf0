r"""One spelling for answers: Unicode, LaTeX old and new, Markdown and plain text, rewritten to what `math` compares.

½ → \frac{1}{2}    x² → x^{2}    2√5 → 2\sqrt{5}    {a \over b}, \dfrac ab → \frac{a}{b}    **5** → 5    \mathrm{e} → e
"""

import re
import unicodedata
from functools import lru_cache

TEXT = (
    r"\\(?:text|mbox|hbox|textbf|textit|textrm|textnormal|textsf|texttt|mathrm|mathbf|mathit|mathsf|operatorname)\*?\s*"
)
TEXT_SPAN = re.compile(TEXT + r"\{([^{}]*)\}")

_GREEK = [
    "alpha",
    "beta",
    "gamma",
    "delta",
    "epsilon",
    "zeta",
    "eta",
    "theta",
    "iota",
    "kappa",
    "lambda",
    "mu",
    "nu",
    "xi",
    "omicron",
    "pi",
    "rho",
    "varsigma",
    "sigma",
    "tau",
    "upsilon",
    "phi",
    "chi",
    "psi",
    "omega",
]
_SIGNS = {
    **dict.fromkeys("−–—‐‑‒﹣", "-"),
    **dict.fromkeys("⋅∙•·", r"\cdot "),
    **dict.fromkeys("≤≦⩽", r"\le "),
    **dict.fromkeys("≥≧⩾", r"\ge "),
    **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\u2061\u2062", ""),
    **dict.fromkeys("“”„", '"'),
    **dict.fromkeys("⁄∕÷", "/"),
    **{"×": r"\times ", "±": r"\pm ", "∓": r"\mp ", "∞": r"\infty ", "≠": r"\ne ", "≈": r"\approx ", "º": "°"},
    **{"∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ", "∖": r"\setminus ", "∶": ":", "、": ","},
    **{"∠": r"\angle ", "△": r"\triangle ", "⊂": r"\subset ", "⊆": r"\subseteq ", "⊥": r"\perp ", "∥": r"\parallel "},
    **{"∣": "|", "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "٫": ".", "٬": ","},
    **{"∨": r"\lor ", "∧": r"\land ", "⟨": r"\langle ", "⟩": r"\rangle ", "′": "'", "。": ".", "→": r"\to "},
    **{"ℝ": r"\mathbb{R}", "ℂ": r"\mathbb{C}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}"},
    **{chr(0x3B1 + i): rf"\{name} " for i, name in enumerate(_GREEK)},
    **{
        chr(0x391 + i): rf"\{name.capitalize()} "
        for i, name in enumerate(_GREEK)
        if name in ("delta", "omega", "gamma")
    },
    "ϕ": r"\phi ",
    "Ω": r"\Omega ",
}
_SIGNS |= {"€": r"\text{EUR}", "£": r"\text{pound}", "¥": r"\text{yen}", "₹": r"\text{rupee}", "₽": r"\text{ruble}"}
_SIGNS |= {"₩": r"\text{won}", "¢": r"\text{cents}"}
_TABLE = str.maketrans(_SIGNS)
_BARRED = re.compile("(?<=[.\\d])(?:\\d[\u0304\u0305])+")  # 0.3̅
_DOTTED = re.compile("(\\d)\u0307")  # 0.3̇
_RAISED = re.compile("[⁰¹²³⁴-⁾ⁿⁱ]+")
_LOWERED = re.compile("[₀-₎ₐₑₒₓₙ]+")
_ROOT = re.compile(
    r"(?P<sign>[√∛∜]|(?<![\\A-Za-z])sqrt(?![A-Za-z]))\s*"
    r"(?:\((?P<round>[^()]*(?:\([^()]*\)[^()]*)*)\)|\{(?P<braced>[^{}]*)\}|(?P<bare>\d+(?:\.\d+)?|[A-Za-z]|\\[A-Za-z]+))"
)
_DEGREE = {"√": "", "∛": "[3]", "∜": "[4]"}

_LETTER = r"(?![a-zA-Z])"
_GROUP = r"\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}"  # braces, up to three deep
_SWITCHES = (
    "bf|rm|it|sf|tt|sl|em|cal|bfseries|itshape|normalfont|tiny|scriptsize|footnotesize|small|normalsize|large|Large|LARGE|"
    "huge|Huge|boldmath|displaystyle|textstyle|scriptstyle|scriptscriptstyle|limits|nolimits|strut|mathstrut|hfill|"
    "hfil|noindent|centering|left|right|middle|[bB]igg?[lrm]?"
)
_FUNCTIONS = "ln|lg|log|exp|(?:arc)?(?:sin|cos|tan|tg)|cot|ctg|sec|csc|sinh|cosh|tanh|gcd|det"
_MAGNITUDES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_MAGNITUDE = re.compile(
    rf"(?<=[\d}}])\s*(?P<macro>{TEXT}\{{)?\s*(?P<word>dozen|{'|'.join(_MAGNITUDES)})s?{_LETTER}\s*(?(macro)(?P<rest>[^{{}}]*)\}})"
)
_WORDS = (  # what words say that a sign says too
    (r"all\s+reals?(?:\s+numbers)?", r"\mathbb{R}"),
    (r"no\s+(?:real\s+)?solutions?|(?:the\s+)?empty\s+set", r"\emptyset"),
    (r"(?:it\s+)?does\s+not\s+exist|undefined\s+limit", r"\text{DNE}"),
)
_IN_WORDS = tuple(
    (re.compile(rf"(?:{TEXT}\{{)?\s*(?:{words})\s*\.?\}}?", re.IGNORECASE), sign) for words, sign in _WORDS
)
# All of an answer that has a single number with commas or spaces between thousands, and what may stand around it.
_THOUSANDS = re.compile(
    r"(?P<before>[^,\d()\[\]{}^_]*)(?P<number>\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+(?=[^\d/]*$))(?P<after>(?!\d)[^,]*)"
)
_REWRITES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\(?:left|right)\s*\.", ""),  # invisible delimiters
        (rf"\{{\s*\\(?:rm|bf|it|sf|tt|sl|em){_LETTER}(?:\\[,;: ]|\s)*([^{{}}\\]*)\}}", r"\\mathrm{\1}"),  # {\rm km}
        (rf"\\(?:{_SWITCHES}){_LETTER}\s*", ""),  # sizes and fonts
        (r"(?:,\s*\\!|\{,\}(?:\\!)?)(?=\d{3}(?!\d))", ""),  # between thousands: 10,\!000 and 10{,}000
        (r"(?<!\\)\\!", ""),  # less space
        (
            rf"(?<!\\)\\[,;: >]|\\q?quad{_LETTER}|\\(?:thin|med|thick|en|neg)space{_LETTER}|~|\\\\\s*$",
            " ",
        ),  # more space
        (r"\\(?:[hv]space|hskip|kern|tag|label)\*?\s*\{[^{}]*\}", " "),
        (r"\{\s*,\s*\}", ","),
        (r"\{\s*:\s*\}|\\colon" + _LETTER + r"|\\ratio" + _LETTER, ":"),
        (r",\s*,", ","),
        (r"\\phantom\s*(?:\{[^{}]*\}|.)", ""),
        (r"\\(?:[dtc]|nice|s)frac" + _LETTER, r"\\frac"),
        (rf"\\(?:boldsymbol|pmb|bm|ensuremath|mathord|mathop|mathbin|underline|underbrace){_LETTER}\s*{_GROUP}", r"\1"),
        (rf"\\(?:text)?color\s*\{{[^{{}}]*\}}\s*{_GROUP}", r"\1"),
        (r"\\color\s*\{[^{}]*\}", ""),
        (
            rf"^\s*(?:{TEXT}\{{)?\s*(?:[Tt]he\s+)?(?:[Ff]inal\s+|[Cc]orrect\s+)?[Aa]nswer\b(?:\s+is\b)?\s*[:=]?\s*\}}?",
            "",
        ),
        (rf"(?<=\d)\s*{TEXT}\{{\s*[eE]\s*\}}\s*\{{?\s*([-+]?\d+)\s*\}}?", r"e\1"),  # 1.6\mathrm{e}{-19}
        (rf"{TEXT}\{{\s*({_FUNCTIONS})\s*\}}", r"\\\1 "),
        (rf"\\lg{_LETTER}", r"\\log_{10}"),
        (rf"\\(arc)?tg{_LETTER}", r"\\\1tan "),
        (rf"\\ctg{_LETTER}", r"\\cot "),
        (rf"(?<=[\d}}])\^?\s*\{{?\s*(?:{TEXT}\{{\s*)?(?:st|nd|rd|th)\s*\}}{{0,2}}\s*$", ""),  # 7^{\text{th}}
        (r"\^\s*\{\s*\\prime\s*\}|\^?\s*\\prime" + _LETTER, "'"),
        (r"\^\{(\d+)\}\s*/\s*_\{(\d+)\}", r" \\frac{\1}{\2}"),  # ¹/₂
        (rf"\\ast{_LETTER}", "*"),
        (rf"\\langle{_LETTER}\s*", "("),
        (rf"\s*\\rangle{_LETTER}", ")"),
        (rf"\\[cl]?dots{_LETTER}|(?<=,)\s*\.\.\.", r"\\ldots "),
        (r"\\(?:mathrm|mathbf|mathit|mathsf|operatorname|text|rm)\s+([A-Za-z])(?![A-Za-z])", r" \1 "),  # \mathrm e
        (rf"\\uppi{_LETTER}", r"\\pi "),
        (rf"\\imath{_LETTER}", " i "),
        (r"\\\$\s*(\d[\d,]*(?:\.\d+)?)(?![\d.,a-zA-Z\\^])", r"\1 \\text{ dollars}"),
        (TEXT + r"\{\s*(e|i|\\pi|\\infty|x|y|z|n)\s*\}", r" \1 "),  # upright constants and variables
        (TEXT + r"\{\s*(-?\d[\d.,]*)\s*\}", r"\1"),  # a number within a text macro
        (TEXT + r"\{(?=[^{}]*[\d^=+\\])((?:[^{}]|\{[^{}]*\})*)\}", r" \1"),  # a formula within a text macro
        (r"\\\$|\$|\\\(|\\\)|\\\[|\\\]", ""),  # dollars and other marks of a formula
        (rf"\\(?:varnothing|O|empty){_LETTER}|\\\{{\s*\\\}}", r"\\emptyset "),
        (rf"\\leq(?:slant|q)?{_LETTER}|<=|=<", r"\\le "),
        (rf"\\geq(?:slant|q)?{_LETTER}|>=", r"\\ge "),
        (rf"\\neq{_LETTER}|(?<!\d)!=|\\not\s*=", r"\\ne "),
        (rf"\\lt{_LETTER}", "<"),
        (rf"\\gt{_LETTER}", ">"),
        (rf"\\infin{_LETTER}|(?<![A-Za-z\\])[iI]nf(?:inity|ty)?{_LETTER}", r"\\infty "),
        (rf"\\lbrace{_LETTER}", r"\\{"),
        (rf"\\rbrace{_LETTER}", r"\\}"),
        (rf"\\lbrack{_LETTER}", "["),
        (rf"\\rbrack{_LETTER}", "]"),
        (rf"\\(?:div){_LETTER}", "/"),
        (r"\+/-|^\+-", r"\\pm "),
        (rf"(?<![A-Za-z\\])pi{_LETTER}", r"\\pi "),
        (r"(?<=[\w)}])\s*\*\*\s*(?=[\w({-])", "^"),
        (
            r"\\?%(?:\s*\\?%)*|"
            + TEXT
            + r"\{\s*(?:\\?%|per\s?cent|percentage|pct)\s*\}|(?<=[\d}])\s*(?:per\s?cent|pct)\b",
            "%",
        ),
        (r"\\approx" + _LETTER + r"(?=\s*-?[\d.]+\s*(?:\\(?:text|mbox).*)?$)", ""),  # before a lone number
    )
)
_OUTWARD = re.compile(r"([\[\]])([^\[\]()]*[,;][^\[\]()]*)([\[\]])")  # ]1, 2[, which is (1, 2)
_IS_SET = re.compile(r",|[|:][^|:]*(?:[<>=]|\\[lgn]e)")
_WRAPPED = re.compile(
    r"(\*\*\*|\*\*|\*|___|__|_|`+|~~|\"|'|“|‘)(?P<inner>[^\n]+?)(\*\*\*|\*\*|\*|___|__|_|`+|~~|\"|'|”|’)"
)
_COMMANDS_WITH_ARGUMENTS = {"frac": 2, "sqrt": 1, "binom": 2}
_COMMAND = re.compile(r"\\(frac|sqrt|binom)(?![a-zA-Z])")


def unify(text: str) -> str:
    """A text with the signs of Unicode written in ASCII and LaTeX."""
    if text.isascii():
        return _roots(text)
    text = _BARRED.sub(lambda m: rf"\overline{{{m[0][::2]}}}", text)
    text = re.sub("[\u0304\u0305]", "", _DOTTED.sub(r"\\dot{\1}", text))
    text = _RAISED.sub(lambda m: f"^{{{unicodedata.normalize('NFKC', m[0])}}}", text)
    text = _LOWERED.sub(lambda m: f"_{{{unicodedata.normalize('NFKC', m[0])}}}", text)
    text = "".join(_sign(char) for char in text)
    return _roots(text)


@lru_cache(maxsize=4096)
def clean(text: str) -> str:
    """The LaTeX of an answer in one spelling, ready to be compared: without marks, sizes, fonts and end punctuation."""
    text = _MAGNITUDE.sub(_times, unify(unwrap(text)))
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    if "\\" in text:
        text = _infix(text, "over", "frac")
        text = _infix(text, "choose", "binom")
        text = _brace(text)
    text = re.sub(r"^=\s*", "", unwrap(text).strip().rstrip(".,;").strip())
    for words, sign in _IN_WORDS:
        text = sign if words.fullmatch(text) else text
    if (
        text.startswith("{") and closing_brace(text, 1) == len(text) - 1
    ):  # a set in plain text, {1, 2}, or needless braces
        text = rf"\{{{text[1:-1]}\}}" if _IS_SET.search(text) else text[1:-1].strip()
    text = _OUTWARD.sub(lambda m: "[("[m[1] == "]"] + m[2] + "])"[m[3] == "["], text)
    if grouped := _THOUSANDS.fullmatch(text):
        text = grouped["before"] + re.sub("[, ]", "", grouped["number"]) + grouped["after"]
    return text


def _times(magnitude: re.Match[str]) -> str:
    r"""`million` behind a number as a factor, `\times 10^{6}`, before the unit that may stand in the same macro."""
    word = magnitude["word"]
    factor = "12 " if word == "dozen" else f"10^{{{_MAGNITUDES[word]}}}"
    return rf"\times {factor}" + (rf"\text{{ {magnitude['rest']}}}" if magnitude["rest"] else "")


def unwrap(text: str) -> str:
    """A text without Markdown's emphasis, code marks or quotation marks around all of it."""
    text = text.strip()
    while (match := _WRAPPED.fullmatch(text)) and _closes(match[1], match[3]) and match[1] not in match["inner"]:
        text = match["inner"].strip()
    return text


def _closes(opening: str, closing: str) -> bool:
    return closing == {"“": "”", "‘": "’"}.get(opening, opening)


@lru_cache(maxsize=1024)
def _sign(char: str) -> str:
    """A character in ASCII or LaTeX, or as it is."""
    if char.isascii():
        return char
    if char in _SIGNS:
        return _SIGNS[char]
    plain = unicodedata.normalize("NFKC", char)
    if "⁄" in plain and len(plain) > 1:  # ½
        top, _, bottom = plain.partition("⁄")
        return rf"\frac{{{top}}}{{{bottom}}}"
    return plain.translate(_TABLE) if char not in "√∛∜°" else char


def _roots(text: str) -> str:
    r"""√5, √(x+1) and sqrt(5) as \sqrt{…}, from the innermost outwards."""
    if "√" not in text and "∛" not in text and "∜" not in text and "sqrt" not in text:
        return text
    for _ in range(8):
        found = _ROOT.sub(
            lambda m: rf"\sqrt{_DEGREE.get(m['sign'], '')}{{{m['round'] or m['braced'] or m['bare'] or ''}}}", text
        )
        if found == text:
            break
        text = found
    return text


def _infix(text: str, infix: str, command: str) -> str:
    r"""`{a \over b}` as `\frac{a}{b}`, and a text that is `a \over b` without braces as well."""
    pattern = re.compile(rf"\\{infix}(?![a-zA-Z])")
    for _ in range(20):  # a degenerate answer may repeat it for pages
        if (found := pattern.search(text)) is None:
            break
        start, end = _opening(text, found.start()), closing_brace(text, found.end())
        top, bottom = text[start : found.start()].strip(), text[found.end() : end].strip()
        before, after = text[: max(start - 1, 0)], text[end + 1 :]
        text = rf"{before}\{command}{{{top}}}{{{bottom}}}{after}"
    return text


def _opening(text: str, at: int) -> int:
    """Where the content of the braces around a place starts; 0 if there are none."""
    depth = 0
    for i in range(at - 1, -1, -1):
        if text[i] in "{}" and (i == 0 or text[i - 1] != "\\"):
            depth += 1 if text[i] == "}" else -1
            if depth < 0:
                return i + 1
    return 0


def closing_brace(text: str, at: int) -> int:
    """Where the brace stands that closes the braces around a place; the text's length if there is none."""
    depth = 0
    for i in range(at, len(text)):
        if text[i] in "{}" and (i == 0 or text[i - 1] != "\\"):
            depth += 1 if text[i] == "{" else -1
            if depth < 0:
                return i
    return len(text)


def _brace(text: str) -> str:
    r"""`\frac12`, `\frac 1 2`, `\frac\pi2`, `\sqrt 5` and `\sqrt[3]2` with braces around each argument."""
    found: list[str] = []
    at = 0
    while match := _COMMAND.search(text, at):
        found.append(text[at : match.end()])
        at = match.end()
        if match[1] == "sqrt" and (degree := re.compile(r"\s*\[[^\[\]]*\]").match(text, at)):
            found.append(degree[0].strip())
            at = degree.end()
        for _ in range(_COMMANDS_WITH_ARGUMENTS[match[1]]):
            argument = re.compile(r"\s*(\\[a-zA-Z]+|[^\s{}\\])").match(text, at)
            if argument is None or argument[1] in (r"\frac", r"\sqrt", r"\binom", r"\text"):
                opening = re.compile(r"\s*\{").match(text, at)
                if opening is None:
                    break
                end = closing_brace(text, opening.end())
                found.append(f"{{{_brace(text[opening.end() : end]).strip()}}}")
                at = end + 1
            else:
                found.append(f"{{{argument[1]}}}")
                at = argument.end()
    return "".join([*found, text[at:]])
