"""The code verifier: tests in every form that users have, right and wrong programs, and programs that cheat."""

import base64
import json
import pickle
import zlib
from pathlib import Path
from typing import Any

import pytest

from helpers import sandboxes
from ibtpo.errors import DataError
from ibtpo.evaluation.gold_check import check_data
from ibtpo.tasks.code import read_tests
from ibtpo.tasks.problems import load_problems, verifier_for
from ibtpo.verify.code import code_reward, code_share, find_code, same_output, same_value
from ibtpo.verify.pool import VerifierPool

SUM = "print(sum(map(int, input().split())))"
ADD = "def add(a, b):\n    return a + b"
STDIO = {"inputs": ["1 2\n", "3 4\n"], "outputs": ["3\n", "7\n"]}
CALLS = {"inputs": [[1, 2], [3, 4]], "outputs": [[3], [7]], "fn_name": "add"}
LISTED = [{"input": "1 2\n", "output": "3\n", "type": "stdin_stdout"}, {"input": "3 4\n", "output": "7\n"}]
FUNCTIONAL = [{"input": "1\n2", "output": "3", "testtype": "functional"}]
PACKED = base64.b64encode(zlib.compress(pickle.dumps(json.dumps(FUNCTIONAL)))).decode()

# A right program, and the columns of a row that it is right for.
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "APPS": (SUM, {"input_output": json.dumps(STDIO)}),
    "APPS, a function": (ADD, {"input_output": json.dumps(CALLS)}),
    "TACO, lists of lines": (SUM, {"input_output": {"inputs": [["1 2"]], "outputs": [["3"]]}}),
    "DeepCoder": (SUM, {"tests": json.dumps(LISTED)}),
    "DeepCoder, a function": (ADD, {"tests": [{**test, "fn_name": "add"} for test in FUNCTIONAL]}),
    "open-r1": (SUM, {"verification_info": {"language": "python", "test_cases": LISTED}}),
    "MBPP": (ADD, {"test_list": ["assert add(1, 2) == 3", "assert add([1], [2]) == [1, 2]"], "test_setup_code": ""}),
    "MBPP, sanitized": (
        "def area(r): return PI * r * r",
        {"test_list": ["assert math.isclose(area(1), math.pi)"], "test_imports": ["import math", "PI = math.pi"]},
    ),
    "HumanEval": (
        ADD,
        {
            "test": "def check(candidate):\n    assert candidate(1, helper(1)) == 3",
            "entry_point": "add",
            "test_setup_code": "def helper(x):\n    return x + 1\n\ndef add(a, b):\n    ''' Add. '''\n",
        },
    ),
    "LiveCodeBench": (
        f"class Solution:\n    def add(self, a: Optional[int], b):\n        return {ADD.rsplit(' ', 3)[1]} + b",
        {"public_test_cases": json.dumps(FUNCTIONAL), "private_test_cases": PACKED, "metadata": '{"func_name": "add"}'},
    ),
    "LiveCodeBench, stdin": (
        SUM, {"public_test_cases": [{**LISTED[0], "testtype": "stdin"}], "private_test_cases": "[]", "metadata": "{}"},
    ),
    "CodeContests": (
        SUM,
        {
            "public_tests": {"input": ["1 2\n"], "output": ["3\n"]},
            "private_tests": {"input": [], "output": []},
            "generated_tests": {"input": ["5 5\n"], "output": ["10\n"]},
        },
    ),
    "verl": (SUM, {"reward_model": {"style": "rule", "ground_truth": json.dumps(STDIO)}}),
    "verl, by its answer": (SUM, {"answer": json.dumps(CALLS | {"fn_name": None, **STDIO})}),
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def _needs_sandbox() -> None:
    sandboxes.needs_sandbox()


def fenced(program: str) -> str:
    return f"<think>\n```python\n1 / 0\n```\n</think>\nSo:\n```python\n{program}\n```\nIt prints\n```\n3\n```\n"


def reward(program: str, columns: dict[str, Any]) -> float | None:
    return code_reward([fenced(program)], **{name: [value] for name, value in columns.items()})[0]


@pytest.mark.parametrize("name", ROWS)
def test_a_right_program_passes_and_a_wrong_one_does_not(name: str) -> None:
    program, columns = ROWS[name]
    assert reward(program, columns) == 1.0
    wrong = program.replace("sum(", "len(").replace("a + b", "a * b * 7").replace("PI *", "3 *")
    assert wrong != program
    assert reward(wrong, columns) == 0.0


def test_the_share_of_tests() -> None:
    three = {"inputs": ["1 2\n", "3 4\n", "0\n"], "outputs": ["3\n", "8\n", "0\n"]}
    assert code_share([fenced(SUM), fenced("1 / 0"), "no code at all"], tests=[three] * 3) == [2 / 3, 0.0, 0.0]
    assert code_reward([fenced(SUM)], tests=[three]) == [0.0]


@pytest.mark.parametrize(
    "cheat",
    [
        "import os\nos._exit(0)",
        "raise SystemExit(0)",
        "def add(a, b):\n    import os\n    os._exit(0)",
        "class Any:\n    def __eq__(self, other): return True\n    def __ne__(self, other): return False\n"
        "def add(a, b): return Any()",
        "class Any(int):\n    def __eq__(self, other): return True\n    __hash__ = int.__hash__\n"
        "def add(a, b): return Any()",
        "import builtins\nbuiltins.all = lambda x: True\nbuiltins.bool = lambda x=0: True\ndef add(a, b): return 0",
        "import json\njson.dumps = lambda *a, **k: '3'\ndef add(a, b): return 0",  # a guess is right for one test only
        "import sys\nfor frame in [sys._getframe(i) for i in range(2)]:\n    frame.f_locals.clear()\n"
        "def add(a, b): return sys._getframe(2).f_locals['expected']",
        "import gc\ndef add(*_): return next(x for x in gc.get_objects() if type(x) is dict and 'expected' in x)",
        'def add(a, b):\n    import os\n    for fd in range(4, 64):\n        try: os.write(fd, b\'{"ended": "ok", '
        '"stdout": "", "stderr": "", "value": "3"}\\n\')\n        except OSError: pass\n    os._exit(0)',
    ],
)
def test_programs_that_cheat_get_nothing(cheat: str) -> None:
    asserts = ["assert add(1, 2) == 3", "assert add(3, 4) == 7"]
    assert reward(cheat, {"test_list": asserts}) == 0.0
    assert reward(cheat, {"input_output": CALLS}) == 0.0


def test_a_test_that_takes_too_long_is_failed_in_time() -> None:
    with VerifierPool("code", workers=1, timeout=10) as pool:
        row = {"completion": fenced("while True: pass"), "tests": STDIO}
        assert pool.score([row])[0].reward == 0.0  # not an error, which the pool's own deadline would make of it


def test_a_row_without_tests_is_an_error_of_its_own() -> None:
    with VerifierPool("code", workers=1) as pool:
        bad, empty, good = pool.score(
            [{"completion": SUM, "x": 1}, {"completion": SUM, "tests": []}, {"completion": SUM, "tests": STDIO}]
        )
    assert bad.error == "code_reward: DataError: the row has no tests; docs/code.md lists the columns, found x"
    assert empty.error == "code_reward: DataError: column 'tests': expected a list of tests, got []"
    assert good.reward == 1.0


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("```python\na\n```\n```py\nb\n```", "b\n"),
        ("```python\na\n```\nOutput:\n```\nb\n```", "a\n"),
        ("```\na\n```\n```\nb\n```", "b\n"),
        ("```cpp\na\n```", ""),
        ("````python\ns = '''\n```\n'''\n````", "s = '''\n```\n'''\n"),
        ("~~~python\na\n~~~", "a\n"),
        ("1. First\n   ```python\n   a\n   ```", "   a\n"),
        ("```python\nnot closed", ""),
        ("print(1)", "print(1)"),
        ("", ""),
    ],
)
def test_which_code_counts(text: str, code: str) -> None:
    assert find_code(text) == code


@pytest.mark.parametrize(
    ("printed", "expected", "same"),
    [
        ("1 2\n", "1 2", True),
        ("1 2 \n\n", "1 2\n", True),
        ("1  2", "1 2", True),
        ("1\n2", "1 2", False),
        ("1\n\n2", "1\n2", False),
        ("0.3333333", "0.33333333", True),
        ("0.333", "0.33333333", False),
        ("2.0", "2", True),
        ("2.0000001", "2", False),
        ("10000000000000001", "10000000000000000", False),
        ("nan", "nan", True),
        ("inf", "1.0", False),
        ("YES", "Yes", False),
        ("", "", True),
    ],
)
def test_what_is_the_same_output(printed: str, expected: str, same: bool) -> None:
    assert same_output(printed, expected) is same


@pytest.mark.parametrize(
    ("value", "expected", "same"),
    [
        ((1, 2), [1, 2], True),
        ([1, 2], [2, 1], False),
        (0.1 + 0.2, 0.3, True),
        (1, 1.0, True),
        (True, 1, False),
        (1, True, False),
        ("1", 1, False),
        ({1: (2,)}, {"1": [2]}, True),
        ({1}, [1], False),
        (None, None, True),
        (float("nan"), 1.0, False),
    ],
)
def test_what_is_the_same_value(value: Any, expected: Any, same: bool) -> None:
    assert same_value(value, expected) is same


def test_private_tests_that_hold_more_than_text_are_not_unpickled(tmp_path: Path) -> None:
    mark = tmp_path / "ran"

    class Harm:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (mark,)

    packed = base64.b64encode(zlib.compress(pickle.dumps(Harm()))).decode()
    with pytest.raises(DataError, match="column 'private_test_cases': expected a list of tests"):
        read_tests({"private_test_cases": packed})
    assert not mark.exists()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"input_output": {"inputs": ["1"], "outputs": []}}, "lists 'inputs' and 'outputs' of one length"),
        ({"tests": "nonsense"}, "expected a list of tests, got 'nonsense'"),
        ({"tests": [{"input": "1"}]}, "expected a test with 'input' and 'output'"),
        ({"tests": [{"input": 1, "output": 2}]}, "expected text for standard input and output"),
        ({"tests": FUNCTIONAL}, "the row does not name it"),
        ({"tests": [{"input": "x", "output": "1", "fn_name": "f"}]}, "the arguments of 'f' are no JSON: 'x'"),
        ({"public_test_cases": "[]", "private_test_cases": "[]"}, "the row has no tests"),
    ],
)
def test_wrong_tests_are_named(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_tests(columns)


def test_rows_are_read_asked_and_checked(tmp_path: Path) -> None:
    starter = "def add(a, b):\n"
    rows = [
        {"question": "Add.", "solutions": json.dumps([SUM]), "input_output": STDIO, "starter_code": ""},
        {"text": "Add.", "code": ADD, "test_list": ["assert add(1, 2) == 3"]},
        {"question_content": "Add.", "starter_code": starter, "code": ADD, "tests": CALLS},
        {"prompt": f"{starter}    'Add.'\n", "canonical_solution": "    return a + b", "entry_point": "add",
         "test": "def check(f): assert f(1, 2) == 3"},
        {"description": "Add.", "public_tests": {"input": ["1 2"], "output": ["3"]},
         "solutions": {"language": [2, 3], "solution": ["int main() {}", SUM]}},
    ]  # fmt: skip
    file = tmp_path / "code.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    problems = load_problems(file)
    assert {verifier_for(problem) for problem in problems} == {"code"}
    assert [problem.prompt for problem in problems] == [
        "Add.",
        "Add.\n\nThe code must pass these tests:\n\nassert add(1, 2) == 3",
        "Add.\n\nStart from this code:\n\n```python\ndef add(a, b):\n```",
        f"{starter}    'Add.'\n",
        "Add.",
    ]
    with VerifierPool("code") as pool:
        report = check_data(problems, pool)
    assert (report.passed, report.n) == (5, 5)
