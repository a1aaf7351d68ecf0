"""The folder that the malformed cases run in, with a tiny model and good files beside the bad ones.

conftest.py makes the fixtures here known to every test.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.malformed_cases import GOOD_TREE, ROW

LONGEST = 1500  # characters of a message; a user must be able to read it

# Runs the command line in this process and gives the exit code, the standard output and the standard error.
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A folder with good files, a tiny model, reward functions, and modules that cannot be imported.

    It is made once for all tests of a module; they must not write into it.
    """
    folder = tmp_path_factory.mktemp("stage")
    (folder / "good.jsonl").write_text(ROW)
    (folder / "trees.jsonl").write_text(GOOD_TREE)
    (folder / "raises_when_imported.py").write_text("1 / 0\n")
    (folder / "exits_when_imported.py").write_text("raise SystemExit(7)\n")
    (folder / "letters.py").write_text(LETTERS)
    for name in ("folder", "folder.yaml"):
        (folder / name).mkdir()
    (folder / "tiny").symlink_to(tiny_model)
    return folder


LETTERS = """
import time

def more_a(completions, **columns):
    return [float(c.count("a") > c.count("b")) for c in completions]

def hang(completions, **columns):
    time.sleep(60)

def fail(completions, **columns):
    raise ValueError("no such unit")

def seven(completions, **columns):
    return [1.0] * 7

def half(completions, **columns):
    if completions[0].count("a") > completions[0].count("b"):
        raise ValueError("no such unit")
    return [1.0]
"""


@pytest.fixture
def place(stage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh working folder with everything that `stage` has; its modules can be imported."""
    for item in stage.iterdir():
        (tmp_path / item.name).symlink_to(item.resolve())
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(stage))
    return tmp_path


def write(folder: Path, files: dict[str, bytes | str | None]) -> None:
    """Writes files by their names; one whose content is None is made as a folder."""
    for name, content in files.items():
        if content is None:
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


def assert_one_message(code: int, err: str, message: str, expected_code: int = 2) -> None:
    """Asserts that a command failed with one readable line of error, and without a traceback.

    code: its exit code.
    err: its standard error.
    message: a regular expression that the line must hold.
    """
    assert code == expected_code, err[-2000:]
    assert err.startswith("error: "), err[-2000:]
    assert err.count("\n") == 1
    assert err.endswith("\n")
    assert "Traceback" not in err
    assert re.search(message, err), err[:2000]
    # The message may repeat what the user typed, but not page after page of it; only the cases of 5000 nines do.
    assert len(err) <= LONGEST + 5000 * ("9" * 4000 in err), len(err)


def letters(place: Path, n: int = 4) -> None:
    """Writes `q.jsonl`: n problems, each a single letter that the tiny model knows, for the functions of `LETTERS`."""
    (place / "q.jsonl").write_text(
        "".join(json.dumps({"id": f"q{i}", "question": "abcdefgh"[i]}) + "\n" for i in range(n))
    )
