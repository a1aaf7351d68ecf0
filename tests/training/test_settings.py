"""Settings of `ibtpo train`: values become what the options hold, or an error."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

from ibtpo.errors import ConfigError
from ibtpo.search import Budget
from ibtpo.training import settings as st


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("learning_rate", "1e-6", 1e-6),
        ("learning_rate", 1, 1.0),
        ("prompts_per_step", 4, 4),
        ("limit", None, None),
        ("eval_before", False, False),
        ("bf16", True, True),
        ("run_name", 7, "7"),
        ("model", Path("a") / "b", str(Path("a") / "b")),
        ("reward_weights", [1, "5e-1"], [1.0, 0.5]),
        ("verifier", "math", "math"),
        ("verifier", ("math", "choice"), ["math", "choice"]),
        ("report_to", ["tensorboard"], ["tensorboard"]),
        ("report_to", "none", "none"),
        ("lr_scheduler_kwargs", {"a": 1}, {"a": 1}),
        ("lora", {"r": 8}, {"r": 8}),
        ("save_strategy", "no", "no"),
        ("tree", [2, 2, 1, 1], "2,2,1,1"),
        ("tree", (2, 2, 1, 1), "2,2,1,1"),
        ("tree", "2,2,1,1", "2,2,1,1"),
    ],
)
def test_values_become_what_the_option_holds(name: str, value: Any, expected: Any) -> None:
    found = st.resolve({name: value}, {})[name]
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("learning_rate", "fast", "learning_rate must be a number, got 'fast'"),
        ("learning_rate", True, "learning_rate must be a number, got True"),
        ("learning_rate", float("inf"), "learning_rate must be a finite number, got inf"),
        ("learning_rate", None, "learning_rate needs a value, got none"),
        ("prompts_per_step", 1.5, "prompts_per_step must be an integer, got 1.5"),
        ("prompts_per_step", True, "prompts_per_step must be an integer, got True"),
        ("eval_before", "yes", "eval_before must be true or false, got 'yes'"),
        ("model", ["a"], r"model must be text, got \['a'\]"),
        ("verifier", {"a": 1}, r"verifier must be text or a list, got \{'a': 1\}"),
        ("reward_weights", ["much"], "each of reward_weights must be a number, got 'much'"),
        ("lora", 8, r"lora must be a mapping such as \{key: value\}, got 8"),
    ],
)
def test_a_value_that_does_not_fit_is_named(name: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        st.resolve({name: value}, {})


def test_several_verifiers_may_be_listed_in_words() -> None:
    run, _ = st.split(st.resolve({"verifier": "math, mytask:format"}, {}))
    assert run.verifiers == ["math", "mytask:format"]
    assert run.needs_answers
    run, _ = st.split(st.resolve({"verifier": ["mytask:format"]}, {}))
    assert not run.needs_answers
    run, _ = st.split(st.resolve({}, {}))
    assert (run.verifiers, run.needs_answers) == ([], True)


def test_the_end_of_a_run_can_be_put_off_and_nothing_else_changed() -> None:
    run = st.resolve({"max_generated_tokens": 1000, "seed": 3}, {})
    assert st.prolong(run, {}, Path("run")) == run
    longer = st.prolong(run, {"max_generated_tokens": 2000}, Path("run"))
    assert longer == {**run, "max_generated_tokens": 2000}
    for changes, message in (
        ({"seed": 4}, r"--resume takes the settings of run; leave out \['seed'\]"),
        ({"max_generated_tokens": 999}, "max_generated_tokens was 1000, and the end of a run can only be put off"),
        ({"max_generated_tokens": None}, "can only be put off; got None"),
        ({"max_steps": 10}, "the run in run ends by max_generated_tokens, max_steps cannot prolong it"),
    ):
        with pytest.raises(ConfigError, match=message):
            st.prolong(run, changes, Path("run"))


def test_a_run_without_a_stated_end_has_that_of_trl() -> None:
    run = st.resolve({}, {})
    assert st.prolong(run, {"num_train_epochs": 5}, Path("run"))["num_train_epochs"] == 5.0
    with pytest.raises(ConfigError, match=r"num_train_epochs was 3.0, and the end"):
        st.prolong(run, {"num_train_epochs": 2}, Path("run"))


def test_every_option_is_described_with_its_default() -> None:
    described = {name: (default, help) for name, default, help in st.describe()}
    assert described["ib_beta"][0] == 5.0
    assert "TRL's KL weight" in described["ib_beta"][1]
    assert "ifeval" in described["verifier"][1]
    assert described["verifier_timeout"][0] == 30.0
    assert set(described) <= set(st.known_settings())


def test_a_flat_method_of_a_recipe_takes_the_recipe_s_own_group_size() -> None:
    resolved = st.resolve({"method": "grpo", "num_generations": 16}, {})
    assert (resolved["num_generations"], resolved["tree"]) == (16, "16,1,1,1")
    over = st.resolve({"num_generations": 12, "tree": "4,9,1,1"}, {"method": "grpo"})
    assert (over["num_generations"], over["tree"]) == (8, "8,1,1,1")


def test_a_flat_method_with_an_adaptive_rule_has_the_tree_that_is_given() -> None:
    recipe = {"num_generations": 12, "tree": "4,9,1,1"}
    adaptive = {"method": "grpo", "branching": "independent_adaptive"}
    found = st.resolve(recipe, adaptive)
    assert [found[k] for k in ("branching", "tree", "num_generations", "advantage")] == [
        "independent_adaptive", "4,9,1,1", 12, "grpo",
    ]  # fmt: skip
    assert "tree" not in st.resolve({}, adaptive)
    run, trainer = st.split(st.resolve({}, adaptive))
    config = st.make_config(run, trainer, Path("run"))
    assert (config.num_generations, config.budget()) == (12, Budget(4, 9))
    # The rule of a recipe goes before its method's preset, as every key of a recipe does.
    assert st.resolve({**recipe, **adaptive}, {})["tree"] == "4,9,1,1"
    assert st.resolve({**recipe, "branching": "independent_adaptive"}, {"method": "grpo"})["tree"] == "8,1,1,1"
