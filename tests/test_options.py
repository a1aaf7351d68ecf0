"""The one table of options: every class, the command line and the trainer's configuration say what its rows say."""

import argparse
import dataclasses
import json
import math
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from helpers.places import GOLDEN
from helpers.searches import options as search_options
from helpers.searches import prompts
from ibtpo._options import DOTTED, OPTIONS, pick, todays_names
from ibtpo.branching import BRANCHING
from ibtpo.compare.branching_arms import arm_options
from ibtpo.credit import CreditOptions
from ibtpo.engines import Sampling
from ibtpo.errors import ConfigError
from ibtpo.score import ScoreOptions
from ibtpo.search import Budget, SearchOptions
from ibtpo.storage.tree_file import check_same
from ibtpo.tree import ReasoningTree, read_trees, write_trees
from ibtpo.verify.outcome import TIMEOUT, WORKERS

CLASSES = (ScoreOptions, CreditOptions, Sampling, SearchOptions)


@pytest.mark.parametrize("cls", CLASSES)
def test_fields_have_type_default_and_choices_of_their_row(cls: Any) -> None:
    hints = get_type_hints(cls)
    for f in dataclasses.fields(cls):
        if f.name in OPTIONS:
            row = OPTIONS[f.name]
            assert (f.default, type(row.default)) == (row.default, hints[f.name]), f.name
            assert f.metadata == {"help": row.text}, f.name


def test_the_rows_name_the_rules_there_are() -> None:
    assert set(OPTIONS["branching"].choices) == {*BRANCHING, DOTTED}
    assert Budget.parse(OPTIONS["tree"].default) == Budget()
    for name in ("value", "weight"):
        for choice in OPTIONS[name].choices:
            assert getattr(ScoreOptions(**{name: choice}), name) == choice
    for name in ("advantage", "prefix_weight"):
        for choice in OPTIONS[name].choices:
            if choice != DOTTED:
                assert getattr(CreditOptions(**{name: choice}), name) == choice
    assert (TIMEOUT, WORKERS) == (30.0, 2)
    assert OPTIONS["max_completion_length"].default == 2048


def test_the_trainers_configuration_and_the_command_line_come_from_the_same_rows() -> None:
    pytest.importorskip("trl")
    from ibtpo.cli import make_parser
    from ibtpo.commands import sample
    from ibtpo.training.config import IBTPOConfig

    rows = {f.name: f for f in dataclasses.fields(IBTPOConfig) if f.name in OPTIONS}
    assert set(rows) == set(OPTIONS)
    for name, f in rows.items():
        assert f.default == (None if name == "tree" else OPTIONS[name].default), name
        assert f.metadata["help"].startswith(OPTIONS[name].help), name
    actions = {a.dest: a for a in make_parser("sample", sample)._actions if a.help != argparse.SUPPRESS}
    found = {name: actions[name] for name in OPTIONS if name in actions}
    assert set(OPTIONS) - set(found) == {"advantage", "lam", "ib_on_uniform_trees", "prefix_weight"}
    for name, action in found.items():
        assert action.default == OPTIONS[name].default
        assert OPTIONS[name].text in (action.help or "")


def test_options_are_picked_by_name_and_what_is_given_goes_first() -> None:
    source = argparse.Namespace(ib_beta=2.0, weight="unique", other=1)
    assert pick(ScoreOptions, source) == ScoreOptions(ib_beta=2.0, weight="unique")
    assert pick(ScoreOptions, source, ib_beta=3.0) == ScoreOptions(ib_beta=3.0, weight="unique")


# --- former names --------------------------------------------------------------------------------------------------


def test_beta_is_ib_beta_with_a_warning(call) -> None:
    today = call("score", GOLDEN / "three_leaf.jsonl", "--json", "--ib-beta", 2)
    code, out, err = call("score", GOLDEN / "three_leaf.jsonl", "--json", "--beta", 2)
    assert today == (code, out, "")
    assert err == "warning: --beta is called --ib-beta now\n"
    assert json.loads(out) != json.loads(call("score", GOLDEN / "three_leaf.jsonl", "--json")[1])


def test_max_new_tokens_is_max_completion_length_with_a_warning(call, tmp_path: Path) -> None:
    words = ["sample", "--model", "m", "--data", "d", "--output", tmp_path / "t.jsonl"]
    code, _, err = call(*words, "--max-new-tokens", 0)
    assert code == 2
    assert err.splitlines() == [
        "warning: --max-new-tokens is called --max-completion-length now",
        "error: max_completion_length must be >= 1, got 0",
    ]


@pytest.mark.parametrize("verb", [["score"], ["view"], ["sample"], ["diagnose"], ["compare", "branching"]])
def test_former_names_are_in_no_help_text(call, verb: list[str]) -> None:
    _, out, _ = call(*verb, "--help")
    assert "--ib-beta" in out
    assert "--beta" not in out
    assert "--max-new-tokens" not in out


def test_an_arm_may_still_say_beta() -> None:
    base = SearchOptions()
    assert arm_options("ib,beta=1", base) == arm_options("ib,ib_beta=1", base)
    assert arm_options("ib,ib_beta=1", base).score.ib_beta == 1.0


def test_a_tree_stored_under_former_names_goes_on_under_todays(tmp_path: Path) -> None:
    options = search_options(score=ScoreOptions(ib_beta=3.0))
    (prompt,) = prompts(1)
    tree = ReasoningTree(prompt.id, prompt.ids, prompt.text)
    stored = json.loads(json.dumps(dataclasses.asdict(options)))
    stored["max_new_tokens"], stored["score"]["beta"] = (
        stored.pop("max_completion_length"),
        stored["score"].pop("ib_beta"),
    )
    tree.meta["search"] = stored
    write_trees(tmp_path / "t.jsonl", [tree])
    (old,) = read_trees(tmp_path / "t.jsonl")
    check_same(old, [prompt], options, {}, tmp_path / "t.jsonl")
    with pytest.raises(ConfigError, match=r"score.ib_beta is 4.0, but 3.0 in"):
        check_same(old, [prompt], search_options(score=ScoreOptions(ib_beta=4.0)), {}, tmp_path / "t.jsonl")


def test_todays_names_leave_everything_else_alone() -> None:
    stored = {"score": {"beta": 2, "value": "draws"}, "max_new_tokens": 7, "x": [1], "y": math.inf}
    assert todays_names(stored) == {
        "score": {"ib_beta": 2, "value": "draws"},
        "max_completion_length": 7,
        "x": [1],
        "y": math.inf,
    }
