"""Cutting a completion into steps, on token ids and their decoded pieces, never on re-tokenised text.

A splitter is a function from the (T,) text pieces of a completion's tokens to the ends of its steps: exclusive,
increasing token positions, the last one T. A step starts afresh after the previous one's end, so cutting a branch
alone and cutting its whole trajectory give the same steps.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches

from ._extras import load_object
from .errors import ConfigError, unknown
from .tree import Step

Splitter = Callable[[Sequence[str]], list[int]]

CUT = "\ufffd"  # what decoding gives for part of a character
_SENTENCE_END = re.compile(r"""[.!?。！？]["')\]]*$""")


def delimiter(text: str = "\n\n") -> Splitter:
    """A step ends with the token whose decoded text completes `text` (spec section 1, the paper's rule)."""
    if not text:
        raise ConfigError("the step delimiter must not be empty")

    def split(pieces: Sequence[str]) -> list[int]:
        ends, tail = [], ""
        keep = len(text) - 1
        for i, piece in enumerate(pieces, 1):
            tail += piece
            if text in tail:
                ends.append(i)
                tail = ""
            elif keep:
                tail = tail[-keep:]
            else:
                tail = ""
        return _closed(ends, len(pieces))

    return split


def pattern(regex: str) -> Splitter:
    """A step ends with the token that completes a match of `regex` in the step's own text."""
    try:
        compiled = re.compile(regex)
    except re.error as e:
        raise ConfigError(f"the step pattern {regex!r} is no regular expression: {e}") from e
    if compiled.match(""):
        raise ConfigError(f"the step pattern {regex!r} matches the empty text")

    def split(pieces: Sequence[str]) -> list[int]:
        ends, text = [], ""
        for i, piece in enumerate(pieces, 1):
            text += piece
            if compiled.search(text):
                ends.append(i)
                text = ""
        return _closed(ends, len(pieces))

    return split


def tokens(count: int) -> Splitter:
    """A step is `count` tokens (TreePO's fixed-length segments)."""
    if count < 1:
        raise ConfigError(f"a step must have at least 1 token, got {count}")

    def split(pieces: Sequence[str]) -> list[int]:
        return _closed(list(range(count, len(pieces) + 1, count)), len(pieces))

    return split


def sentence() -> Splitter:
    """A step ends at `.`, `!` or `?` (quotes and brackets may follow) when the next token starts with white space."""

    def split(pieces: Sequence[str]) -> list[int]:
        ends, text = [], ""
        for i, piece in enumerate(pieces, 1):
            text += piece
            following = pieces[i] if i < len(pieces) else ""
            if piece and _SENTENCE_END.search(text) and following[:1].isspace():
                ends.append(i)
                text = ""
        return _closed(ends, len(pieces))

    return split


def noisy(share: float) -> Splitter:
    """Blank lines with a `share` of the boundaries wrong: half of those dropped, half 1 to 4 tokens late.

    Which ones, a hash of the step's own text decides: a step that two trajectories share is cut alike in both, and a
    branch is cut as its whole trajectory is. An early end would break that: a step starts afresh after it, and would
    meet the blank line again.
    """
    if not 0 <= share <= 1:
        raise ConfigError(f"the share of wrong step boundaries must be from 0 to 1, got {share:g}")

    def split(pieces: Sequence[str]) -> list[int]:
        ends, step, tail, due = [], "", "", 0
        for i, piece in enumerate(pieces, 1):
            step += piece
            tail += piece
            if not due and "\n\n" in tail:
                tail = ""
                due = i + _delay(step, share)
            if due == i:
                ends.append(i)
                step, tail, due = "", "", 0
            elif due < i:
                due = 0  # dropped: the step goes on to the next blank line
            tail = tail[-1:]
        return _closed(ends, len(pieces))

    return split


def _delay(step: str, share: float) -> int:
    """By how many tokens the boundary after `step` is late: mostly 0, -1 where it is dropped."""
    digest = hashlib.blake2b(step.encode("utf-8", "surrogatepass"), digest_size=9).digest()
    if int.from_bytes(digest[:8], "big") / 2**64 >= share:
        return 0
    return -1 if digest[8] % 2 else 1 + digest[8] // 2 % 4


def _closed(ends: list[int], total: int) -> list[int]:
    """The completion's own end closes the last step."""
    if total and (not ends or ends[-1] != total):
        ends.append(total)
    return ends


def make_splitter(name: str) -> Splitter:
    r"""A splitter by name.

    `"blank_line"` (default: `"\n\n"`), `"delimiter:TEXT"`, `"regex:PATTERN"`, `"tokens:COUNT"`, `"sentence"`,
    `"noisy:SHARE"` (blank lines, a share of them misplaced), or a dotted path `"package.module:function"` to a splitter
    of your own; the names before win over modules called the same. `\n` in TEXT may be written as backslash n.
    """
    kind, _, value = name.partition(":")
    match kind:
        case "blank_line":
            return delimiter()
        case "delimiter":
            return delimiter(value.replace("\\n", "\n"))
        case "regex":
            return pattern(value)
        case "tokens":
            if not value.isdecimal() or len(value) > 9:
                raise ConfigError(f"splitter 'tokens:COUNT' needs a count, got {value!r:.80}; e.g. tokens:512")
            return tokens(int(value))
        case "sentence":
            return sentence()
        case "noisy":
            try:
                share = float(value)
            except ValueError as e:
                raise ConfigError(f"splitter 'noisy:SHARE' needs a share, got {value!r:.80}; e.g. noisy:0.1") from e
            return noisy(share)
    known = ("blank_line", "delimiter:TEXT", "regex:PATTERN", "tokens:COUNT", "sentence", "noisy:SHARE")
    if value.isidentifier():
        try:
            return load_object(name, "splitter")
        except ConfigError as e:
            # `delimeter:END` has the form of a dotted path: say what was meant, unless a module of that name exists.
            near = get_close_matches(kind, [form.partition(":")[0] for form in known], n=1)
            if near and isinstance(e.__cause__, ModuleNotFoundError) and e.__cause__.name == kind:
                raise ConfigError(f"{e}; did you mean {near[0]!r}?") from e
            raise
    raise unknown("splitter", name, known)


class PieceDecoder:
    """Decodes tokens one by one so that the pieces, joined, are exactly the decoded whole.

    `decode(ids) -> str` is the tokenizer's, special tokens skipped. A character cut across tokens counts for the
    token that completes it. Pieces come from a table; where they do not add up to the whole, the completion is
    decoded prefix by prefix (slow, always right).
    """

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._alone: dict[int, str] = {}
        self._inner: dict[int, str] = {}

    def __call__(self, ids: Sequence[int]) -> list[str]:
        """(T,) text pieces of `ids`."""
        whole = self._decode(list(ids))
        for t in ids:
            if t not in self._alone:
                self._alone[t] = self._decode([t])
        # Taken from these ids, not from what was decoded before: the pieces must depend on the ids alone.
        anchor = next((t for t in ids if self._alone[t].isalnum()), None)
        pieces: list[str] = []
        cut: list[int] = []  # tokens of a character that is not complete yet
        for i, t in enumerate(ids):
            piece = self._alone[t] if i == 0 or anchor is None else self._after(anchor, t)
            if cut or CUT in piece:
                cut.append(t)
                piece = self._decode(cut)
                if piece.endswith(CUT) and len(cut) < 4:
                    piece = ""
                else:
                    cut = []
            pieces.append(piece)
        return pieces if "".join(pieces) == whole else self._prefix_by_prefix(list(ids), whole)

    def _after(self, anchor: int, t: int) -> str:
        """`t` inside a text: tokenizers of the SentencePiece kind drop a leading space at the very start only."""
        if t not in self._inner:
            self._inner[t] = self._decode([anchor, t])[len(self._alone[anchor]) :]
        return self._inner[t]

    def _prefix_by_prefix(self, ids: list[int], whole: str) -> list[str]:
        pieces: list[str] = []
        seen = 0  # characters of the whole already given out
        for end in range(1, len(ids) + 1):
            text = whole if end == len(ids) else self._decode(ids[:end]).rstrip(CUT)
            # A prefix may decode to characters that the next token changes: give out only what the whole confirms.
            while not whole.startswith(text):
                text = text[:-1]
            pieces.append(whole[seen : len(text)])
            seen = max(seen, len(text))
        return pieces


def cut(
    token_ids: Sequence[int],
    logprobs: Sequence[float],
    entropies: Sequence[float] | None,
    pieces: Sequence[str],
    splitter: Splitter,
) -> list[Step]:
    """The steps of one completion; all sequences are (T,)."""
    steps, start = [], 0
    try:
        ends = [int(end) for end in splitter(pieces)]
    except Exception as e:  # it may be the user's
        raise ConfigError(f"the splitter failed: {type(e).__name__}: {e}") from e
    for end in ends:
        if end <= start:
            raise ConfigError(f"the splitter gave end {end} after {start}; ends must increase and start above 0")
        steps.append(
            Step(
                tuple(token_ids[start:end]),
                "".join(pieces[start:end]),
                tuple(logprobs[start:end]),
                None if entropies is None else tuple(entropies[start:end]),
            )
        )
        start = end
    if start != len(token_ids):
        raise ConfigError(f"the splitter ended at token {start} of {len(token_ids)}; its last end must be the length")
    return steps
