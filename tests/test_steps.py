"""Cutting completions into steps, and decoding tokens into pieces that add up to the whole."""

import itertools
import math
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from ibtpo.errors import ConfigError
from ibtpo.steps import PieceDecoder, cut, delimiter, make_splitter, pattern, sentence, tokens


def words(pieces: Sequence[str], splitter: str = "blank_line") -> list[str]:
    """The text of each step."""
    ends = make_splitter(splitter)(pieces)
    return ["".join(pieces[a:b]) for a, b in zip([0, *ends[:-1]], ends, strict=True)]


# --- the default delimiter


@pytest.mark.parametrize(
    ("pieces", "ends"),
    [
        (["So", " 1", ".\n\n", "Then", " 2"], [3, 5]),  # inside a token
        (["a", "\n", "\n", "b"], [3, 4]),  # across two tokens
        (["a\n", "\nb", "c"], [2, 3]),  # across two tokens that hold other text: the completing token ends the step
        (["a", "\n", "", "\n", "b"], [4, 5]),  # a token without text in between
        (["a", "\n\n\n", "b"], [2, 3]),  # three line ends in one token: one step end
        (["a", "\n\n", "\n", "b"], [2, 4]),  # the third belongs to the next step
        (["a", "\n", "\n", "\n", "\n", "b"], [3, 5, 6]),  # four: two step ends
        (["a", "\n", "b", "\n", "c"], [5]),  # never together
        (["a", "\n\n"], [2]),  # at the very end
        (["a", "\n\n", ""], [2, 3]),  # an end-of-sequence token after it is a step of its own
        (["\n\n", "a"], [1, 2]),  # at the very start
        (["a\n\nb\n\nc", "d"], [1, 2]),  # twice inside a token
        (["a", "b"], [2]),  # none
        (["a"], [1]),
        ([], []),  # an empty completion has no step
    ],
)
def test_a_step_ends_with_the_token_that_completes_a_blank_line(pieces: list[str], ends: list[int]) -> None:
    assert make_splitter("blank_line")(pieces) == ends
    assert delimiter("\n\n")(pieces) == ends


def test_delimiter_takes_any_text_and_backslash_n() -> None:
    pieces = ["a", ";", "b", "\n", "c"]
    assert words(pieces, "delimiter:;") == ["a;", "b\nc"]
    assert words(pieces, "delimiter:\\n") == ["a;b\n", "c"]
    assert words(["a", "##", "#b", "##", "#"], "delimiter:###") == ["a###b", "###"]


def test_delimiter_does_not_use_text_twice() -> None:
    # "aba" in "ab a ba": completed by token 2; its last "a" is spent and cannot start the next one
    assert delimiter("aba")(["ab", "a", "ba", "x"]) == [2, 4]


def test_regex_searches_the_step_s_own_text() -> None:
    assert words(["Step", " 1", ":", "x", "Step", " 22", ":", "y"], r"regex:Step \d+:") == ["Step 1:", "xStep 22:", "y"]
    assert words(["1", "2", "3"], r"regex:\d\d") == ["12", "3"]
    assert pattern(r"a+b")(["a", "a", "b", "b"]) == [3, 4]


def test_tokens_cuts_segments_of_equal_length() -> None:
    assert tokens(2)(["a"] * 5) == [2, 4, 5]
    assert tokens(2)(["a"] * 4) == [2, 4]
    assert tokens(9)(["a"] * 4) == [4]
    assert make_splitter("tokens:3")([""] * 4) == [3, 4]
    assert tokens(1)([]) == []


def test_sentence_ends_where_white_space_follows() -> None:
    pieces = ["It", " is", " 3", ".", "14", ".", " Then", ' "really', '?"', " Yes", "!)", "\n", "No", "."]
    assert words(pieces, "sentence") == ["It is 3.14.", ' Then "really?"', " Yes!)", "\nNo."]
    assert sentence()([]) == []


def test_sentence_knows_full_width_stops() -> None:
    assert words(["对", "。", " 再", "！", "\n", "好"], "sentence") == ["对。", " 再！", "\n好"]


def test_a_dotted_path_names_a_splitter_of_your_own(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "cuts.py").write_text("def each(pieces):\n    return list(range(1, len(pieces) + 1))\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert make_splitter("mine.cuts:each")(["a", "b"]) == [1, 2]


def test_noise_misplaces_its_share_of_the_boundaries_half_dropped_half_late() -> None:
    split, n = make_splitter("noisy:0.1"), 20_000
    found: dict[int, int] = {}
    for k in range(n):  # one boundary after the second of nine tokens
        end = split([f"step {k}", ".\n\n", *"abcdefg"])[0]
        found[end] = found.get(end, 0) + 1
    assert set(found) == {2, 3, 4, 5, 6, 9}
    assert found[2] / n == pytest.approx(0.9, abs=0.01)
    assert found[9] / n == pytest.approx(0.05, abs=0.006)  # dropped: the step is the whole
    assert [found[2 + late] / n for late in (1, 2, 3, 4)] == pytest.approx([0.0125] * 4, abs=0.004)


def test_noise_is_a_matter_of_the_steps_own_text() -> None:
    split = make_splitter("noisy:0.5")
    for k in range(200):
        # The same step whatever comes after it, and whatever tokens spell it.
        ends = [
            split([*step, *rest])[0] for step in ([f"{k}", ".\n\n"], [f"{k}.", "\n\n"]) for rest in ("abcdef", "uvwxyz")
        ]
        assert len(set(ends)) == 1
    pieces = ["a", ".\n\n", "b", ".\n\n", "c"]
    assert make_splitter("noisy:0")(pieces) == make_splitter("blank_line")(pieces) == [2, 4, 5]
    assert all(make_splitter("noisy:1")([f"{k}", "\n\n", *"abcdef"])[0] != 2 for k in range(200))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("blank_lines", "did you mean 'blank_line'"),
        ("token:5", "unknown splitter"),
        ("tokens:", "needs a count"),
        ("tokens:²", "needs a count"),
        ("tokens:-2", "needs a count"),
        ("tokens:0", "at least 1 token"),
        ("delimiter:", "must not be empty"),
        ("regex:", "empty text"),
        ("regex:x*", "empty text"),
        ("regex:(", "no regular expression"),
        ("noisy:", "needs a share, got ''"),
        ("noisy:few", "needs a share, got 'few'"),
        ("noisy:1.5", "from 0 to 1, got 1.5"),
        ("noisy:nan", "from 0 to 1, got nan"),
        ("no.such.module:f", "cannot load"),
        ("delimeter:END", "No module named 'delimeter'; did you mean 'delimiter'"),
        ("os.path:no_such_function", "cannot load"),
        (".:f", "cannot load"),
        ("", "unknown splitter"),
    ],
)
def test_a_wrong_splitter_is_an_error_that_says_why(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_splitter(name)


def test_a_module_of_your_own_may_be_called_nearly_like_a_built_in_splitter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "sentences.py").write_text("def cut(pieces):\n    return [len(pieces)]\n")
    assert make_splitter("sentences:cut")(["A. ", "B."]) == [2]
    with pytest.raises(ConfigError, match=r"'missing' does not exist in module 'sentences' \(.*\)$"):
        make_splitter("sentences:missing")


# --- cut


def test_cut_shares_out_ids_log_probs_entropies_and_text() -> None:
    steps = cut([5, 6, 7], [-0.1, -0.2, -0.3], [1.0, 2.0, 3.0], ["a", "\n\n", "b"], delimiter())
    assert [(s.token_ids, s.text, s.logprobs, s.entropies) for s in steps] == [
        ((5, 6), "a\n\n", (-0.1, -0.2), (1.0, 2.0)),
        ((7,), "b", (-0.3,), (3.0,)),
    ]
    assert cut([5], [-0.1], None, ["a"], delimiter())[0].entropies is None
    assert cut([], [], [], [], delimiter()) == []


@pytest.mark.parametrize("ends", [[1], [1, 3], [0, 2], [1, 1, 2], [2, 1, 2], []])
def test_cut_refuses_ends_that_do_not_increase_to_the_length(ends: list[int]) -> None:
    with pytest.raises(ConfigError, match="splitter"):
        cut([5, 6], [-0.1, -0.2], None, ["a", "b"], lambda pieces: list(ends))


@pytest.mark.parametrize("name", ["blank_line", "delimiter:b\\n", "regex:b+\\n", "tokens:3", "noisy:0.5"])
def test_cutting_a_branch_alone_equals_cutting_the_whole_trajectory(name: str) -> None:
    rng, splitter = random.Random(name), make_splitter(name)
    for _ in range(500):
        pieces = [rng.choice(["a", "b", "\n", "\n\n", ".\n\n", "", "b\n", "\n\n\n"]) for _ in range(rng.randint(1, 20))]
        ends = splitter(pieces)
        for start in ends[:-1]:
            assert [start + e for e in splitter(pieces[start:])] == [e for e in ends if e > start]


def test_sentence_cuts_a_branch_like_the_whole_when_the_branch_starts_with_white_space() -> None:
    rng, splitter = random.Random(0), sentence()
    for _ in range(500):
        pieces = [rng.choice(["a", ".", " b", "?", "\n", '"', "", " "]) for _ in range(rng.randint(1, 20))]
        ends = splitter(pieces)
        for start in ends[:-1]:
            assert [start + e for e in splitter(pieces[start:])] == [e for e in ends if e > start]


# --- PieceDecoder


class ByteLevel:
    """Like a byte-level BPE: tokens are runs of bytes; a special token decodes to nothing."""

    def __init__(self, table: dict[int, bytes]) -> None:
        self.table = table
        self.calls = 0

    def __call__(self, ids: list[int]) -> str:
        self.calls += 1
        return b"".join(self.table[i] for i in ids).decode("utf-8", errors="replace")


class SentencePiece:
    """Like SentencePiece: "▁" is a space, dropped at the very start; byte tokens for rare characters."""

    def __init__(self, table: dict[int, str | bytes]) -> None:
        self.table = table

    def __call__(self, ids: list[int]) -> str:
        parts = [self.table[i] for i in ids]
        raw = b"".join(p if isinstance(p, bytes) else p.encode() for p in parts)
        return raw.decode("utf-8", errors="replace").replace("▁", " ").removeprefix(" ")


EMOJI = "😀".encode()  # four bytes
HAN = "字".encode()  # three bytes
BYTES = {
    0: b"",  # special
    1: b"a",
    2: b" b",
    3: b"\n",
    4: b"\n\n",
    5: EMOJI[:1],
    6: EMOJI[1:2],
    7: EMOJI[2:],
    8: HAN[:2],
    9: HAN[2:],
    10: HAN[2:] + b".\n\n",
    11: EMOJI[:2],
    12: EMOJI[2:] + HAN[:1],
    13: HAN[1:],
    14: "\ufffd".encode(),
    15: "é".encode(),
}


@pytest.mark.parametrize(
    ("ids", "pieces"),
    [
        ([1, 2, 4], ["a", " b", "\n\n"]),
        ([1, 5, 6, 7, 1], ["a", "", "", "😀", "a"]),  # a character counts for the token that completes it
        ([8, 9, 2], ["", "字", " b"]),
        ([8, 10, 1], ["", "字.\n\n", "a"]),  # and so does a delimiter behind it
        ([0, 1, 0, 2, 0], ["", "a", "", " b", ""]),
        ([1, 5], ["a", "\ufffd"]),  # the completion ends inside a character
        ([], []),
        ([0], [""]),
        ([15, 4], ["é", "\n\n"]),
    ],
)
def test_pieces_of_a_byte_level_tokenizer(ids: list[int], pieces: list[str]) -> None:
    decode = ByteLevel(BYTES)
    assert PieceDecoder(decode)(ids) == pieces
    assert "".join(pieces) == decode(ids)


def test_a_token_that_completes_one_character_and_starts_the_next_still_adds_up() -> None:
    pieces = PieceDecoder(ByteLevel(BYTES))([11, 12, 13, 4])
    assert "".join(pieces) == "😀字\n\n"
    assert pieces[0] == ""
    assert pieces[3] == "\n\n"


SP: dict[int, str | bytes] = {
    0: "",
    1: "▁Hello",
    2: "▁world",
    3: "s",
    4: "\n",
    5: "▁",
    6: EMOJI[:1],
    7: EMOJI[1:2],
    8: EMOJI[2:3],
    9: EMOJI[3:],
    10: ".",
    11: "▁▁",
    12: "\ufffd",
}


@pytest.mark.parametrize(
    ("ids", "pieces"),
    [
        ([1, 2, 3, 10, 4, 4, 1], ["Hello", " world", "s", ".", "\n", "\n", " Hello"]),
        ([2, 2], ["world", " world"]),
        ([0, 1, 2], ["", "Hello", " world"]),
        ([3, 1], ["s", " Hello"]),
        ([4, 4, 2], ["\n", "\n", " world"]),
        ([1, 6, 7, 8, 9, 2], ["Hello", "", "", "", "😀", " world"]),
        ([5, 1], ["", " Hello"]),
    ],
)
def test_pieces_of_a_tokenizer_that_drops_the_leading_space(ids: list[int], pieces: list[str]) -> None:
    assert PieceDecoder(SentencePiece(SP))(ids) == pieces


def cleaned(ids: list[int]) -> str:
    """A tokenizer that tidies spaces up afterwards: what a token reads depends on the next one."""
    return SentencePiece(SP)(ids).replace(" .", ".").replace("s\n", "S\n")


@pytest.mark.parametrize(
    ("decode", "size"),
    [(ByteLevel(BYTES), len(BYTES)), (SentencePiece(SP), len(SP)), (cleaned, len(SP))],
    ids=["byte-level", "sentencepiece", "cleaned"],
)
def test_pieces_of_random_tokens_add_up_and_do_not_depend_on_what_was_decoded_before(decode, size: int) -> None:
    rng = random.Random(0)
    used = PieceDecoder(decode)
    for _ in range(1500):
        ids = [rng.randrange(size) for _ in range(rng.randint(0, 14))]
        pieces = used(ids)
        assert len(pieces) == len(ids)
        assert "".join(pieces) == decode(ids)
        assert pieces == PieceDecoder(decode)(ids)
        assert pieces == used(ids)


def test_pieces_of_a_long_completion_take_one_decode_of_the_whole_and_one_a_new_token() -> None:
    decode = ByteLevel(BYTES)
    pieces = PieceDecoder(decode)
    ids = [1, 2, 3, 4] * 500
    pieces(ids)
    first = decode.calls
    pieces(ids)
    assert first <= 1 + 4 * 3  # the whole; each of four tokens alone, after an anchor, and the anchor
    assert decode.calls == first + 1


def test_a_tokenizer_that_drops_the_leading_space_needs_no_decoding_prefix_by_prefix() -> None:
    calls = 0
    inner = SentencePiece(SP)

    def decode(ids: list[int]) -> str:
        nonlocal calls
        calls += 1
        return inner(ids)

    PieceDecoder(decode)([2, 3, 10, 1] * 200)
    assert calls <= 1 + 2 * 4  # the whole; each of four tokens alone and inside a text


def test_a_real_byte_level_alphabet_cut_anywhere_adds_up() -> None:
    rng = random.Random(1)
    text = "So 2 + 2 = 4 。\n\n因此 😀👍🏽 naïve – done.\n\n".encode()
    for _ in range(300):
        cuts = sorted({0, len(text), *(rng.randrange(len(text)) for _ in range(rng.randint(1, 30)))})
        table = {i: text[a:b] for i, (a, b) in enumerate(itertools.pairwise(cuts))}
        pieces = PieceDecoder(ByteLevel(table))(list(table))
        assert "".join(pieces) == text.decode()
        steps = cut(list(table), [math.log(0.5)] * len(table), None, pieces, delimiter())
        assert "".join(s.text for s in steps) == text.decode()
        assert [t for s in steps for t in s.token_ids] == list(table)
