"""Problems: read from JSON Lines, JSON, Parquet, the embedded task or a Hugging Face dataset, and encoded.

A wrong file is a `DataError` that names the file, the line and the column.
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

ANSWER_VERIFIERS = ("math", "countdown", "choice", "walk")  # need a reference answer in every row


Message = dict[str, str]

QUESTION_COLUMNS = ("question", "prompt", "problem")
ANSWER_COLUMNS = ("answer", "solution")
SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".parquet")
ROLES = ("system", "developer", "user", "assistant", "tool")
# Which verifier goes with a problem: the first whose columns it has.
_VERIFIERS = {"walk": {"start", "target", "moves"}, "countdown": {"numbers", "target"}, "math": set[str]()}
_RESERVED = ("prompt", "completion", "completion_ids")  # rows given to verifiers have these of their own


@dataclass(frozen=True)
class Problem:
    """One problem.

    id: unique in its source; `<file's stem>-<line>` where the source has none.
    prompt: the question, or a conversation that ends before the answer.
    answer: the gold answer as text, or None if the source has none.
    columns: every other field, the answer included: what verifiers are given.
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
    r"""Problems of a file, of the embedded task or of a Hugging Face dataset.

    source: a `.jsonl`, `.jsonl.gz`, `.json` (one list) or `.parquet` path; "walk" or "walk:test"; else a
        dataset id ("openai/gsm8k" or, with a configuration, "openai/gsm8k:main").
    split: of the embedded task and of datasets; files have none.
    limit: read this many at most; the rest is not checked. Of the embedded task at most 1000 without it.
    question_column, answer_column: by default the first of `question`, `prompt`, `problem` and of `answer`, `solution`.
    require_answer: False lets rows have none.
    instruction: appended to each question after an empty line, e.g. r"Put your final answer in \boxed{}."
    seed: which problems of the embedded task, and their order.
    prepare: (file and line, row) -> the row to read in its place.

    Raises `DataError` for anything wrong in the source, `DependencyError` for a missing reader.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"limit must be at least 1, got {limit}; leave it out to read everything")
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


def verifier_for(problem: Problem) -> str:
    """Name of the verifier for a problem's columns: walk, countdown, or math where nothing speaks for another."""
    return next(name for name, columns in _VERIFIERS.items() if columns <= set(problem.columns))


class _RowReader:
    """Rows to problems; remembers which columns were chosen and which ids were seen."""

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
            if (bad := _unusable(value)) is not None:
                raise DataError(f"{at}, column {column!r}: {bad}")
        question_column = self._column(at, row, self.question_column, QUESTION_COLUMNS, "question")
        assert question_column is not None, "a question is always required"
        prompt = self._prompt(f"{at}, column {question_column!r}", row[question_column])
        required = self.require_answer or self.answer_column is not None
        answer_column = self._column(at, row, self.answer_column, ANSWER_COLUMNS, "answer", required)
        answer = None
        if answer_column is not None:
            answer = self._answer(f"{at}, column {answer_column!r}", row[answer_column])
        columns = {key: value for key, value in row.items() if key not in _RESERVED}
        if answer_column is not None:
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
        if chosen is None:
            chosen = next((column for column in candidates if column in row), None)
        if chosen in row:
            return chosen
        if not required:
            return None
        wanted = repr(chosen) if chosen is not None else " or ".join(map(repr, candidates))
        near = get_close_matches(chosen or candidates[0], list(row), n=1)
        hint = f"did you mean {near[0]!r}? Say {what}_column=" if near else f"name it with {what}_column="
        raise DataError(f"{at}: no column {wanted}; found {', '.join(map(repr, row)) or 'none'}; {hint}")

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

    def _answer(self, at: str, value: Any) -> str | None:
        if isinstance(value, bool) or not isinstance(value, str | int | float | None):
            raise DataError(f"{at}: expected text or a number, got {type(value).__name__} {short(value, 80)}")
        text = None if value is None else str(value).strip()
        if not text and self.require_answer:
            raise DataError(f"{at}: the answer is empty; pass require_answer=False if the verifier needs none")
        return text or None

    def _id(self, at: str, where: str, row: dict[str, Any]) -> str:
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


def encode_prompt(
    problem: Problem, tokenizer: Any, *, system_prompt: str | None = None, chat_template: bool | None = None
) -> tuple[str, list[int]]:
    """The prompt as the model reads it: its text, and (P,) token ids.

    tokenizer: of transformers. chat_template: use the tokenizer's; None means if it has one.

    With a template, the conversation is rendered once, up to where the assistant speaks, and the text encoded without
    further special tokens, since the template writes them itself: no second beginning-of-sequence token. A question
    that already starts with the template's own control tokens is taken as rendered and encoded as it is; control
    tokens inside a question are a `DataError`, for there they would end it early. Without a template the text gets the
    tokenizer's special tokens, less an end-of-sequence token; a system prompt comes first, then an empty line.

    Raises `ConfigError` where template, tokenizer and prompt do not fit together.
    """
    has_template = getattr(tokenizer, "chat_template", None) is not None
    if chat_template and not has_template:
        raise ConfigError(
            "chat_template=True, but the tokenizer has no chat template; use an instruct model's, or False"
        )
    if has_template and chat_template is not False:
        return _encode_chat(problem, tokenizer, system_prompt)
    if not isinstance(problem.prompt, str):
        raise ConfigError(
            f"problem {problem.id!r} is a conversation, which needs a chat template; "
            + ("drop chat_template=False" if has_template else "the tokenizer has none: use an instruct model's")
        )
    text = problem.prompt if system_prompt is None else f"{system_prompt}\n\n{problem.prompt}"
    _check_whole(problem.id, text)
    bos, eos = tokenizer.bos_token, tokenizer.eos_token
    ids = list(tokenizer(text, add_special_tokens=not (bos and text.startswith(bos)))["input_ids"])
    if ids and eos and ids[-1] == tokenizer.eos_token_id and not text.endswith(eos):
        ids.pop()  # a prompt that ends the sequence leaves nothing to continue
    return text, ids


def trl_prompt(problem: Problem, tokenizer: Any, system_prompt: str | None = None) -> str | list[Message]:
    """The prompt in the form TRL's trainers tokenise to the very ids `encode_prompt` gives.

    A conversation for a chat model, which TRL renders with the template; else text, which gets the tokenizer's special
    tokens.
    """
    if getattr(tokenizer, "chat_template", None) is None:
        return encode_prompt(problem, tokenizer, system_prompt=system_prompt)[0]
    if isinstance(problem.prompt, str) and _is_rendered(problem.id, problem.prompt, tokenizer):
        text, ids = encode_prompt(problem, tokenizer, system_prompt=system_prompt)
        doubled = list(tokenizer(text)["input_ids"]) != ids  # the tokenizer would add what the text already starts with
        return text.removeprefix(tokenizer.bos_token) if doubled and tokenizer.bos_token else text
    return _messages(problem.prompt, system_prompt)


def _messages(prompt: str | list[Message], system_prompt: str | None) -> list[Message]:
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    if system_prompt is not None and messages[0]["role"] not in ("system", "developer"):
        messages.insert(0, {"role": "system", "content": system_prompt})
    return messages


def _encode_chat(problem: Problem, tokenizer: Any, system_prompt: str | None) -> tuple[str, list[int]]:
    text = problem.prompt
    if isinstance(text, str) and _is_rendered(problem.id, text, tokenizer):
        if system_prompt is not None:
            raise ConfigError(f"problem {problem.id!r} is already in chat form; system_prompt cannot be added to it")
    else:
        text = _render(tokenizer, _messages(text, system_prompt))
    _check_whole(problem.id, text)
    return text, list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _check_whole(identity: str, text: str) -> None:
    """Tokenizers refuse half a character with an error nobody understands."""
    if (half := half_character(text)) is not None:
        raise DataError(
            f"problem {identity!r}: its prompt, or the instruction or system prompt around it, contains {half}, half a "
            "character (a lone surrogate); write the whole one or remove it"
        )


def _render(tokenizer: Any, messages: list[Message]) -> str:
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    except Exception as error:  # a template is a program: it raises what it likes
        roles = ", ".join(message["role"] for message in messages)
        advice = "; put the system prompt into the instruction" if messages[0]["role"] == "system" else ""
        raise ConfigError(f"the chat template refuses messages of roles {roles}: {error}{advice}") from error


def _is_rendered(identity: str, text: str, tokenizer: Any) -> bool:
    """Whether a question is already in the template's form. Its control tokens are those a rendered probe contains."""
    probe = "PROBE"
    before, _, after = _render(tokenizer, [{"role": "user", "content": probe}]).partition(probe)
    special = {*tokenizer.all_special_tokens, *(str(token) for token in tokenizer.get_added_vocab())}
    control = sorted(token for token in special if token.strip() and token in before + after)
    found = [token for token in control if token in text]
    if not found:
        # A template in plain words ("### Assistant:") is known by how it ends.
        return not control and bool(after.strip()) and text.rstrip().endswith(after.rstrip())
    if text.lstrip().startswith(tuple(found)):
        return True
    raise DataError(
        f"problem {identity!r}: its question contains {found[0]!r}, a control token of the chat template; "
        "remove it, or give the whole prompt in chat form"
    )


def check_prompt_length(identity: str, tokens: int, context: int) -> None:
    """Raises `DataError` unless a prompt leaves room for at least one token in a context of `context` tokens."""
    if tokens > context - 1:
        raise DataError(
            f"problem {identity!r}: its prompt has {tokens} tokens, the model's context holds {context} and one must "
            "be left to answer; drop the problem or use a model with a longer context"
        )


def _open(source: str, split: str, limit: int | None, seed: int) -> tuple[str, Iterator[tuple[str, Any]]]:
    """(what to call it, (where, row) one by one)."""
    if source == "walk" or source.startswith("walk:"):
        from .walk import make_problems

        chosen = source.partition(":")[2] or split
        problems = make_problems(chosen, 1000 if limit is None else limit, seed)  # type: ignore[arg-type]
        return source, ((f"problem {number}", row) for number, row in enumerate(problems, 1))
    if not source.strip():
        raise DataError(f"no data named: got {source!r}; name a file, walk or a dataset")
    path = Path(source).expanduser()
    if path.is_dir():
        raise DataError(f"{source} is a folder; name one file in it")
    if path.is_file():
        readers = {".jsonl": _json_lines, ".gz": _json_lines, ".json": _json_list, ".parquet": _parquet}
        if not source.endswith(SUFFIXES):
            raise DataError(f"{source}: cannot read this kind of file; use {', '.join(SUFFIXES)}")
        return source, readers[path.suffix](path)
    looks_like_path = source.endswith(SUFFIXES) or source.startswith((".", "/", "~")) or source.count("/") > 1
    if looks_like_path or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?", source):
        raise DataError(f"{source} does not exist{_nearest_file(path)}")
    return source, _hugging_face(source, split, path)


def _json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                where = f"line {number}"
                if text := _decode(path, where, line).strip():
                    yield where, _parse(path, where, text)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}, after line {number}: broken gzip data ({error}); copy the file again") from error


def _json_list(path: Path) -> Iterator[tuple[str, Any]]:
    text = _decode(path, "line", path.read_bytes())
    if not text.strip():
        return
    rows = _parse(path, "", text)
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


def _decode(path: Path, where: str, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        if where == "line":
            where = f"line {before.count(10) + 1}"
        byte = error.start - (before.rfind(b"\n") + 1) + 1
        raise DataError(
            f"{path}, {where}: byte {byte} (0x{data[error.start]:02x}) is not UTF-8; save the file as UTF-8"
        ) from error


def _parse(path: Path, where: str, text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_no_twins)
    except json.JSONDecodeError as error:
        where = where or f"line {error.lineno}"
        raise DataError(f"{path}, {where}: not valid JSON: {error.msg} at character {error.colno}") from error
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits; brackets nested too deeply
        raise DataError(f"{path}, {where or 'line 1'}: cannot be read as JSON: {error}") from error


def _unusable(value: Any) -> str | None:
    """What is wrong with the first NaN, infinity or half a character in a value, or None."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value} is not a value; leave the field out or use null"
    if isinstance(value, str) and (half := half_character(value)) is not None:
        return f"{half} is half a character (a lone surrogate); write the whole one or remove it"
    if isinstance(value, dict | list):
        items = value.values() if isinstance(value, dict) else value
        return next((bad for bad in map(_unusable, items) if bad is not None), None)
    return None


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose names differ: of two equal ones the last would silently win."""
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in row if names.count(name) > 1)
        raise ValueError(f"the name {twice!r} occurs twice in one object; keep one")
    return row


def _nearest_file(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f" (nor does the folder {folder})"
    near = get_close_matches(path.name, [item.name for item in folder.iterdir() if item.is_file()], n=1)
    return f" (did you mean {folder / near[0]}?)" if near else ""
