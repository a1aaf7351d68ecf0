"""The user's own functions by dotted path: what is loaded, where it is looked for, and what is said when it is not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ibtpo._extras import child_environment, find_modules_here, load_object
from ibtpo.credit import CreditOptions, find_advantage
from ibtpo.errors import ConfigError
from ibtpo.search import SearchOptions, find_rule
from ibtpo.steps import make_splitter
from ibtpo.verify.worker import load

MINE = """
NUMBER = 3

def rule(tree, k, options, seed):
    return []

def split(pieces):
    return [len(pieces)]

def advantage(tree, options):
    return [[0.0] * len(tree.path(leaf.node)) for leaf in tree.leaves]

def reward(completions, **columns):
    return [1.0] * len(completions)
"""


@pytest.fixture
def own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`mytask.py` and `mypkg/tasks.py`, with one function of each kind, and a module that cannot be imported."""
    (tmp_path / "mytask.py").write_text(MINE)
    (tmp_path / "mypkg").mkdir()
    (tmp_path / "mypkg" / "tasks.py").write_text(MINE)
    (tmp_path / "halved.py").write_text("x = 1\ny = x / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("mytask", "mypkg", "mypkg.tasks", "halved"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


@pytest.mark.parametrize("module", ["mytask", "mypkg.tasks"])
def test_every_kind_of_function_is_loaded_by_the_same_path(module: str, own_code: Path) -> None:
    loaded = [
        find_rule(f"{module}:rule"),
        make_splitter(f"{module}:split"),
        find_advantage(f"{module}:advantage"),
        load(f"{module}:reward"),
        load(f"{module}.reward"),
    ]
    assert [f.__module__ for f in loaded] == [module] * 5
    assert [f.__name__ for f in loaded] == ["rule", "split", "advantage", "reward", "reward"]
    options = SearchOptions(branching=f"{module}:rule", splitter=f"{module}:split")
    assert options.splitter == f"{module}:split"
    assert CreditOptions(advantage=f"{module}:advantage").advantage == f"{module}:advantage"


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("nowhere_xyz:f", "ModuleNotFoundError: No module named 'nowhere_xyz'"),
        ("mytask:missing", "'missing' does not exist in module 'mytask' ({folder}/mytask.py)"),
        ("mytask:NUMBER", "'NUMBER' is int, not callable"),
        ("halved:f", "ZeroDivisionError: division by zero (at {folder}/halved.py:2)"),
        ("sys:nothing", "'nothing' does not exist in module 'sys' (built into Python)"),
    ],
)
def test_what_cannot_be_loaded_is_named_with_its_kind_and_the_reason(path: str, why: str, own_code: Path) -> None:
    reason = why.format(folder=own_code)
    for kind, find in (
        ("branching rule", find_rule),
        ("splitter", make_splitter),
        ("advantage", find_advantage),
        ("reward function", load),
    ):
        with pytest.raises(ConfigError) as error:
            find(path)
        assert str(error.value) == f"cannot load {kind} {path!r}: {reason}"
    with pytest.raises(ConfigError, match=r"^cannot load engine 'mytask:missing': "):
        load_object("mytask:missing", "engine")


def test_a_built_in_kind_of_splitter_wins_over_a_module_of_its_name(own_code: Path) -> None:
    (own_code / "delimiter.py").write_text(MINE)
    assert make_splitter("delimiter:split")(["a", "split", "b"]) == [2, 3]


def test_the_current_folder_is_looked_in_once(own_code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    elsewhere = [p for p in sys.path if p not in ("", str(here))]
    for before, after in (
        (elsewhere, [str(here), *elsewhere]),
        ([*elsewhere, str(here)], [*elsewhere, str(here)]),
        (["", *elsewhere], ["", *elsewhere]),
    ):
        monkeypatch.setattr(sys, "path", list(before))
        find_modules_here()
        assert sys.path == after


def test_a_child_process_finds_the_modules_of_this_one(own_code: Path, tmp_path: Path) -> None:
    code = "import mytask; print(mytask.__file__)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], env=child_environment(), cwd=os.sep, capture_output=True, text=True
    )
    assert done.stdout.strip() == str(tmp_path / "mytask.py")


def test_a_child_process_finds_modules_in_a_folder_with_a_colon(
    own_code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "a:b"
    here.mkdir()
    (here / "in_colon.py").write_text(MINE)
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "path", ["", str(here), *sys.path])
    code = "import in_colon, mytask; print(in_colon.NUMBER, in_colon.__file__)"
    done = subprocess.run([sys.executable, "-P", "-c", code], env=child_environment(), capture_output=True, text=True)
    assert done.stdout.strip() == f"3 {here / 'in_colon.py'}", done.stderr
