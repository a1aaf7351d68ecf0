"""Tasks of reasoning-gym by name: rows, splits, parameters, scorers, and every error that a source can give."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ibtpo.errors import ConfigError, DataError, DependencyError
from ibtpo.evaluation.gold_check import check_data
from ibtpo.tasks import reasoning_gym
from ibtpo.tasks.problems import load_problems, verifier_for
from ibtpo.verify.pool import VerifierPool
from ibtpo.verify.reasoning_gym import reasoning_gym_reward

needs_package = pytest.mark.skipif(
    not reasoning_gym.is_installed(), reason="needs the package reasoning-gym (pip install 'ibtpo[reasoning-gym]')"
)


@pytest.mark.parametrize(
    ("source", "parsed"),
    [
        ("reasoning_gym:countdown", ("countdown", "", {})),
        ("reasoning_gym:countdown:test", ("countdown", "test", {})),
        ("reasoning_gym:a:test,size=5,seed=2,x_y=0.5", ("a", "test", {"size": 5, "seed": 2, "x_y": 0.5})),
        ("reasoning_gym:a,words=[1,2],flag=true,s='a=b'", ("a", "", {"words": [1, 2], "flag": True, "s": "a=b"})),
    ],
)
def test_sources(source: str, parsed: tuple[str, str, dict[str, object]]) -> None:
    assert reasoning_gym.parse(source) == parsed


@pytest.mark.parametrize(
    "source", ["reasoning_gym:", "reasoning_gym:a,b", "reasoning_gym:a,b=[1", "reasoning_gym:,size=1"]
)
def test_sources_that_cannot_be_read(source: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read; write reasoning_gym:NAME or"):
        reasoning_gym.parse(source)


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    reasoning_gym.tasks.cache_clear()
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(
        DependencyError, match=r"^reasoning_gym:… needs the package 'reasoning_gym': pip install 'ibtpo\[rea"
    ):
        load_problems("reasoning_gym:countdown")
    reasoning_gym.tasks.cache_clear()


@needs_package
def test_splits_share_no_question() -> None:
    load = {split: load_problems(f"reasoning_gym:chain_sum:{split}", limit=40) for split in ("train", "test")}
    other = load_problems("reasoning_gym:chain_sum,seed=1", limit=40)
    train, test, more = ({problem.prompt for problem in problems} for problems in (*load.values(), other))
    assert (len(train), len(test), len(more)) == (40, 40, 40)
    assert not train & test
    assert not more & (train | test)
    again = load_problems("reasoning_gym:chain_sum", split="test", limit=40)
    assert [p.prompt for p in again] == [p.prompt for p in load["test"]]


@needs_package
def test_a_small_task_is_divided_by_the_questions_themselves() -> None:
    def questions(split: str, seed: int) -> set[str]:
        with pytest.raises(DataError, match=r"different questions for .* of the 40 that are wanted; ask for fewer"):
            load_problems(f"reasoning_gym:gcd:{split},min_value=1,max_value=6,size=40,seed={seed}")
        made = reasoning_gym.make_rows(
            f"reasoning_gym:gcd:{split},min_value=1,max_value=6,size=20,seed={seed}", "", 6, 0
        )
        return {row["question"] for row in made}

    assert not questions("train", 0) & questions("test", 1)


@needs_package
def test_parameters_and_size() -> None:
    problems = load_problems("reasoning_gym:chain_sum,min_terms=5,max_terms=5,size=7,seed=3")
    assert len(problems) == 7
    assert all(problem.prompt.count("+") + problem.prompt.count("-") >= 4 for problem in problems)
    assert verifier_for(problems[0]) == "reasoning_gym"


@needs_package
@pytest.mark.parametrize("task", ["countdown", "chain_sum", "list_functions", "knights_knaves", "spiral_matrix"])
def test_reference_answers_are_right_and_others_are_not(task: str) -> None:
    problems = load_problems(f"reasoning_gym:{task}", limit=3)
    with VerifierPool("reasoning_gym", workers=1) as pool:
        report = check_data(problems, pool)
    assert (report.passed, report.n, report.errors) == (3, 3, 0)
    assert not report.negative_accepted


@needs_package
def test_which_part_of_an_answer_is_scored() -> None:
    (problem,) = load_problems("reasoning_gym:chain_sum", limit=1)
    answer, wrong = problem.answer, "123456"
    texts = {
        f"<think>{wrong}</think>{answer}": 1.0,
        f"<think>{answer}</think>{wrong}": 0.0,
        f"It is {wrong}. <answer>{answer}</answer>": 1.0,
        rf"So \boxed{{{answer}}} it is": 1.0,
        "": 0.0,
    }
    column = [problem.columns["reasoning_gym"]] * len(texts)
    assert reasoning_gym_reward(list(texts), reasoning_gym=column) == list(texts.values())


@needs_package
def test_a_scorer_that_trips_over_an_answer_calls_it_wrong() -> None:
    (problem,) = load_problems("reasoning_gym:prime_factorization", limit=1)
    assert reasoning_gym_reward(["no idea"], reasoning_gym=[problem.columns["reasoning_gym"]]) == [0.0]


@needs_package
def test_another_question_from_the_same_seed_is_an_error() -> None:
    (problem,) = load_problems("reasoning_gym:knights_knaves", limit=1)
    column = json.loads(problem.columns["reasoning_gym"])
    assert "entry" not in column  # it holds more than literals, and is made again
    with pytest.raises(DataError, match="makes another question of it here; grade with the version that made the data"):
        reasoning_gym_reward(["x"], reasoning_gym=[json.dumps({**column, "key": "0" * 16})])


@needs_package
@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("reasoning_gym:countdwn", "unknown reasoning-gym task 'countdwn'; did you mean 'countdown'"),
        ("reasoning_gym:countdown:tset", "unknown split 'tset'; did you mean 'test'"),
        (
            "reasoning_gym:countdown,min_number=4",
            "unknown parameter of countdown 'min_number'; did you mean 'min_numbers'",
        ),
        ("reasoning_gym:countdown,min_numbers=9,max_numbers=2", "reasoning_gym:countdown refuses"),
        ("reasoning_gym:countdown,size=0", "size must be a whole number from 1 on, got 0"),
        ("reasoning_gym:countdown,seed=-1", "seed must be a whole number from 0 on, got -1"),
    ],
)
def test_wrong_sources(source: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_problems(source)


@needs_package
def test_verbs_take_a_task(call: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    code, out, err = call("check-data", "reasoning_gym:chain_sum:test,size=4", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["passed"] == 4
    trees = tmp_path / "trees.jsonl"
    code, _, err = call(
        "sample", "--model", "nano", "--data", "reasoning_gym:chain_sum", "--limit", "1", "--tree", "2,2,1,1",
        "--max_completion_length", "8", "--output", trees,
    )  # fmt: skip
    assert code == 0, err
    (line,) = trees.read_text().splitlines()
    assert "chain_sum-" in line
