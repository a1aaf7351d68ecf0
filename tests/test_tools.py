"""The Python tool: what a model is shown of a run, and the form in which TRL and chat templates take it."""

import pytest

from helpers import sandboxes
from ibtpo.errors import DependencyError
from ibtpo.sandbox import Limits
from ibtpo.tools import python, python_tool


@pytest.fixture(autouse=True)
def _needs_sandbox() -> None:
    sandboxes.needs_sandbox()


def test_what_a_model_is_shown() -> None:
    tool = python_tool(Limits(seconds=1, patience=3))
    assert tool("x = 3\nprint('hi')\nx ** 2") == "hi\n9"
    assert tool("None") == ""
    assert tool("1 / 0").endswith("ZeroDivisionError: division by zero")
    assert tool("print(1)\nwhile True: pass") == "TimeoutError: the program took more than 1 s"
    assert tool("import os\nos.abort()") == "the program was ended by SIGABRT"
    assert tool("import socket\nsocket.socket()").endswith("PermissionError: [Errno 1] Operation not permitted")


def test_a_long_result_loses_its_middle() -> None:
    text = python_tool(most_characters=20)("print('a' * 1000 + 'b' * 1000)")
    assert text == "aaaaaaaaaa\n… 1980 characters left out …\nbbbbbbbbbb"


def test_nothing_is_kept_between_calls() -> None:
    assert python("x = 1\nopen('kept', 'w').write('x')") == "1"
    assert "NameError" in python("x")
    assert "FileNotFoundError" in python("open('kept')")


def test_a_chat_template_is_told_of_it() -> None:
    from transformers.utils import get_json_schema

    for tool in (python, python_tool()):
        schema = get_json_schema(tool)["function"]
        assert schema["name"] == "python"
        assert schema["parameters"]["required"] == ["code"]
        assert schema["parameters"]["properties"]["code"]["type"] == "string"


def test_it_is_not_made_where_code_cannot_be_isolated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(DependencyError, match="bubblewrap"):
        python_tool()
