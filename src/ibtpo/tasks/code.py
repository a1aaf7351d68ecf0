"""Problems whose answers are programs: the tests of a row, in the columns that the common data sets have.

| column | form | data sets |
| --- | --- | --- |
| `tests`, `test_cases`, `input_output` | see `_listed` | APPS, TACO, DeepCoder |
| `verification_info` | `{"test_cases": …}` | open-r1's verifiable coding problems |
| `test_list`, after `test_setup_code` and `test_imports` | a list of asserts | MBPP |
| `test`, `entry_point` | a function `check(candidate)` | HumanEval |
| `public_test_cases`, `private_test_cases`, `metadata` | a list each; the second may be packed | LiveCodeBench |
| `public_tests`, `private_tests`, `generated_tests` | `{"input": […], "output": […]}` each | CodeContests |
| `reward_model` | `{"ground_truth": …}` | verl, PRIME |
| `answer` | the same as text | verl, with `--answer-column reward_model.ground_truth` |

The first that a row has counts. Everything that is JSON may also be given as text.
"""

import ast
import base64
import io
import json
import pickle
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .._text import short
from ..errors import DataError

# Columns that only rows with tests have: a row with one of these groups is a code problem.
_MARKS = (
    {"input_output"}, {"test_list"}, {"test", "entry_point"}, {"public_test_cases"}, {"private_test_cases"},
    {"public_tests"}, {"tests"}, {"test_cases"}, {"verification_info"},
)  # fmt: skip
QUESTION_COLUMNS = ("question_content", "description", "text")  # of LiveCodeBench, CodeContests and MBPP
_PYTHON3 = 3  # CodeContests' number of the language


@dataclass(frozen=True, slots=True)
class Test:
    """One test of a program: what is done with it, and what must come of it.

    work: `stdin`, `call`, `expression` or `then`, as `sandbox.Sandbox.run` takes them.
    expected: what it must print, or the value of the call or expression; None for `then`, which must not raise.
    """

    __test__ = False  # for pytest, which takes it for one of its own

    work: Mapping[str, Any]
    expected: Any = None


def has_tests(row: Mapping[str, Any]) -> bool:
    """Whether a row is one of a code data set, by its columns. verl's rows look like those of any other task."""
    return any(columns <= row.keys() and all(row[c] is not None for c in columns) for columns in _MARKS)


def read_tests(row: Mapping[str, Any]) -> tuple[str, list[Test]]:
    """The code that goes before a program of a row, and the row's tests.

    row: its columns.

    Raises `DataError` that names the column if there are no tests or they cannot be read.
    """
    setup = "\n".join([*_lines(row.get("test_imports")), *_lines(row.get("test_setup_code"))])
    for column in ("tests", "test_cases", "input_output", "verification_info", "test_list"):
        if row.get(column) is not None:
            return setup, _listed(column, row[column])
    if row.get("test") is not None and row.get("entry_point") is not None:
        return setup, [Test({"then": f"{row['test']}\ncheck({row['entry_point']})"})]
    several = ("public_test_cases", "private_test_cases"), ("public_tests", "private_tests", "generated_tests")
    for columns in several:
        given = [c for c in columns if row.get(c) is not None]
        name = _function_name(row.get("metadata"))
        tests = [test for c in given for test in _listed(c, row[c], name, may_be_empty=True)]
        if tests:
            return setup, tests
    for column in ("reward_model", "answer"):
        value = row.get(column)
        if column == "reward_model" and isinstance(value, dict):
            value = value.get("ground_truth")
        if value is not None:
            return setup, _listed(column, value)
    raise DataError(f"the row has no tests; docs/code.md lists the columns, found {', '.join(sorted(row)) or 'none'}")


def full_question(question: str, row: Mapping[str, Any]) -> str:
    """A code row's question with what it must say of the names that the tests use, where it does not say it.

    That is the row's `starter_code`, or for MBPP its asserts.
    """
    starter = row.get("starter_code")
    if isinstance(starter, str) and starter.strip() and starter.strip() not in question:
        return f"{question}\n\nStart from this code:\n\n```python\n{starter.rstrip()}\n```"
    asserts = row.get("test_list")
    if isinstance(asserts, list) and asserts and str(asserts[0]) not in question:
        return "\n".join([f"{question}\n\nThe code must pass these tests:\n", *map(str, asserts)])
    return question


def reference_solution(row: Mapping[str, Any]) -> str | None:
    """A program that passes a row's tests, where the data set has one."""
    if isinstance(row.get("canonical_solution"), str):
        return f"{row.get('test_setup_code') or ''}{row['canonical_solution']}"
    solutions = _parsed(row.get("solutions"))
    if isinstance(solutions, dict):  # CodeContests, in several languages
        both = zip(solutions.get("language", ()), solutions.get("solution", ()), strict=False)
        solutions = [text for language, text in both if language == _PYTHON3]
    if isinstance(solutions, list) and solutions:
        return str(solutions[0])
    return next((row[c] for c in ("code", "solution", "answer") if isinstance(row.get(c), str)), None)


def _listed(column: str, value: Any, name: str | None = None, *, may_be_empty: bool = False) -> list[Test]:
    """The tests in a value of one of these forms, or the JSON text of one:

    - {"inputs": […], "outputs": […], "fn_name": optional}, also in the singular
    - [{"input": …, "output": …, "type" or "testtype": optional, "fn_name": optional}, …]
    - ["assert f(1) == 2", …]
    - {"test_cases": any of these}
    """
    value = _parsed(_unpacked(value))
    if isinstance(value, dict) and "test_cases" in value:
        value = _parsed(value["test_cases"])
    if isinstance(value, dict):
        inputs, outputs = (value.get(f"{key}s", value.get(key)) for key in ("input", "output"))
        if not isinstance(inputs, list) or not isinstance(outputs, list) or len(inputs) != len(outputs):
            raise DataError(
                f"column {column!r}: expected lists 'inputs' and 'outputs' of one length, got {short(value)}"
            )
        name = value.get("fn_name") or name
        value = [{"input": i, "output": o, "fn_name": name} for i, o in zip(inputs, outputs, strict=True)]
    if not isinstance(value, list) or not (value or may_be_empty):
        raise DataError(f"column {column!r}: expected a list of tests, got {short(value)}")
    return [_test(column, item, name) for item in value]


def _test(column: str, item: Any, name: str | None) -> Test:
    if isinstance(item, str):
        return _assertion(item)
    if not isinstance(item, dict) or not {"input", "output"} <= item.keys():
        raise DataError(f"column {column!r}: expected a test with 'input' and 'output', got {short(item)}")
    name = item.get("fn_name") or name
    kind = item.get("testtype") or item.get("type")
    if name and kind not in ("stdin", "stdin_stdout"):
        return _called(column, str(name), item["input"], item["output"])
    if kind in ("functional", "function_call"):
        raise DataError(f"column {column!r}: a test calls a function, but the row does not name it ('fn_name')")
    stdin, stdout = (
        "\n".join(map(str, text)) if isinstance(text, list) else text for text in (item["input"], item["output"])
    )
    if not isinstance(stdin, str) or not isinstance(stdout, str):
        raise DataError(f"column {column!r}: expected text for standard input and output, got {short(item)}")
    return Test({"stdin": stdin}, stdout)


def _called(column: str, name: str, given: Any, expected: Any) -> Test:
    """A test that calls a function: its arguments as a list or as JSON, a line each."""
    try:
        arguments = (
            [json.loads(line) for line in given.split("\n") if line.strip()] if isinstance(given, str) else given
        )
    except ValueError as error:
        raise DataError(f"column {column!r}: the arguments of {name!r} are no JSON: {short(given)}") from error
    if not isinstance(arguments, list):
        raise DataError(f"column {column!r}: expected a list of arguments of {name!r}, got {short(arguments)}")
    return Test({"call": [name, arguments], "name": "answer"}, _parsed(expected))


def _assertion(text: str) -> Test:
    """A test from Python code that must not raise.

    Of `assert f(1) == 2` only `f(1)` is left to be evaluated beside the program; the other side is compared outside.
    """
    try:
        (statement,) = ast.parse(text).body
        if isinstance(statement, ast.Assert) and isinstance(statement.test, ast.Compare):
            comparison = statement.test
            if len(comparison.ops) == 1 and isinstance(comparison.ops[0], ast.Eq):
                expected = ast.literal_eval(comparison.comparators[0])
                return Test({"expression": ast.unparse(comparison.left), "name": "answer"}, (expected,))
    except (SyntaxError, ValueError, TypeError):  # several statements, or no literal on the right
        pass
    return Test({"then": text, "name": "answer"})


def _function_name(metadata: Any) -> str | None:
    metadata = _parsed(metadata)
    name = metadata.get("func_name") if isinstance(metadata, dict) else None
    return str(name) if name else None


def _lines(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        yield from map(str, value)


def _parsed(value: Any) -> Any:
    """A value, or what it says if it is the text of a JSON value."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


class _TextOnly(pickle.Unpickler):
    """Reads a pickled text and nothing else: a pickle of anything else could run code of whoever made the data."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it holds {module}.{name}")


def _unpacked(value: Any) -> Any:
    """LiveCodeBench's private tests, whose JSON is pickled, compressed and in base 64; any other value as it is."""
    if not isinstance(value, str) or not value.startswith("eJ"):
        return value
    try:
        return _TextOnly(io.BytesIO(zlib.decompress(base64.b64decode(value)))).load()
    except (ValueError, zlib.error, pickle.UnpicklingError, EOFError):
        return value
