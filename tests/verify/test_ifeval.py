"""IFEval's verifier, with lm-eval's checkers; skipped without them or without NLTK's data."""

import json
import random
from pathlib import Path

import pytest

from helpers.places import DATA
from ibtpo.errors import DependencyError
from ibtpo.evaluation.evaluate import Answer
from ibtpo.evaluation.stored_answers import ifeval_accuracies
from ibtpo.tasks.problems import Problem
from ibtpo.verify import ifeval

try:
    ifeval.require()
    missing = None
except DependencyError as error:
    missing = str(error)
needs_checkers = pytest.mark.skipif(missing is not None, reason=str(missing))

NO_COMMA, LOWER = "punctuation:no_comma", "change_case:english_lowercase"
TWO = (json.dumps([NO_COMMA, "detectable_format:number_highlighted_sections"]), json.dumps([{}, {"num_highlights": 1}]))


@needs_checkers
@pytest.mark.parametrize(
    ("text", "levels"),
    [
        ("No comma and *one part*", [1.0, 1.0, 1.0, 1.0]),
        ("One comma, and *one part*", [0.0, 0.0, 0.5, 0.5]),
        ("Sure, here it is:\nNo comma and *one part*", [0.0, 1.0, 0.5, 1.0]),  # loose leaves the first line out
        ("neither, nor", [0.0, 0.0, 0.0, 0.0]),
        ("", [0.0, 0.0, 0.0, 0.0]),
    ],
)
def test_the_four_levels_of_an_answer(text: str, levels: list[float]) -> None:
    assert list(ifeval.check(text, *TWO).values()) == levels
    assert list(ifeval.check(text, *TWO)) == list(ifeval.LEVELS)


@needs_checkers
def test_the_functions_have_trls_signature_and_take_the_column_kwargs() -> None:
    row = {"instruction_id_list": [[NO_COMMA]], "kwargs": [[{}]], "key": [1], "prompts": ["p"]}
    assert ifeval.ifeval_reward(completions=["a b"], **row) == [1.0]
    assert ifeval.instruction_loose(completions=[[{"role": "assistant", "content": "a, b"}]], **row) == [0.0]


@needs_checkers
def test_an_answers_grade_is_the_same_every_time_and_leaves_randomness_alone() -> None:
    # lm-eval draws a letter at random for this one, and langdetect draws, too.
    row = (json.dumps(["keywords:letter_frequency", LOWER]),
           json.dumps([{"letter": "#", "let_frequency": 4, "let_relation": "at least"}, {}]))  # fmt: skip
    random.seed(5)
    expected = random.random()
    random.seed(5)
    found = []
    for _ in range(5):
        ifeval.check.cache_clear()
        found.append(ifeval.check("eeee tttt in a small sentence", *row))
    assert all(levels == found[0] for levels in found)
    assert random.random() == expected


@needs_checkers
def test_an_unknown_instruction_is_an_error_not_a_wrong_answer() -> None:
    with pytest.raises(ValueError, match="lm-eval knows no instruction 'no:such'"):
        ifeval.check("x", '["no:such"]', "[{}]")


@needs_checkers
def test_accuracies_weigh_prompts_alike_and_instructions_alike() -> None:
    problems = [
        Problem("a", "p", None, {"instruction_id_list": [NO_COMMA], "kwargs": [{}]}),
        Problem("b", "p", None, {"instruction_id_list": json.loads(TWO[0]), "kwargs": json.loads(TWO[1])}),
    ]
    answers = [
        Answer("a", 0, "no comma", 1.0, "eos", 1),
        Answer("a", 1, "a, comma", 0.0, "eos", 1),
        Answer("b", 0, "no comma", 0.0, "eos", 1),
        Answer("b", 1, "no comma", None, "eos", 1),  # its grade is unknown: left out
    ]
    found = ifeval_accuracies(answers, problems, workers=1)
    accuracy = {level: value["accuracy"] for level, value in found.items()}
    # prompts: a 1/2, b 0; instructions: a 1/2 of 1, b 1 of 2.
    assert accuracy == pytest.approx(
        {"prompt_strict": 0.25, "prompt_loose": 0.25, "instruction_strict": 0.5, "instruction_loose": 0.5}
    )
    assert all(value["ci"][0] <= value["accuracy"] <= value["ci"][1] for value in found.values())


@needs_checkers
@pytest.mark.skipif(not DATA.is_dir(), reason=f"the shared data sets are not at {DATA}")
def test_every_row_of_ifeval_can_be_checked(call, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (DATA / "ifeval_input_data.jsonl").open()]
    lines = [
        json.dumps(
            {
                "id": f"ifeval-{r['key']}",
                "draw": 0,
                "completion": "a short answer",
                "grade": None,
                "stop": "eos",
                "tokens": 3,
            }
        )
        for r in rows
    ]
    (tmp_path / "a.answers.jsonl").write_text("\n".join(lines))
    data = ["--benchmark", "ifeval", "--data", DATA / "ifeval_input_data.jsonl"]
    code, out, err = call("regrade", tmp_path / "a.answers.jsonl", *data, "--json", "--output", tmp_path / "e.json")
    assert code == 0, err
    record = json.loads(out)
    assert (record["n"], record["verifier_errors"]) == (541, 0)
    assert list(record["levels"]) == list(ifeval.LEVELS)
    assert record["levels"]["prompt_strict"]["accuracy"] == record["avg"]


def test_without_the_checkers_the_message_names_what_to_install(monkeypatch) -> None:
    monkeypatch.setattr(ifeval, "find_spec", lambda name: None)
    with pytest.raises(DependencyError, match=r"needs lm-eval; install it with: pip install 'ibtpo\[ifeval\]'"):
        ifeval.require()
