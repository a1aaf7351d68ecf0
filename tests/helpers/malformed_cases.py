"""The tables of malformed inputs, each with the error that the user must read.

A row gives an input and ends with a regular expression that the one line of error must hold; `{}` in it stands for the
name of the file. A file whose content is None is made as a folder. To add a case, add a row.
"""

import copy
import gzip
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Case:
    """A command that must fail.

    name: what is wrong, for the test's id.
    words: the command line after `ibtpo`.
    message: a regular expression that its one line of error must hold.
    files: the contents of the files it needs by their names; None makes a folder.
    code: the exit code.
    """

    name: str
    words: Sequence[str]
    message: str
    files: dict[str, bytes | str | None] = field(default_factory=dict)
    code: int = 2


# --- data files, read by `ibtpo check-data` ------------------------------------------------------------------------

ROW = '{"id": "a", "question": "1+1?", "answer": "2"}\n'


def _data(name: str, content: bytes | str | None, message: str, file: str = "bad.jsonl") -> Case:
    """The case of one bad data file."""
    return Case(f"data: {name}", ["check-data", file], message.replace("{}", file), {file: content})


LINES: list[tuple[str, bytes | str, str]] = [
    ("empty file", "", r"{} is empty"),
    ("only blank lines", "\n  \n\t\n", r"{} is empty"),
    ("only a byte order mark", b"\xef\xbb\xbf", r"{} is empty"),
    ("truncated object", ROW + '{"question": "1+', r"{}, line 2: not valid JSON: Unterminated string"),
    ("truncated after a comma", '{"question": "q",', r"{}, line 1: not valid JSON"),
    ("truncated in an escape", '{"question": "\\u00', r"{}, line 1: not valid JSON: Invalid \\u"),
    ("two objects on a line", ROW.strip() + ROW, r"{}, line 1: not valid JSON: Extra data"),
    ("an object over two lines", '{"question":\n"q"}', r"{}, line 1: not valid JSON"),
    ("single quotes", "{'question': 'q'}", r"{}, line 1: not valid JSON"),
    ("trailing comma", '{"question": "q", "answer": "1",}', r"{}, line 1: not valid JSON"),
    ("a raw tab in a string", '{"question": "a\tb", "answer": "1"}', r"{}, line 1: not valid JSON: Invalid control"),
    ("a NUL byte", b'{"question": "a\x00b", "answer": "1"}', r"{}, line 1: not valid JSON"),
    ("NUL bytes of a lost write", ROW.encode() + b"\x00" * 512, r"{}, line 2: not valid JSON"),
    ("CSV", "question,answer\n1+1?,2\n", r"{}, line 1: not valid JSON"),
    ("UTF-16", ROW.encode("utf-16"), r"{}, line 1: byte 1 \(0xff\) is not UTF-8"),
    ("Latin-1", ROW.encode() + b'{"question": "caf\xe9"}\n', r"{}, line 2: byte 18 \(0xe9\) is not UTF-8"),
    ("a character cut in two", b'{"question": "\xe2\x82"}', r"{}, line 1: byte 15 \(0xe2\) is not UTF-8"),
    ("an overlong encoding", b'{"question": "\xc0\x80"}', r"{}, line 1: byte 15 \(0xc0\) is not UTF-8"),
    ("a line that is a list", ROW + "[1, 2]\n", r"{}, line 2: expected an object with named fields, got list"),
    ("a line that is a number", "7\n", r"{}, line 1: expected an object .* got int"),
    ("a line that is text", '"q"\n', r"{}, line 1: expected an object .* got str"),
    ("a line that is null", "null\n", r"{}, line 1: expected an object .* got NoneType"),
    ("an empty object", "{}\n", r"{}, line 1: no column 'question' or .*; found none"),
    ("no question column", '{"query": "q", "answer": "1"}', r"{}, line 1: no column 'question' or 'prompt'"),
    ("a misspelt question", '{"quesiton": "q", "answer": "1"}', r"{}, line 1: .* did you mean 'quesiton'"),
    ("no answer column", '{"question": "q"}', r"{}, line 1: no column 'answer' or 'solution'; found 'question'"),
    ("a misspelt answer", '{"question": "q", "anwser": "1"}', r"{}, line 1: .* did you mean 'anwser'"),
    ("a column in other case", '{"Question": "q", "answer": "1"}', r"{}, line 1: .* did you mean 'Question'"),
    ("a later row lacks a column", ROW + '{"question": "q"}', r"{}, line 2: no column 'answer'"),
    ("an empty question", '{"question": "", "answer": "1"}', r"{}, line 1, column 'question': .* empty"),
    ("a question of white space", '{"question": " \\n\\t", "answer": "1"}', r"{}, line 1, column 'question': .* empty"),
    ("a null question", '{"question": null, "answer": "1"}', r"{}, line 1, column 'question': expected text .* NoneType"),
    ("a number for a question", '{"question": 1, "answer": "1"}', r"{}, line 1, column 'question': .* got int"),
    ("an object for a question", '{"question": {}, "answer": "1"}', r"{}, line 1, column 'question': .* got dict"),
    ("an empty answer", '{"question": "q", "answer": ""}', r"{}, line 1, column 'answer': the answer is empty"),
    ("an answer of white space", '{"question": "q", "answer": "  "}', r"{}, line 1, column 'answer': .* empty"),
    ("a null answer", '{"question": "q", "answer": null}', r"{}, line 1, column 'answer': the answer is empty"),
    ("a list of answers", '{"question": "q", "answer": ["1"]}', r"{}, line 1, column 'answer': .* got list"),
    ("an object for an answer", '{"question": "q", "answer": {"a": 1}}', r"{}, line 1, column 'answer': .* got dict"),
    ("a true answer", '{"question": "q", "answer": true}', r"{}, line 1, column 'answer': .* got bool True"),
    ("a NaN answer", '{"question": "q", "answer": NaN}', r"{}, line 1, column 'answer': nan is not a value"),
    ("an infinite answer", '{"question": "q", "answer": -Infinity}', r"{}, line 1, column 'answer': -inf is not"),
    ("an overflowing number", '{"question": "q", "answer": 1e999}', r"{}, line 1, column 'answer': inf is not"),
    ("NaN deep in a column", '{"question": "q", "answer": "1", "m": [{"x": NaN}]}', r"{}, line 1, column 'm': nan is"),
    ("an integer of 5000 digits", '{"question": "q", "answer": ' + "9" * 5000 + "}", r"{}, line 1: cannot be read"),
    ("brackets nested 100000 deep", "[" * 100_000 + "]" * 100_000, r"{}, line 1: cannot be read as JSON"),
    ("objects nested 100000 deep", '{"a":' * 100_000, r"{}, line 1: cannot be read as JSON"),
    ("the same id twice", ROW + "\n" + ROW, r"{}, line 3: id 'a' was already used in line 1"),
    ("ids equal as text", '{"id": 1, "question": "q", "answer": "1"}\n{"id": "1", "question": "q", "answer": "1"}',
     r"{}, line 2: id '1' was already used in line 1"),
    ("a list for an id", '{"id": [], "question": "q", "answer": "1"}', r"{}, line 1, column 'id': expected text"),
    ("a true id", '{"id": true, "question": "q", "answer": "1"}', r"{}, line 1, column 'id': .* got True"),
    ("an empty id", '{"id": "", "question": "q", "answer": "1"}', r"{}, line 1, column 'id': .* got ''"),
    ("a name twice in an object", '{"question": "q", "answer": "1", "answer": "2"}',
     r"{}, line 1: .* the name 'answer' occurs twice"),
    ("half a character", '{"question": "\\ud83d", "answer": "1"}', r"{}, line 1, column 'question': \\ud83d is half a"),
    ("half a character in an answer", '{"question": "q", "answer": "\\udc00"}', r"{}, line 1, column 'answer': \\udc00"),
    ("no messages", '{"prompt": [], "answer": "1"}', r"{}, line 1, column 'prompt': the list of messages is empty"),
    ("a message that is text", '{"prompt": ["q"], "answer": "1"}', r"{}, line 1, column 'prompt', message 1: expected"),
    ("a message of no role", '{"prompt": [{"content": "q"}], "answer": "1"}', r"column 'prompt', message 1: expected"),
    ("an unknown role", '{"prompt": [{"role": "me", "content": "q"}], "answer": "1"}', r"message 1: expected .* user"),
    ("an empty message", '{"prompt": [{"role": "user", "content": " "}], "answer": "1"}', r"message 1: .* is empty"),
    ("a message of parts", '{"prompt": [{"role": "user", "content": [{"type": "text"}]}], "answer": "1"}', r"message 1: "),
    ("a conversation already answered", '{"prompt": [{"role": "user", "content": "q"}, {"role": "assistant", '
     '"content": "a"}], "answer": "1"}', r"{}, line 1, column 'prompt': the last message is the assistant's"),
]  # fmt: skip

_PACKED = gzip.compress(ROW.replace('"id": "a", ', "").encode() * 200)
DATA = [
    *(_data(*line) for line in LINES),
    _data("a folder", None, r"{} is a folder; name one file in it", "folder.jsonl"),
    Case("data: a missing file", ["check-data", "nowhere.jsonl"], r"nowhere\.jsonl does not exist"),
    Case("data: a misspelt file", ["check-data", "goood.jsonl"], r"did you mean good\.jsonl\?"),
    Case("data: a missing folder", ["check-data", "no/where/x.jsonl"], r"nor does the folder no/where"),
    Case("data: no name", ["check-data", ""], r"no data named: got ''"),
    Case("data: a good file and a missing one", ["check-data", "nowhere.json", "good.jsonl"], r"nowhere\.json does not"),
    _data("an unknown kind of file", "question,answer\n", r"{}: cannot read this kind of file; use \.jsonl", "d.csv"),
    _data("a compressed JSON list", _PACKED, r"{}: cannot read this kind of file", "d.json.gz"),
    _data("a JSON object", '{"question": "q", "answer": "1"}', r"{}: expected a list of objects, got dict", "d.json"),
    _data("JSON Lines named JSON", ROW * 2, r"{}, line 2: not valid JSON: Extra data", "d.json"),
    _data("an item that is a number", '[{"question": "q", "answer": "1"}, 3]', r"{}, item 2: expected an object", "d.json"),
    _data("an empty list", "[]", r"{} is empty", "d.json"),
    _data("a truncated list", '[\n{"question": "q"},\n', r"{}, line 3: not valid JSON", "d.json"),
    _data("Latin-1 in a list", b'[\n{"question": "caf\xe9"}]', r"{}, line 2: byte 18 \(0xe9\) is not UTF-8", "d.json"),
    _data("truncated gzip", _PACKED[:-12], r"{}, after line \d+: broken gzip data", "d.jsonl.gz"),
    _data("gzip cut in its header", _PACKED[:5], r"{}, after line 0: broken gzip data", "d.jsonl.gz"),
    _data("damaged gzip", _PACKED[:15] + b"\xff" * 40, r"{}, after line 0: broken gzip data", "d.jsonl.gz"),
    _data("plain text named gzip", ROW, r"{}, after line 0: broken gzip data \(Not a gzipped file", "d.jsonl.gz"),
    _data("zlib named gzip", zlib.compress(ROW.encode()), r"{}, after line 0: broken gzip data", "d.jsonl.gz"),
    _data("gzip named JSON Lines", _PACKED, r"{}, line 1: byte 2 \(0x8b\) is not UTF-8", "d.jsonl"),
    _data("a broken Parquet file", b"PAR1" + b"\x00" * 20 + b"PAR1", r"{}: not a readable Parquet file", "d.parquet"),
    _data("an empty Parquet file", b"", r"{}: not a readable Parquet file", "d.parquet"),
]  # fmt: skip

# Data that is odd but must be read: (name, content, the questions and answers in it)
ODD_DATA: list[tuple[str, bytes, list[tuple[str, str]]]] = [
    ("a byte order mark", b"\xef\xbb\xbf" + ROW.encode(), [("1+1?", "2")]),
    ("CRLF line ends", ROW.replace("\n", "\r\n").encode(), [("1+1?", "2")]),
    ("no line end at the end", ROW.strip().encode(), [("1+1?", "2")]),
    ("blank lines between", b"\n" + ROW.encode() + b"\n\n", [("1+1?", "2")]),
    ("a line separator of Unicode", '{"question": "a\u2028b", "answer": "\u2029c"}'.encode(), [("a\u2028b", "c")]),
    ("a form feed escaped", b'{"question": "a\\fb", "answer": "1"}', [("a\fb", "1")]),
    ("an emoji in two escapes", b'{"question": "\\ud83d\\ude00", "answer": "1"}', [("\U0001f600", "1")]),
    ("a number for an answer", b'{"question": "q", "answer": 42}', [("q", "42")]),
    ("an answer of 100 kB", b'{"question": "q", "answer": "%s"}' % (b"7" * 100_000), [("q", "7" * 100_000)]),
    ("a question of 100 kB", b'{"question": "%s", "answer": "1"}' % (b"q" * 100_000), [("q" * 100_000, "1")]),
    ("columns nobody knows", b'{"question": "q", "answer": "1", "x": {"y": [null, true]}}', [("q", "1")]),
    ("mixed columns", b'{"question": "q", "answer": "1"}\n{"prompt": "r", "question": "q", "solution": "0", "answer": "2"}',
     [("q", "1"), ("q", "2")]),
]  # fmt: skip

# --- tree files, read by `ibtpo score` -----------------------------------------------------------------------------

TREE: dict[str, Any] = {
    "schema": "ibtpo.tree/1",
    "id": "t",
    "prompt": "q",
    "prompt_ids": [5, 6],
    "answer": "1",
    "nodes": [
        {"id": 1, "parent": 0, "token_ids": [7, 8], "text": "ab", "logprobs": [-0.5, -0.25], "entropies": None, "draws": 2},
        {"id": 2, "parent": 1, "token_ids": [9], "text": "c", "logprobs": [-1.0], "entropies": [0.5], "draws": 1},
        {"id": 3, "parent": 1, "token_ids": [4], "text": "d", "logprobs": [-2.0], "entropies": [0.5], "draws": 1},
    ],
    "leaves": [{"node": 2, "reward": 1.0, "stop": "eos"}, {"node": 3, "reward": None, "stop": "verifier_error"}],
    "meta": {"rollouts": [{"at": 0, "tokens": 3, "round": 0, "score": None}, {"at": 1, "tokens": 1, "round": 1}]},
}  # fmt: skip
GONE = object()  # stands for a field that is missing
GOOD_TREE = json.dumps(TREE) + "\n"


def _tree(name: str, path: Sequence[Any], value: Any, message: str) -> Case:
    """The case of a file whose second tree is `TREE` with another value at one place.

    path: the keys that lead to the place.
    value: what stands there; GONE removes what is there.
    """
    bad: Any = copy.deepcopy(TREE)
    place = bad
    for key in path[:-1]:
        place = place[key]
    if value is GONE:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return Case(
        f"tree: {name}", ["score", "t.jsonl", "--json"], rf"t\.jsonl:2: {message}", {"t.jsonl": GOOD_TREE + json.dumps(bad)}
    )  # fmt: skip


def _tree_file(name: str, content: bytes | str | None, message: str, file: str = "t.jsonl") -> Case:
    """The case of a tree file with this content."""
    return Case(f"tree: {name}", ["score", file], message.replace("{}", file), {file: content})


_N, _L = ("nodes", 0), ("leaves", 0)
TREES = [
    _tree("another schema", ["schema"], "ibtpo.tree/3", r"schema must be 'ibtpo.tree/1' or 'ibtpo.tree/2', got 'ibtpo.tree/3'"),
    *(_tree(f"no {key}", [key], GONE, rf"tree has no '{key}'; found ") for key in ("id", "prompt_ids", "nodes", "leaves")),
    _tree("a number for an id", ["id"], 5, r"'id' must be a string, got 5"),
    _tree("half a character in an id", ["id"], "\ud83d", r"'id' contains \\ud83d, half a character"),
    _tree("token ids as text", ["prompt_ids"], "5 6", r"prompt_ids must be a list of token ids"),
    _tree("a negative token id", ["prompt_ids"], [5, -1], r"prompt_ids must be a list of token ids"),
    _tree("a token id that is no integer", ["prompt_ids"], [5.0], r"prompt_ids must be a list of token ids"),
    _tree("a true token id", [*_N, "token_ids"], [True, 2], r"node 1\.token_ids must be a list of token ids"),
    _tree("a number for a prompt", ["prompt"], 3, r"prompt must be a str, got int"),
    _tree("a number for an answer", ["answer"], 4, r"'answer' must be a string or null, got 4"),
    _tree("a list for meta", ["meta"], [1], r"meta must be a dict, got list"),
    _tree("nodes by name", ["nodes"], {"1": {}}, r"nodes must be a list, got dict"),
    _tree("a node that is a number", ["nodes", 1], 5, r"nodes\[1\] must be a dict, got int"),
    _tree("a node id twice", [*_N, "id"], 2, r"node ids must be 1\.\.3, each once"),
    _tree("the root among the nodes", [*_N, "id"], 0, r"node ids must be 1\.\.3, each once"),
    _tree("a parent that is missing", [*_N, "parent"], GONE, r"node 1\.parent must be an id below its own .* None"),
    _tree("a node that is its own parent", [*_N, "parent"], 1, r"node 1\.parent must be an id below its own \(0\.\.0\)"),
    _tree("a circle", [*_N, "parent"], 3, r"node 1\.parent must be an id below its own"),
    _tree("no draws", [*_N, "draws"], 0, r"node 1\.draws must be an integer >= 1"),
    _tree("half a draw", [*_N, "draws"], 1.5, r"node 1\.draws must be an integer >= 1 .* got 1\.5"),
    _tree("draws without end", [*_N, "draws"], 10**400, r"node 1\.draws must be an integer >= 1 and below 2\^31"),
    _tree("a step without tokens", [*_N, "token_ids"], [], r"node 1\.token_ids is empty"),
    _tree("null for a text", [*_N, "text"], None, r"node 1\.text must be a str, got NoneType"),
    _tree("half a character in a text", [*_N, "text"], "a\udc00", r"node 1\.text contains \\udc00"),
    _tree("no log-probabilities", [*_N, "logprobs"], GONE, r"node 1\.logprobs must be a list, got NoneType"),
    _tree("too few log-probabilities", [*_N, "logprobs"], [-0.5], r"node 1 has 2 token_ids but 1 logprobs"),
    _tree("a NaN log-probability", [*_N, "logprobs"], [-0.5, float("nan")], r"node 1\.logprobs must be a finite number"),
    _tree("an impossible token", [*_N, "logprobs"], [-0.5, float("-inf")], r"node 1\.logprobs must be a finite .* -inf"),
    _tree("text for a log-probability", [*_N, "logprobs"], [-0.5, "-1"], r"node 1\.logprobs must be a finite number"),
    _tree("probabilities for their logarithms", [*_N, "logprobs"], [0.6, 0.8], r"node 1\.logprobs holds 0\.8: "),
    _tree("a huge log-probability", [*_N, "logprobs"], [-0.5, 1e300], r"node 1\.logprobs holds 1e\+300: "),
    _tree("too many entropies", [*_N, "entropies"], [1, 2, 3], r"node 1 has 2 token_ids but 3 entropies"),
    _tree("leaves by name", ["leaves"], {}, r"leaves must be a list, got dict"),
    _tree("a leaf that is a number", ["leaves", 0], 2, r"leaves\[0\] must be a dict, got int"),
    _tree("a leaf of no node", [*_L, "node"], 9, r"leaves\[0\]\.node must be a node id in 0\.\.3, got 9"),
    _tree("text for a reward", [*_L, "reward"], "1", r"leaves\[0\]\.reward must be a finite number, got '1'"),
    _tree("a NaN reward", [*_L, "reward"], float("nan"), r"leaves\[0\]\.reward must be a finite number, got nan"),
    _tree("an infinite reward", [*_L, "reward"], float("inf"), r"leaves\[0\]\.reward must be a finite number, got inf"),
    _tree("a true reward", [*_L, "reward"], True, r"leaves\[0\]\.reward must be a finite number, got True"),
    _tree("a reward that overflows", [*_L, "reward"], 1e308, r"leaves\[0\]\.reward must be within .* got 1e\+308"),
    _tree("a reward beyond the floats", [*_L, "reward"], 10**400, r"leaves\[0\]\.reward must be a finite number"),
    _tree("an unknown stop", [*_L, "stop"], "done", r"leaves\[0\]\.stop must be one of eos, length"),
    _tree("rollouts of no leaf", ["meta", "rollouts"], [{"at": 0}], r"meta\.rollouts has 1 entries for 2 leaves"),
    _tree("a rollout from no node", ["meta", "rollouts", 1, "at"], 9, r"meta\.rollouts\[1\]: .* 'at' a node id"),
    _tree("a correctness of no leaf", ["meta", "correct"], [1.0], r"meta\.correct has 1 entries for 2 leaves"),
    _tree_file("empty file", "", r"{}: the file is empty"),
    _tree_file("blank file", "\n\n", r"{}: the file is empty"),
    _tree_file("a truncated line", GOOD_TREE[:60], r"{}:1: "),
    _tree_file("not UTF-8", b'{"id": "\xff"}', r"{}:1: "),
    _tree_file("a list", "[]", r"{}:1: a tree must be a JSON object, got list"),
    _tree_file("a data file", ROW, r"{}:1: tree has no 'prompt_ids'; found id, question, answer"),
    _tree_file("brackets nested 100000 deep", "[" * 100_000, r"{}:1: "),
    _tree_file("a folder", None, r"{}: cannot be read"),
    _tree_file("plain text named gzip", GOOD_TREE, r"{}: cannot be read: Not a gzipped file", "t.jsonl.gz"),
    _tree_file("truncated gzip", gzip.compress(GOOD_TREE.encode())[:-9], r"{}: cannot be read: ", "t.jsonl.gz"),
    Case("tree: a missing file", ["score", "nowhere.jsonl"], r"nowhere\.jsonl: cannot be read"),
]  # fmt: skip

# --- options of every verb -----------------------------------------------------------------------------------------

SAMPLE = ["sample", "--model", "tiny", "--data", "good.jsonl", "--output", "out.jsonl"]
EVAL = ["eval", "--model", "tiny", "--data", "good.jsonl"]
SCORE = ["score", "trees.jsonl"]


def _options(base: Sequence[str], rows: list[tuple[str, str]]) -> list[Case]:
    """The cases of one command line. rows: what is added to it, as words with a space between them, and the message."""
    return [Case(f"option: {' '.join(base)} {words}", [*base, *words.split(" ")], message) for words, message in rows]


OPTIONS = [
    *_options([""], [("", r"unknown command ''; known: .*train")]),
    *_options(["trian"], [("--x", r"unknown command 'trian'; did you mean 'train'\?")]),
    *_options(["--verson"], [("x", r"unknown option '--verson'; did you mean '--version'\?")]),
    *_options(SAMPLE, [
        ("--limit 0", r"limit must be at least 1, got 0"),
        ("--limit -3", r"limit must be at least 1, got -3"),
        ("--limit 1.5", r"argument --limit: invalid int value: '1\.5'"),
        ("--limit", r"argument --limit: expected one argument; see ibtpo sample --help"),
        ("--limt 3", r"unknown option '--limt'; did you mean '--limit'\?"),
        ("--tree 4,9", r"four integers B0,L,K,B .* got '4,9'"),
        ("--tree 4,9,1,x", r"four integers B0,L,K,B .* got '4,9,1,x'"),
        ("--tree 4,9,1,1,1", r"four integers B0,L,K,B"),
        ("--tree 0,1,1,1", r"b0 must be >= 1, got 0"),
        ("--tree 4,9,1,-1", r"b must be >= 1, got -1"),
        ("--tree 1000000000,1,1,1", r"a tree of 1000000000 trajectories is too large: at most 65536"),
        ("--tokens 0", r"token budget must be >= 1, got 0"),
        ("--branching ibb", r"unknown branching rule 'ibb'; did you mean 'ib'\?"),
        ("--branching mytask.rule", r"unknown branching rule 'mytask\.rule'; for a function of your own, write mytask:rule"),
        ("--splitter my.task.split", r"unknown splitter 'my\.task\.split'; for a function of your own, write my\.task:split"),
        ("--engine mytask.make", r"unknown engine 'mytask\.make'; for a function of your own, write mytask:make"),
        ("--branching nomodule:f", r"cannot load branching rule 'nomodule:f': ModuleNotFoundError: No module named 'nomodule'"),
        ("--branching math:nothing", r"cannot load branching rule 'math:nothing': 'nothing' does not exist in module 'math'"),
        ("--branching math:pi", r"cannot load branching rule 'math:pi': 'pi' is float, not callable"),
        ("--branching raises_when_imported:f", r"cannot load branching rule 'raises_when_imported:f': ZeroDivisionError"),
        ("--splitter blankline", r"unknown splitter 'blankline'; did you mean 'blank_line'\?"),
        ("--splitter tokens:0", r"at least 1 token, got 0"),
        ("--splitter tokens:many", r"'tokens:COUNT' needs a count, got 'many'"),
        ("--splitter tokens:" + "9" * 5000, r"'tokens:COUNT' needs a count, got '999"),
        ("--splitter regex:(", r"'\(' is no regular expression"),
        ("--splitter regex:x*", r"'x\*' matches the empty text"),
        ("--splitter delimiter:", r"delimiter must not be empty"),
        ("--splitter os.path:sep", r"cannot load splitter 'os\.path:sep': 'sep' is str, not callable"),
        ("--temperature 0", r"temperature must be > 0 and finite, got 0\.0"),
        ("--temperature nan", r"temperature must be > 0 and finite, got nan"),
        ("--temperature inf", r"temperature must be > 0 and finite, got inf"),
        ("--temperature warm", r"argument --temperature: invalid float value: 'warm'"),
        ("--top-p 0", r"top_p must be in \(0, 1\], got 0\.0"),
        ("--top-p 1.1", r"top_p must be in \(0, 1\], got 1\.1"),
        ("--top-k -1", r"top_k must be >= 0, got -1"),
        ("--max-completion-length 0", r"max_completion_length must be >= 1, got 0"),
        ("--max-in-flight 0", r"max_in_flight must be >= 1, got 0"),
        ("--kv-memory-gb -1", r"kv_memory_gb must be at least 0, got -1\.0"),
        ("--kv-memory-gb nan", r"kv_memory_gb must be at least 0, got nan"),
        ("--seed x", r"argument --seed: invalid int value: 'x'"),
        ("--dtype fp32", r"unknown dtype 'fp32'; known: bfloat16, float16, float32"),
        ("--device cudda", r"device 'cudda' cannot be used"),
        ("--device cuda:99", r"device 'cuda:99' cannot be used"),
        ("--device meta", r"device 'meta' cannot be used"),
        ("--verifier maths", r"unknown reward 'maths'; did you mean 'math'\?"),
        ("--verifier ", r"unknown reward ''"),
        ("--verifier module:", r"'module:' is not a dotted path"),
        ("--verifier walk,mytask:f", r"'walk,mytask:f' names several verifiers; only ibtpo train takes them"),
        ("--verifier a-b:c", r"'a-b:c' is not a dotted path"),
        ("--verifier __main__:f", r"'__main__:f' is in the running script"),
        ("--verifier-workers 0", r"workers must be at least 1, got 0"),
        ("--verifier-timeout 0", r"timeout must be a positive number of seconds, got 0\.0"),
        ("--verifier-timeout inf", r"timeout must be a positive number of seconds, got inf"),
        ("--question-column nope", r"good\.jsonl, line 1: no column 'nope'; found 'id', 'question', 'answer'"),
        ("--answer-column nope", r"good\.jsonl, line 1: no column 'nope'"),
        ("--resume --overwrite", r"--resume keeps .* and --overwrite drops it: give one of them"),
        ("--resume=yes", r"argument --resume: ignored explicit argument 'yes'"),
        ("--lambda 3", r"unknown option '--lambda'; known: "),
        ("surplus", r"unrecognized arguments: surplus"),
        ("--data nowhere.jsonl", r"nowhere\.jsonl does not exist"),
        ("--data walk:tset", r"unknown split 'tset'; did you mean 'test'\?"),
        ("--data nobody/nothing", r"'nobody/nothing' is no file here"),
        ("--output good.jsonl", r"good\.jsonl exists already; give --resume .* or --overwrite"),
        ("--output .", r"argument --output: '\.' names no file"),
        ("--output ", r"argument --output: '' names no file"),
        ("--output folder", r"folder is a folder; name a file"),
        ("--output good.jsonl/x.jsonl", r"good\.jsonl/x\.jsonl: its folder cannot be made: "),
        ("--output /proc/x.jsonl", r"/proc/x\.jsonl"),
    ]),
    *_options(["sample", "--model", "tiny", "--data", "good.jsonl"], [("--quiet", r"arguments are required: --output")]),
    *_options(["sample", "--model", "tiny", "--output", "x"], [("--quiet", r"arguments are required: --data")]),
    *_options(["sample", "--data", "good.jsonl", "--output", "x"], [("--quiet", r"arguments are required: --model")]),
    *_options(EVAL, [
        ("--k 0", r"--k must be at least 1, got 0"),
        ("--k 1e3", r"argument --k: invalid int value: '1e3'"),
        ("--k 1000000000", r"a tree of 1000000000 trajectories is too large"),
        ("--max-completion-length 0", r"max_completion_length must be >= 1, got 0"),
        ("--resume", r"unknown option '--resume'; known: "),
        ("--tree 1,1,1,1", r"unknown option '--tree'"),
        ("--output good.jsonl", r"good\.jsonl exists already; give --overwrite to replace it"),
        ("--output .", r"argument --output: '\.' names no file"),
        ("--output good.jsonl/x", r"good\.jsonl/x: its folder cannot be made"),
        ("--verifier mth", r"unknown reward 'mth'; did you mean 'math'\?"),
    ]),
    *_options(SCORE, [
        ("--ib-beta 0", r"ib_beta must be > 0, got 0\.0"),
        ("--ib-beta -5", r"ib_beta must be > 0, got -5\.0"),
        ("--ib-beta nan", r"ib_beta must be > 0, got nan"),
        ("--ib-beta 1e-320", r"ib_beta must be > 0, got 1e-320"),
        ("--ib-beta 1e308", r"ib_beta must be > 0, got 1e\+308"),
        ("--ib-beta=", r"argument --ib-beta: invalid float value: ''"),
        ("--ib-beta 5,0", r"argument --ib-beta: invalid float value: '5,0'"),
        ("--ib-bta 5", r"unknown option '--ib-bta'; did you mean '--ib-beta'\?"),
        ("--lam inf", r"lam must be finite .* got inf"),
        ("--lam 1e308", r"lam must be finite .* got 1e\+308"),
        ("--value leafs", r"unknown value 'leafs'; did you mean 'leaves'\?"),
        ("--weight drawn", r"unknown weight 'drawn'; did you mean 'draws'\?"),
        ("--confidence geomeen", r"unknown confidence 'geomeen'; did you mean 'geomean'\?"),
        ("--confidence head:0", r"unknown confidence 'head:0'; did you mean 'head:k'\?"),
        ("--confidence head:" + "9" * 5000, r"unknown confidence 'head:999"),
        ("--ratio-prior -1", r"ratio_prior must be >= 0, got -1\.0"),
        ("--ratio-prior nan", r"ratio_prior must be >= 0, got nan"),
        ("--json=1", r"argument --json: ignored explicit argument '1'"),
        ("more.jsonl", r"unrecognized arguments: more\.jsonl"),
    ]),
    *_options(["score"], [("--json", r"arguments are required: TREES")]),
    *_options(["check-data"], [("--json", r"arguments are required: FILE")]),
    *_options(["check-data", "good.jsonl"], [
        ("--verifier-timeout -1", r"timeout must be a positive number of seconds, got -1\.0"),
        ("--verifier mth", r"unknown reward 'mth'; did you mean 'math'\?"),
        ("--verifier nomodule:f", r"cannot load reward function 'nomodule:f': ModuleNotFoundError"),
        ("--verifier math:pi", r"cannot load reward function 'math:pi': 'pi' is float, not callable"),
        ("--verifier math:nothing", r"cannot load reward function 'math:nothing': 'nothing' does not exist"),
        ("--verifier raises_when_imported:f", r"ZeroDivisionError: .*raises_when_imported\.py:1\)"),
        ("--verifier exits_when_imported:f", r"cannot load reward function 'exits_when_imported:f'"),
    ]),
    *_options(["env"], [("--jsn", r"unknown option '--jsn'; did you mean '--json'\?"), ("x", r"unrecognized arguments: x")]),
    *_options(["recipes"], [
        ("nanowalk", r"unknown recipe 'nanowalk'; did you mean 'nano-walk'\?"),
        ("../../etc/passwd", r"unknown recipe '\.\./\.\./etc/passwd'; known: "),
        ("--copy x.yaml", r"--copy needs the NAME of a recipe"),
        ("nano-walk --copy", r"argument --copy: expected one argument"),
        ("nano-walk --copy good.jsonl", r"good\.jsonl exists already; give --overwrite"),
        ("nano-walk --copy good.jsonl/x.yaml", r"good\.jsonl/x\.yaml: its folder cannot be made"),
        ("nano-walk --copy folder", r"folder is a folder; name a file"),
        ("nano-walk --overwrite", r"--overwrite goes with --copy FILE"),
    ]),
    *_options(["train"], [
        ("nowhere.yaml", r"nowhere\.yaml: cannot be read: No such file"),
        ("nano-wlak", r"unknown recipe 'nano-wlak'; did you mean 'nano-walk'\?"),
        ("folder.yaml", r"folder\.yaml: cannot be read: Is a directory"),
        ("a.yaml b.yaml", r"'b\.yaml' is one word too many"),
        ("-q", r"what is '-q'\?"),
        ("---quiet", r"what is '---quiet'\?"),
        ("--quiet=yes", r"--quiet takes no value, got 'yes'"),
        ("--output", r"--output needs a folder"),
        ("--resume", r"--resume needs the run folder"),
        ("--resume nowhere --overwrite", r"--resume goes on with a run and --overwrite deletes it"),
        ("--resume nowhere", r"nowhere is no run folder: it has no config\.yaml"),
        ("--overwrit", r"unknown option 'overwrit'; did you mean 'overwrite'\?"),
        ("--learning_rat 1", r"unknown option 'learning_rat'; did you mean 'learning_rate'\?"),
        ("--learning-rate --dry-run", r"learning_rate must be a number, got True"),
        ("--model --dry-run", r"model must be text, got True"),
        ("--method grp", r"unknown method 'grp'; did you mean 'grpo'\?"),
        ("--seed 2024-99-99", r"seed must be an integer, got '2024-99-99'"),
        ("--output-dir x", r"'output_dir' is set by the command itself; use --output"),
    ]),
]  # fmt: skip

# --- recipes, read by `ibtpo train RECIPE --dry-run` ---------------------------------------------------------------

_BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 10)}]\n" for i in range(9)
)
RECIPE_TEXTS: list[tuple[str, bytes | str, str]] = [
    ("empty", "", r"{}: expected KEY: VALUE lines, got nothing"),
    ("only a comment", "# later\n", r"{}: expected KEY: VALUE lines, got nothing"),
    ("a list", "- model: nano\n", r"{}: expected KEY: VALUE lines, got list"),
    ("a word", "nano\n", r"{}: expected KEY: VALUE lines, got str"),
    ("a number", "42\n", r"{}: expected KEY: VALUE lines, got int"),
    ("a tab", "model: nano\n\tseed: 1\n", r"{}, line 2: a line begins with a tab"),
    ("an open bracket", "model: nano\ntree: [4, 9\n", r"{}, line 3: expected ',' or '\]'"),
    ("an open quote", 'model: "nano\n', r"{}, line 2: found unexpected end of stream"),
    ("an unknown alias", "model: nano\ndata: *here\n", r"{}, line 2: found undefined alias 'here'"),
    ("a Python object", "model: !!python/object:os.system x\n", r"{}, line 1: could not determine a constructor"),
    ("two documents", "seed: 1\n---\nseed: 2\n", r"{}, line 2: but found another document"),
    ("a control character", "model: a\x01b\n", r"{}.*special characters are not allowed"),
    ("not UTF-8", b"model: caf\xe9\n", r"{}: byte 11 is not UTF-8"),
    ("a list for a key", "? [a, b]\n: 1\n", r"{}, line 1: found unhashable key"),
    ("a number for a key", "1: 2\n", r"{}: a key must be the name of an option, got 1"),
    ("null for a key", "null: 2\n", r"{}: a key must be the name of an option, got None"),
    ("yes for a key", "yes: 2\n", r"{}: a key must be the name of an option, got True"),
    ("a key twice", "learning_rate: 1e-6\nseed: 1\nlearning_rate: 1e-5\n", r"{}, line 3: 'learning_rate' .* in line 1"),
    ("nested 3000 deep", "tree: " + "[" * 3000, r"{}: brackets or aliases are nested too deeply"),
    ("an alias bomb", _BOMB, r"{}: its aliases stand for more than 10000 values"),
    ("an alias of itself", "tree: &t [*t]\n", r"{}: its aliases stand for more than 10000 values"),
    ("a date that is none", "run_name: 2024-99-99\n", r"{}: month must be in 1\.\.12; put text in quotes"),
    ("a switch of the command line", "overwrite: true\n", r"{}: 'overwrite' is for the command line: --overwrite"),
    ("an output folder", "output: runs/1\n", r"{}: 'output' is for the command line: --output"),
    ("an unknown key", "learning_rte: 1e-6\n", r"unknown option 'learning_rte'; did you mean 'learning_rate'\?"),
    ("a key of the trainer's own", "output_dir: x\n", r"'output_dir' is set by the command itself; use --output"),
    ("a batch size", "per_device_train_batch_size: 8\n", r"is set by the command itself; use prompts_per_step"),
    ("text for a number", "learning_rate: fast\n", r"learning_rate must be a number, got 'fast'"),
    ("a list for a number", "learning_rate: [1]\n", r"learning_rate must be a number, got \[1\]"),
    ("nothing for a number", "learning_rate:\n", r"learning_rate needs a value, got none"),
    ("NaN", "learning_rate: .nan\n", r"learning_rate must be a finite number, got nan"),
    ("NaN as text", "learning_rate: nan\n", r"learning_rate must be a finite number, got nan"),
    ("infinity", "num_train_epochs: .inf\n", r"num_train_epochs must be a finite number, got inf"),
    ("a negative rate", "learning_rate: -1e-6\n", r"learning_rate must be a number and at least 0, got -1e-06"),
    ("half a seed", "seed: 1.5\n", r"seed must be an integer, got 1\.5"),
    ("a negative seed", "seed: -1\n", r"seed must be a number and at least 0, got -1"),
    ("nothing for the model", "model:\n", r"model needs a value, got none"),
    ("a list for the model", "model: [nano]\n", r"model must be text, got \['nano'\]"),
    ("an object for the data", "data: {a: 1}\n", r"data must be text, got \{'a': 1\}"),
    ("a list for the method", "method: [grpo]\n", r"unknown method \"\['grpo'\]\""),
    ("maybe for a switch", "use_cache: maybe\n", r"use_cache must be true or false, got 'maybe'"),
    ("a tree of two numbers", "tree: 4,9\n", r"four integers B0,L,K,B .* got '4,9'"),
    ("a tree of text", "tree: big\n", r"four integers B0,L,K,B .* got 'big'"),
    ("a tree of another G", "tree: 4,9,1,1\nnum_generations: 8\n", r"= 12 trajectories but num_generations is 8"),
    ("no answers", "num_generations: 0\n", r"num_generations must be at least 2, got 0"),
    ("one answer", "num_generations: 1\n", r"num_generations must be at least 2, got 1"),
    ("no problems a step", "prompts_per_step: 0\n", r"prompts_per_step must be a number and at least 1, got 0"),
    ("nothing a step", "prompts_per_step:\n", r"prompts_per_step needs a value, got none"),
    ("no rows a pass", "rows_per_forward: 0\n", r"rows_per_forward must be a number and at least 1, got 0"),
    ("rows that do not divide", "rows_per_forward: 7\n", r"rows_per_forward \(7\) must divide .* = 192"),
    ("no limit", "limit: 0\n", r"limit must be a number and at least 1, got 0"),
    ("no held-out answers", "eval_k: 0\n", r"eval_k must be a number and at least 1, got 0"),
    ("a negative rank", "lora_r: -1\n", r"lora_r must be a number and at least 0, got -1"),
    ("an unknown dtype", "dtype: float64\n", r"unknown dtype 'float64'; did you mean 'float16'\?"),
    ("an unknown verifier", "verifier: maths\n", r"unknown reward 'maths'; did you mean 'math'\?"),
    ("an unknown optimiser", "optim: adamm\n", r"adamm is not a valid OptimizerNames"),
    ("an unknown schedule", "lr_scheduler_type: none\n", r"none is not a valid SchedulerType"),
    ("no logging", "logging_steps: 0\n", r"non-zero --logging_steps"),
    ("an empty token budget", "max_generated_tokens: 0\n", r"max_generated_tokens must be a number and at least 1"),
]
RECIPES = [
    Case(f"recipe: {name}", ["train", "r.yaml", "--dry-run"], message.replace("{}", r"r\.yaml"), {"r.yaml": text})
    for name, text, message in RECIPE_TEXTS
]

# --- IBTPOConfig ---------------------------------------------------------------------------------------------------

CONFIGS: list[tuple[dict[str, Any], str]] = [
    ({"tree": "4,9"}, r"four integers B0,L,K,B"),
    ({"tree": 12}, r"four integers B0,L,K,B"),
    ({"tree": "4,5,1,1", "num_generations": 12}, r"= 8 trajectories but num_generations is 12"),
    ({"num_generations": 1}, r"num_generations must be at least 2, got 1"),
    ({"num_generations": 0}, r"num_generations must be at least 2, got 0"),
    ({"branching": "entropi"}, r"unknown branching rule 'entropi'; did you mean 'entropy'"),
    ({"branching": None}, r"branching must be a name, got None"),
    ({"splitter": "sentences"}, r"unknown splitter 'sentences'; did you mean 'sentence'"),
    ({"advantage": "mytask.mine"}, r"unknown advantage 'mytask\.mine'; for a function of your own, write mytask:mine"),
    ({"tree": [2, 2, 1]}, r"four integers B0,L,K,B .* got \[2, 2, 1\]"),
    ({"advantage": "ibtp"}, r"unknown advantage 'ibtp'; did you mean 'ibtpo'"),
    ({"lam": float("nan")}, r"lam must be finite .* got nan"),
    ({"ib_beta": -1.0}, r"ib_beta must be > 0, got -1\.0"),
    ({"value": "leaf"}, r"unknown value 'leaf'; did you mean 'leaves'"),
    ({"confidence": "mean"}, r"unknown confidence 'mean'; did you mean 'geomean'"),
    ({"prefix_weight": "one"}, r"unknown prefix_weight 'one'; did you mean 'once'"),
    ({"ratio_prior": -0.5}, r"ratio_prior must be >= 0, got -0\.5"),
    ({"ib_policy": "new"}, r"ib_policy must be 'old' or 'ref', got 'new'"),
    ({"ib_policy": "ref", "beta": 0.0}, r"ib_policy='ref' needs the reference model: set beta > 0"),
    ({"regularizer": "clip"}, r"unknown regularizer 'clip'"),
    ({"loss_type": "grop"}, r"unknown loss_type 'grop'; did you mean 'grpo'"),
    (
        {"use_vllm": True, "vllm_tensor_parallel_size": 2, "deterministic_rollouts": False},
        r"processes that share a vLLM .* must all make the same requests; leave out deterministic_rollouts=False",
    ),
    ({"repetition_penalty": 1.2}, r"does not support repetition_penalty"),
    ({"temperature": float("inf")}, r"temperature must be > 0 and finite, got inf"),
    ({"top_p": 0.0}, r"top_p must be in \(0, 1\], got 0\.0"),
    ({"max_completion_length": 0}, r"max_completion_length must be a number and at least 1, got 0"),
    ({"max_generated_tokens": -1}, r"max_generated_tokens must be a number and at least 1, got -1"),
    ({"max_in_flight": "many"}, r"max_in_flight must be a number and at least 1, got 'many'"),
    ({"kv_memory_gb": float("nan")}, r"kv_memory_gb must be a number and at least 0, got nan"),
    ({"verifier_timeout": float("inf")}, r"verifier_timeout must be > 0 seconds, got inf"),
    ({"verifier_timeout": 0.0}, r"verifier_timeout must be > 0 seconds, got 0\.0"),
    ({"verifier_workers": 0}, r"verifier_workers must be a number and at least 1, got 0"),
    ({"save_trees_every": -1}, r"save_trees_every must be a number and at least 0, got -1"),
    ({"save_steps": 0}, r"save_steps must be > 0, got 0"),
    ({"num_train_epochs": -1.0}, r"num_train_epochs must be > 0, got -1\.0"),
    ({"beta": -0.1}, r"beta must be a number and at least 0, got -0\.1"),
    ({"epsilon": float("nan")}, r"epsilon must be a number and at least 0, got nan"),
    ({"num_iterations": 0}, r"num_iterations must be a number and at least 1, got 0"),
]

# --- verifiers: one row each, judged in a child process with a deadline of 0.3 s -----------------------------------
