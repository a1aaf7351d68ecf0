"""Cutting a completion into the steps of a tree, on token ids and their decoded pieces, never on re-tokenised text.

A splitter is a function from the (T,) text pieces of a completion's tokens to the ends of its steps. Ends are exclusive
token positions, they increase, and the last one is T. The splitters here look at nothing before the step they are in,
so that a branch, cut alone, gets the steps that its whole trajectory would get.

The paper (arXiv 2605.28109) ends a step at a blank line, which is the default; docs/method.md, "Departures", says what
a delimiter inside a token does.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches

from ._extras import load_object
from .errors import ConfigError, unknown
from .tree import Step

Splitter = Callable[[Sequence[str]], list[int]]

CUT = "\ufffd"  # what tokenizers give when the tokens end, or start, in the middle of a character's bytes
_SENTENCE_END = re.compile(r"""[.!?。！？]["')\]]*$""")


def delimiter(text: str = "\n\n") -> Splitter:
    """A splitter that ends a step with the token whose decoded text completes `text`; a blank line is the paper's.

    text: the delimiter. It may lie inside a token or be spread over several.

    Raises `ConfigError` for an empty delimiter.
    """
    if not text:
        raise ConfigError("the step delimiter must not be empty")

    def split(pieces: Sequence[str]) -> list[int]:
        ends, tail = [], ""
        keep = len(text) - 1  # a delimiter that the next token completes has at most so many characters before it
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
    """A splitter that ends a step with the token that completes a match of a pattern.

    regex: a regular expression of Python's `re`, searched for in the text of the step alone.

    Raises `ConfigError` for an expression that is wrong or matches the empty text.
    """
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
    """A splitter into steps of `count` tokens, the last one shorter: the segments of TreePO (arXiv 2508.17445).

    Raises `ConfigError` for a count below 1.
    """
    if count < 1:
        raise ConfigError(f"a step must have at least 1 token, got {count}")

    def split(pieces: Sequence[str]) -> list[int]:
        return _closed(list(range(count, len(pieces) + 1, count)), len(pieces))

    return split


def sentence() -> Splitter:
    """A splitter that ends a step with a sentence.

    A sentence ends with a token that closes with `.`, `!` or `?`, or with their full-width forms, after which quotes
    and brackets may follow; the next token must start with white space.
    """

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
    """A splitter at blank lines that puts some of the ends in the wrong place.

    It is for the paper's test of noise on step boundaries, whose form the paper does not give (docs/method.md,
    "Departures"). Half of the wrong ends are dropped, and half come 1 to 4 tokens late. A hash of the step's own text
    decides which ones, so that a step that two trajectories share is cut alike in both, and a branch is cut as its
    whole trajectory is. No end comes early, because the step that starts there would meet the same blank line again.

    share: the share of ends to put wrong, from 0 to 1.

    Raises `ConfigError` for another share.
    """
    if not 0 <= share <= 1:
        raise ConfigError(f"the share of wrong step boundaries must be from 0 to 1, got {share:g}")

    def split(pieces: Sequence[str]) -> list[int]:
        ends, step, tail, due = [], "", "", 0  # due: where the step is to end, 0 until its blank line was met
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
    """How many tokens too late the end of a step comes: 0 where it is right, and -1 where it is dropped.

    step: the text of the step, up to its blank line.
    share: the share of ends to put wrong.
    """
    digest = hashlib.blake2b(step.encode("utf-8", "surrogatepass"), digest_size=9).digest()
    if int.from_bytes(digest[:8], "big") / 2**64 >= share:
        return 0
    return -1 if digest[8] % 2 else 1 + digest[8] // 2 % 4


def turn() -> Splitter:
    """A splitter whose step is a whole turn, since turns are cut one by one; without environments, a whole answer."""
    return lambda pieces: _closed([], len(pieces))


def _closed(ends: list[int], total: int) -> list[int]:
    """`ends` with the end of the completion, which closes the last step, added if it is missing.

    total: T, the number of tokens of the completion.
    """
    if total and (not ends or ends[-1] != total):
        ends.append(total)
    return ends


def make_splitter(name: str) -> Splitter:
    r"""The splitter that a name stands for.

    name: one of
        "blank_line": a step ends at a blank line, the paper's rule and the default.
        "delimiter:TEXT": it ends at TEXT, in which a line break may be written as `\n`.
        "regex:PATTERN": it ends where a regular expression matches.
        "tokens:COUNT": it has a fixed number of tokens.
        "sentence": it ends with a sentence.
        "noisy:SHARE": it ends at a blank line, a share of which is put in the wrong place.
        "turn": it is a whole turn. With every other splitter, too, a turn's end ends a step.
        "package.module:function": a splitter of your own. A module called like one of the kinds above is not found.

    Raises `ConfigError` for an unknown name, a wrong value after the colon, and a function that cannot be loaded.
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
        case "turn":
            return turn()
    known = ("blank_line", "delimiter:TEXT", "regex:PATTERN", "tokens:COUNT", "sentence", "noisy:SHARE", "turn")
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
    """Tells which piece of a text each of its tokens stands for; the pieces, joined, are exactly the decoded text.

    A character whose bytes are spread over several tokens counts for the token that completes it. Pieces are looked up
    in tables of what single tokens decode to. Where those pieces do not add up to the whole text, it is decoded prefix
    by prefix, which is slow but always right.

    decode: token ids -> text, special tokens skipped, as a tokenizer does it.
    """

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._alone: dict[int, str] = {}  # token id -> its text at the start of a text
        self._inner: dict[int, str] = {}  # token id -> its text after another token

    def __call__(self, ids: Sequence[int]) -> list[str]:
        """The (T,) text pieces of the (T,) token ids `ids`, which make up a whole text."""
        whole = self._decode(list(ids))
        for t in ids:
            if t not in self._alone:
                self._alone[t] = self._decode([t])
        # The anchor comes from these ids, not from an earlier call, so that the pieces depend on the ids alone.
        anchor = next((t for t in ids if self._alone[t].isalnum()), None)
        pieces: list[str] = []
        cut: list[int] = []  # tokens of a character that is not complete yet
        for i, t in enumerate(ids):
            piece = self._alone[t] if i == 0 or anchor is None else self._after(anchor, t)
            if cut or CUT in piece:
                cut.append(t)
                piece = self._decode(cut)
                # In UTF-8 a character has at most four bytes, so after four tokens it is no longer waited for.
                if piece.endswith(CUT) and len(cut) < 4:
                    piece = ""
                else:
                    cut = []
            pieces.append(piece)
        return pieces if "".join(pieces) == whole else self._prefix_by_prefix(list(ids), whole)

    def _after(self, anchor: int, t: int) -> str:
        """The text of token `t` inside a text, found by decoding it after the token `anchor`.

        It can differ from the text of `t` alone: tokenizers of the SentencePiece kind drop a space that leads a text.
        """
        if t not in self._inner:
            self._inner[t] = self._decode([anchor, t])[len(self._alone[anchor]) :]
        return self._inner[t]

    def _prefix_by_prefix(self, ids: list[int], whole: str) -> list[str]:
        """The pieces of `ids`, which decode to `whole`: each is what one more token adds to the decoded text."""
        pieces: list[str] = []
        seen = 0  # how many characters of the whole the pieces hold so far
        for end in range(1, len(ids) + 1):
            text = whole if end == len(ids) else self._decode(ids[:end]).rstrip(CUT)
            # The next token may still change the last characters of a prefix: keep only those that the whole has too.
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
    """The steps of one completion.

    token_ids: (T,) what was sampled.
    logprobs: (T,) sampling log-probabilities.
    entropies: (T,) entropies in nats, or None.
    pieces: (T,) the text of each token, see `PieceDecoder`.
    splitter: where steps end.

    Raises `ConfigError` when the splitter fails or gives anything else than increasing ends up to T.
    """
    steps, start = [], 0
    try:
        ends = [int(end) for end in splitter(pieces)]
    except Exception as e:  # the splitter may be the user's own, and raise anything
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
