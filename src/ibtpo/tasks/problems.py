"""Reading problems: from JSON Lines, JSON, Parquet, the embedded task or a Hugging Face dataset.

Anything wrong in a file is a `DataError` that names the file, the line and the column.
"""

import gzip
import json
import math
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from .._text import half_character, short
from ..errors import ConfigError, DataError, DependencyError
from . import code, reasoning_gym, verifiers

ANSWER_VERIFIERS = ("math", "countdown", "choice", "walk")  # these need a reference answer in every row


Message = dict[str, str]

QUESTION_COLUMNS = ("question", "prompt", "problem")
ANSWER_COLUMNS = ("answer", "solution")
SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".parquet")
ROLES = ("system", "developer", "user", "assistant", "tool")
# Verifier -> the columns that it needs. A problem goes with the first one whose columns it has.
_VERIFIERS = {"walk": {"start", "target", "moves"}, "countdown": {"numbers", "target"}, "math": set[str]()}
_MISSING: Any = object()  # what `_value` gives for a column that a row does not have
_RESERVED = ("prompt", "completion", "completion_ids")  # a verifier is given these with other contents


@dataclass(frozen=True)
class Problem:
    """One problem: what the model is asked, and what verifiers need to grade its answers.

    id: unique in its source; `<file's stem>-<line>` where the source has none.
    prompt: the question as text, or a conversation (a list of messages) that ends before the answer.
    answer: the gold answer as text, or None if the source has none.
    columns: the fields of its row, which verifiers are given; the gold answer is among them as `answer`.
    """

    id: str
    prompt: str | list[Message]
    answer: str | None
    columns: dict[str, Any] = field(default_factory=dict)


def load_problems(
    source: str | Path,
    *,
    split: str = "train",
    limit: int | None = None,
    question_column: str | None = None,
    answer_column: str | None = None,
    require_answer: bool = True,
    instruction: str | None = None,
    seed: int = 0,
    prepare: Callable[[str, Any], Any] | None = None,
) -> list[Problem]:
    r"""The problems of a file, of the embedded task or of a Hugging Face dataset.

    source: the path of a `.jsonl`, `.jsonl.gz`, `.json` (one list) or `.parquet` file; a folder of such files named by
        their splits, `test.jsonl` or `data/test-00000-of-00001.parquet`; "walk" or "walk:test" for the embedded task;
        "reasoning_gym:TASK" and "verifiers:TASKSET" for those of other packages, see the modules of these names; or a
        dataset id ("openai/gsm8k" or, with a configuration, "openai/gsm8k:main").
    split: which split of a dataset, of a folder or of the embedded task; files have none.
    limit: read this many at most; what follows is not even checked. Without it all are read, of the embedded task 1000.
    question_column: by default the first of `question`, `prompt` and `problem` that a row has; rows with tests of a
        program may also have those of `tasks.code`. A dotted name goes into a nested field: `extra_info.question`, or
        by its number into a list: `messages.0.content`.
    answer_column: by default the first of `answer` and `solution` that a row has; one that is named here is required.
        Nested like the question's: `reward_model.ground_truth`.
    require_answer: False lets rows have no answer; those with tests of a program never need one.
    instruction: appended to each question after an empty line, e.g. r"Put your final answer in \boxed{}."
    seed: which problems of the embedded task are drawn, and in which order.
    prepare: (file and line, row) -> the row that is read in its place.

    Raises `DataError` for anything wrong in the source, `DependencyError` when the package to read it with is missing,
    and `ConfigError` for a limit below 1.
    """
    check_limit(limit)
    name, rows = _open(str(source), split, limit, seed)
    reader = _RowReader(name, question_column, answer_column, require_answer, instruction)
    problems = []
    for where, row in rows:
        problems.append(reader.read(where, row if prepare is None else prepare(f"{name}, {where}", row)))
        if limit is not None and len(problems) == limit:
            break
    if not problems:
        raise DataError(f"{name} is empty; expected one problem a line")
    return problems


def check_limit(limit: int | None) -> None:
    """Raises `ConfigError` for a number of problems to read that is below 1; None means all of them."""
    if limit is not None and limit < 1:
        raise ConfigError(f"limit must be at least 1, got {limit}; leave it out to read everything")


def verifier_for(problem: Problem) -> str:
    """The name of the verifier for a problem's columns: its package, "code", "walk", "countdown", or else "math"."""
    for package in (reasoning_gym, verifiers):
        if package.COLUMN in problem.columns:
            return package.COLUMN
    if code.has_tests(problem.columns):
        return "code"
    return next(name for name, columns in _VERIFIERS.items() if columns <= set(problem.columns))


def environment_for(problem: Problem) -> str | None:
    """What answers the turns of a problem, as a dotted path, where its source brings an environment; else None."""
    column = problem.columns.get(verifiers.COLUMN)
    return None if column is None else verifiers.environment_of(column)


class _RowReader:
    """Turns the rows of one source into problems, and remembers the ids it has seen."""

    def __init__(
        self,
        name: str,
        question_column: str | None,
        answer_column: str | None,
        require_answer: bool,
        instruction: str | None,
    ) -> None:
        self.name, self.question_column, self.answer_column = name, question_column, answer_column
        self.require_answer, self.instruction = require_answer, instruction
        self.seen: dict[str, str] = {}

    def read(self, where: str, row: Any) -> Problem:
        at = f"{self.name}, {where}"
        if not isinstance(row, dict):
            raise DataError(f"{at}: expected an object with named fields, got {type(row).__name__}")
        for column, value in row.items():
            try:
                bad = _unusable(value)
            except RecursionError:
                bad = "lists or objects are nested too deeply to be read"
            if bad is not None:
                raise DataError(f"{at}, column {column!r}: {bad}")
        tested = code.has_tests(row)
        questions = (*QUESTION_COLUMNS, *code.QUESTION_COLUMNS) if tested else QUESTION_COLUMNS
        question_column = self._column(at, row, self.question_column, questions, "question")
        assert question_column is not None, "a question is always required"
        question = _value(row, question_column)
        if tested and isinstance(question, str):
            if "entry_point" in row and row.get("test_setup_code") is None:
                row = {**row, "test_setup_code": question}  # HumanEval's question is the program's beginning
            question = code.full_question(question, row)
        prompt = self._prompt(f"{at}, column {question_column!r}", question)
        needed = self.require_answer and not tested and not {reasoning_gym.COLUMN, verifiers.COLUMN} & row.keys()
        required = needed or self.answer_column is not None
        answer_column = self._column(at, row, self.answer_column, ANSWER_COLUMNS, "answer", required)
        answer = None
        if answer_column is not None:
            value = _value(row, answer_column)
            if not (tested and isinstance(value, list | dict)):  # several solutions are no answer to compare with
                answer = self._answer(f"{at}, column {answer_column!r}", value, needed)
        columns = {key: value for key, value in row.items() if key not in _RESERVED}
        if answer_column is not None and (answer is not None or not tested):
            columns["answer"] = answer
        return Problem(self._id(at, where, row), prompt, answer, columns)

    def _column(
        self,
        at: str,
        row: dict[str, Any],
        chosen: str | None,
        candidates: Sequence[str],
        what: str,
        required: bool = True,
    ) -> str | None:
        """The name of the question's or the answer's column in a row; None if the row has none and needs none."""
        if chosen is None:
            chosen = next((column for column in candidates if column in row), None)
        if chosen is not None and _value(row, chosen) is not _MISSING:
            return chosen
        if not required:
            return None
        wanted = repr(chosen) if chosen is not None else " or ".join(map(repr, candidates))
        near = get_close_matches(chosen or candidates[0], _names(row), n=1)
        hint = f"did you mean {near[0]!r}? Say {what}_column=" if near else f"name it with {what}_column="
        raise DataError(f"{at}: no column {wanted}; found {', '.join(map(repr, _names(row))) or 'none'}; {hint}")

    def _prompt(self, at: str, value: Any) -> str | list[Message]:
        if isinstance(value, str):
            if not value.strip():
                raise DataError(f"{at}: the question is empty")
            return value if self.instruction is None else f"{value}\n\n{self.instruction}"
        if not isinstance(value, list):
            raise DataError(f"{at}: expected text or a list of messages, got {type(value).__name__}")
        if not value:
            raise DataError(f"{at}: the list of messages is empty")
        messages = [self._message(f"{at}, message {number}", item) for number, item in enumerate(value, 1)]
        if messages[-1]["role"] == "assistant":
            raise DataError(f"{at}: the last message is the assistant's; a prompt ends before the answer")
        if self.instruction is not None:
            messages[-1] = {**messages[-1], "content": f"{messages[-1]['content']}\n\n{self.instruction}"}
        return messages

    @staticmethod
    def _message(at: str, item: Any) -> Message:
        if not isinstance(item, dict) or not isinstance(item.get("content"), str) or item.get("role") not in ROLES:
            raise DataError(
                f'{at}: expected {{"role": one of {", ".join(ROLES)}, "content": text}}, got {short(item, 80)}'
            )
        if not item["content"].strip():
            raise DataError(f"{at}: the content is empty")
        return dict(item)

    @staticmethod
    def _answer(at: str, value: Any, needed: bool) -> str | None:
        if isinstance(value, bool) or not isinstance(value, str | int | float | None):
            raise DataError(f"{at}: expected text or a number, got {type(value).__name__} {short(value, 80)}")
        text = None if value is None else str(value).strip()
        if not text and needed:
            raise DataError(f"{at}: the answer is empty; pass require_answer=False if the verifier needs none")
        return text or None

    def _id(self, at: str, where: str, row: dict[str, Any]) -> str:
        """The row's own id, or one from the source's name and the row's number."""
        value = row.get("id")
        if value is None:
            file = Path(self.name).name
            stem = next((file.removesuffix(suffix) for suffix in SUFFIXES if file.endswith(suffix)), file)
            identity = f"{stem}-{where.rpartition(' ')[2]}"
        elif isinstance(value, str | int) and not isinstance(value, bool) and str(value).strip():
            identity = str(value)
        else:
            raise DataError(f"{at}, column 'id': expected text or an integer, got {short(value, 80)}")
        if identity in self.seen:
            raise DataError(f"{at}: id {identity!r} was already used in {self.seen[identity]}; ids must be unique")
        self.seen[identity] = where
        return identity


def _value(row: dict[str, Any], column: str) -> Any:
    """What a row holds under a column, whose name may be dotted; `_MISSING` if there is no such field."""
    if column in row:  # a name of its own goes before a way into a nested field
        return row[column]
    value: Any = row
    for name in column.split("."):
        if isinstance(value, dict) and name in value:
            value = value[name]
        elif isinstance(value, list) and name.isdecimal() and int(name) < len(value):
            value = value[int(name)]
        else:
            return _MISSING
    return value


def _names(row: dict[str, Any], prefix: str = "") -> list[str]:
    """The columns of a row, each followed by the fields nested in it, under their dotted names."""
    names = []
    for name, value in row.items():
        names.append(f"{prefix}{name}")
        if isinstance(value, dict):
            names += _names(value, f"{prefix}{name}.")
    return names


def _open(source: str, split: str, limit: int | None, seed: int) -> tuple[str, Iterator[tuple[str, Any]]]:
    """The name of a source for messages, and its rows one by one, each with its place ("line 3")."""
    if source == "walk" or (source.startswith("walk:") and not Path(source).is_file()):
        from .walk import make_problems

        chosen = source.partition(":")[2] or split
        problems = make_problems(chosen, 1000 if limit is None else limit, seed)  # type: ignore[arg-type]
        return source, ((f"problem {number}", row) for number, row in enumerate(problems, 1))
    if source.startswith(reasoning_gym.PREFIX):
        made = reasoning_gym.make_rows(source, split, limit, seed)
        return source, ((f"problem {number}", row) for number, row in enumerate(made, 1))
    if source.startswith(verifiers.PREFIX):
        return source, ((f"task {number}", row) for number, row in enumerate(verifiers.make_rows(source, limit), 1))
    if not source.strip():
        raise DataError(f"no data named: got {source!r}; name a file, walk or a dataset")
    path = Path(source).expanduser()
    if path.is_dir():
        return source, _folder(path, split)
    if path.is_file():
        if not source.endswith(SUFFIXES):
            raise DataError(f"{source}: cannot read this kind of file; use {', '.join(SUFFIXES)}")
        return source, _READERS[path.suffix](path)
    if path.exists():
        raise DataError(f"{source} is no regular file; write the data into one, {' or '.join(SUFFIXES)}")
    looks_like_path = source.endswith(SUFFIXES) or source.startswith((".", "/", "~")) or source.count("/") > 1
    if looks_like_path or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?", source):
        raise DataError(f"{source} does not exist{_nearest_file(path)}")
    return source, _hugging_face(source, split, path)


def _folder(folder: Path, split: str) -> Iterator[tuple[str, Any]]:
    """The rows of a folder's files of one split, named as data sets name them.

    That is `test.jsonl` or `test-00000-of-00002.parquet`, in the folder or in its folder `data`.
    """
    files = [p for place in (folder, folder / "data") for p in sorted(place.glob("*")) if p.name.endswith(SUFFIXES)]
    named = {p: re.sub(r"-\d{5}-of-\d{5}$", "", p.name.partition(".")[0]) for p in files}
    chosen = [p for p in files if named[p] == split]
    if not chosen:
        found = ", ".join(dict.fromkeys(named.values())) or "no data file at all"
        raise DataError(f"{folder} is a folder; name one file in it, or a split: not {split!r}, it has {found}")
    number = 0
    for path in chosen:
        for where, row in _READERS[path.suffix](path):
            number += 1
            yield f"{path.relative_to(folder)}, {where}" if len(chosen) == 1 else f"{split}, row {number}", row


def _json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if text := _decode(path, number, line).strip():
                    yield f"line {number}", _parse(path, number, text)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}, after line {number}: broken gzip data ({error}); copy the file again") from error


def _json_list(path: Path) -> Iterator[tuple[str, Any]]:
    text = _decode(path, None, path.read_bytes())
    if not text.strip():
        return
    rows = _parse(path, None, text)
    if not isinstance(rows, list):
        raise DataError(f"{path}: expected a list of objects, got {type(rows).__name__}; one object a line is .jsonl")
    for number, row in enumerate(rows, 1):
        yield f"item {number}", row


def _parquet(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        import pyarrow  # type: ignore[import-untyped]
        from pyarrow import parquet
    except ImportError as error:
        raise DependencyError(f"{path}: Parquet needs pyarrow; install it with: pip install 'ibtpo[train]'") from error
    try:
        rows = parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({' '.join(str(error).split())})") from error
    for number, row in enumerate(rows, 1):
        yield f"row {number}", row


_READERS = {".jsonl": _json_lines, ".gz": _json_lines, ".json": _json_list, ".parquet": _parquet}


def _hugging_face(source: str, split: str, path: Path) -> Iterator[tuple[str, Any]]:
    try:
        import datasets
    except ImportError as error:
        raise DependencyError(
            f"{source!r} is no file here{_nearest_file(path)}; to load it as a Hugging Face dataset: "
            "pip install 'ibtpo[train]'"
        ) from error
    name, _, configuration = source.partition(":")
    try:
        rows = datasets.load_dataset(name, configuration or None, split=split)
    except Exception as error:  # a network, a hub or a dataset script can fail in any way
        reason = " ".join(str(error).split())[:300]
        raise DataError(
            f"{source!r} is no file here{_nearest_file(path)} and could not be loaded as a Hugging Face dataset "
            f"(split {split!r}): {type(error).__name__}: {reason}"
        ) from error
    for number, row in enumerate(rows, 1):
        yield f"row {number}", row


def _decode(path: Path, line: int | None, data: bytes) -> str:
    """The text of `data`, which must be UTF-8.

    line: the number of the line that `data` is; None if it is the whole file, in which the line has to be found.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        if line is None:
            line = before.count(b"\n") + 1
        byte = error.start - (before.rfind(b"\n") + 1) + 1
        raise DataError(
            f"{path}, line {line}: byte {byte} (0x{data[error.start]:02x}) is not UTF-8; save the file as UTF-8"
        ) from error


def _parse(path: Path, line: int | None, text: str) -> Any:
    """The JSON in `text`. line: the number of the line that `text` is; None if it is the whole file."""
    try:
        return json.loads(text, object_pairs_hook=_no_twins)
    except json.JSONDecodeError as error:
        line = line or error.lineno
        raise DataError(f"{path}, line {line}: not valid JSON: {error.msg} at character {error.colno}") from error
    except (ValueError, RecursionError) as error:  # a name twice, thousands of digits, brackets nested too deeply
        raise DataError(f"{path}, line {line or 1}: cannot be read as JSON: {error}") from error


def _unusable(value: Any) -> str | None:
    """What is wrong with the first NaN, infinity or half a character in a value; None where there is none."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value} is not a value; leave the field out or use null"
    if isinstance(value, str) and (half := half_character(value)) is not None:
        return f"{half} is half a character (a lone surrogate); write the whole one or remove it"
    if isinstance(value, dict | list):
        items = value.values() if isinstance(value, dict) else value
        return next((bad for bad in map(_unusable, items) if bad is not None), None)
    return None


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The JSON object of these pairs. Raises `ValueError` for a name given twice: the last would silently win."""
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in row if names.count(name) > 1)
        raise ValueError(f"the name {twice!r} occurs twice in one object; keep one")
    return row


def _nearest_file(path: Path) -> str:
    """The end of a message about a missing file: that its folder is missing, or a file of a similar name."""
    folder = path.parent
    if not folder.is_dir():
        return f" (nor does the folder {folder})"
    near = get_close_matches(path.name, [item.name for item in folder.iterdir() if item.is_file()], n=1)
    return f" (did you mean {folder / near[0]}?)" if near else ""
