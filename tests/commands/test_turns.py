"""`--environment` in the verbs: answers of several turns, the environment's own reward, and runs that go on."""

import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ibtpo.cli import main
from ibtpo.tree import read_trees

pytest.importorskip("torch")

ENVIRONMENT = '''
class Twice:
    """Asks a second time, with what was said so far."""

    def reset(self, answer=None, **row):
        self.turns = []

    def respond(self, message):
        self.turns.append(message["content"])
        return f"{len(self.turns[0]) % 10}\\n" if len(self.turns) < 2 else None

    def get_reward(self):
        return float(len(self.turns) == 2)


class Again(Twice):
    pass


def mute():
    class Mute(Twice):
        get_reward = None

    return Mute()
'''


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """No verb leaves an environment's thread behind."""
    yield
    until = time.monotonic() + 10
    while (left := [t for t in threading.enumerate() if t.name == "ibtpo-environment"]) and time.monotonic() < until:
        time.sleep(0.02)
    assert left == []


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "twice.py").write_text(ENVIRONMENT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


COMMON = ["--model", "nano", "--data", "walk", "--limit", "2", "--environment", "twice:Twice", "--quiet"]


def test_sample_grows_trees_of_turns_with_the_environments_reward(here: Path, capsys: Any) -> None:
    told = [*COMMON, "--tree", "3,3,1,1", "--max-completion-length", "80", "--output", "t.jsonl"]
    assert main(["sample", *told]) == 0
    trees = list(read_trees("t.jsonl"))
    assert len(trees) == 2
    for tree in trees:
        assert tree.meta["verifier"] == "environment"
        assert tree.meta["environment_factory"] == "twice:Twice"
        assert tree.meta["environment"]["restored_by"] == "copy"
        assert tree.given_tokens > 0
        for i, leaf in enumerate(tree.leaves):
            observations = sum(1 for n in tree.path(leaf.node) if tree.nodes[n].step.given)
            assert observations <= 1
            assert leaf.reward == float(observations == 1 and leaf.stop == "eos"), i
    capsys.readouterr()
    assert main(["sample", *told, "--resume", "--environment", "twice:Again"]) == 2
    assert "environment_factory is 'twice:Again', but 'twice:Twice' in" in capsys.readouterr().err


def test_diagnose_refuses_trees_of_another_environment(here: Path, capsys: Any) -> None:
    told = [*COMMON, "--tree", "3,3,1,1", "--max-completion-length", "80", "--output", "found"]
    assert main(["diagnose", *told]) == 0
    (file,) = (here / "found" / "trees").iterdir()
    assert [tree.meta["environment_factory"] for tree in read_trees(file)] == ["twice:Twice"] * 2
    assert main(["diagnose", *told, "--resume"]) == 0  # all are there
    capsys.readouterr()
    assert main(["diagnose", *told, "--resume", "--environment", "twice:Again"]) == 2
    assert "environment_factory is 'twice:Again', but 'twice:Twice' in" in capsys.readouterr().err


def test_eval_counts_sampled_tokens_of_all_turns(here: Path, capsys: Any) -> None:
    assert main(["eval", *COMMON, "--k", "2", "--max-completion-length", "80", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verifier"] == "environment"
    assert found["environment"] == "twice:Twice"
    assert 0 <= found["avg"] <= 1
    assert found["tokens"] > 0


def test_compare_branching_grows_trees_of_turns_in_every_arm(here: Path, capsys: Any) -> None:
    options = ["--tree", "3,3,1,1", "--max-completion-length", "80", "--pool", "12", "--arms", "ib", "random"]
    assert main(["compare", "branching", *COMMON, *options, "--output", "out"]) == 0
    summary = json.loads((here / "out" / "summary.json").read_text())
    assert summary["environment"] == "twice:Twice"
    files = sorted((here / "out" / "trees").iterdir())
    assert [f.name.split(".")[0] for f in files] == ["ib", "independent", "random"]
    for file in files:
        for tree in read_trees(file):
            assert tree.given_tokens > 0
            assert tree.meta["environment_factory"] == "twice:Twice"
            for leaf in tree.leaves:
                answered = sum(tree.nodes[n].step.given for n in tree.path(leaf.node))
                assert leaf.reward == float(answered == 1 and leaf.stop == "eos")


def test_a_wrong_environment_is_one_line(here: Path, capsys: Any) -> None:
    for path, message in (("twice:nothing", "cannot load environment"), ("builtins:dict", "has no method reset")):
        assert main(["eval", *COMMON, "--environment", path, "--k", "1"]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.slow
def test_train_takes_an_environment_from_its_recipe_and_measures_with_it(here: Path, capsys: Any) -> None:
    import ibtpo

    run = ibtpo.train(
        model="nano", data="walk", eval_data="walk:test", eval_limit=2, eval_k=2, limit=8, environment="twice:Twice",
        prompts_per_step=2, tree="2,3,1,1", num_generations=4, max_steps=2, max_completion_length=80,
        output=str(here / "run"), save_trees_every=1, report_to="none", max_environments=6,
    )  # fmt: skip
    trees = list(read_trees(next(iter(sorted((here / "run" / "trees").glob("*.jsonl*"))))))
    assert all(tree.meta["environment"]["name"] == "Twice" for tree in trees)
    assert all(leaf.reward in (0.0, 1.0) for tree in trees for leaf in tree.leaves)
    assert run.before is not None
    assert run.after is not None
    rows = [json.loads(line) for line in (here / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["tools/call_frequency"] > 0


ENGINE = """
import re

from helpers.tool_model import Script, ScriptEngine, call


def said(text, number):
    guesses = re.findall(r'"number": (\\d+)', text.partition("</tools>")[2])
    return "Done." if len(guesses) == 2 else f"{number} " + call("guess", number=len(guesses) + number)


def open_engine(model, tokenizer, **options):
    return ScriptEngine(Script(tokenizer, said))
"""


@pytest.mark.slow
def test_methods_are_tools_on_the_command_line_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trl")
    from helpers.tool_model import make_tool_model

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "examples" / "turns"))
    (tmp_path / "spoken.py").write_text(ENGINE)
    (tmp_path / "data.jsonl").write_text('{"question": "Find it.", "secret": 1}\n')
    model = str(make_tool_model(tmp_path / "model"))
    told = ["--model", model, "--data", "data.jsonl", "--engine", "spoken:open_engine", "--environment", "guess:Guess"]
    assert main(["sample", *told, "--tree", "2,3,1,1", "--max-completion-length", "900", "--output", "t.jsonl"]) == 0
    (tree,) = read_trees("t.jsonl")
    assert "Guesses the number." in tree.prompt
    assert tree.prompt.count("The number is from 1 to 100.") == 1
    assert tree.meta["environment"]["calls"] >= 4
    assert tree.meta["environment"]["failures"] == 0
    for i, leaf in enumerate(tree.leaves):
        guesses = [int(n) for n in re.findall(r'"number": (\d+)', tree.completion_text(i))]
        assert len(guesses) == 2
        assert leaf.reward == (1 / 2 if 1 in guesses else 0.0)
    assert 0.5 in {leaf.reward for leaf in tree.leaves}


def test_the_example_referee_has_wrong_answers_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "examples" / "turns"))
    told = ["--model", "nano", "--data", "walk", "--limit", "4", "--environment", "referee:Referee", "--quiet"]
    out = str(tmp_path / "turns.jsonl")
    assert main(["sample", *told, "--tree", "3,3,1,1", "--max-completion-length", "120", "--output", out]) == 0
    trees = list(read_trees(out))
    rewards = []
    for tree in trees:
        for i, leaf in enumerate(tree.leaves):
            given = [n for n in tree.path(leaf.node) if tree.nodes[n].step.given]
            assert all(tree.nodes[n].step.text.strip() == tree.prompt.strip() for n in given)
            last = re.findall(r"= (-?\d+)\.", tree.completion_text(i))
            if leaf.stop == "eos" and leaf.reward:
                assert last[-1] == tree.answer
                assert leaf.reward == (0.5 if given else 1.0)
            rewards.append(leaf.reward)
    assert {0.0, 1.0} <= set(rewards)
