"""The embedded task, its verifier, and the embedded model's format and strength."""

from fractions import Fraction
from pathlib import Path

import pytest

from ibtpo.errors import ConfigError, DataError
from ibtpo.tasks import countdown
from ibtpo.verify.countdown import countdown_reward, evaluate, find_expression

NANO = Path(countdown.__file__).parents[1] / "assets" / "nano"


def score(text: str, numbers: list[int], target: int) -> float | None:
    return countdown_reward([text], numbers=[numbers], target=[target])[0]


# --- the task


def test_no_key_is_in_both_splits_and_a_tenth_is_in_test() -> None:
    train, test = set(countdown.keys("train")), set(countdown.keys("test"))
    assert not train & test
    assert train | test == set(countdown.reachable_keys())
    assert 0.08 < len(test) / (len(train) + len(test)) < 0.12


def test_the_split_of_known_keys_never_changes() -> None:
    assert (len(countdown.keys("train")), len(countdown.keys("test"))) == (2746, 305)
    assert countdown.split_of((1, 2, 9, 9)) == "test"


def test_the_order_in_which_numbers_are_shown_does_not_move_a_key_to_another_split() -> None:
    for split in ("train", "test"):
        for problem in countdown.make_problems(split, 300):
            assert countdown.split_of((*sorted(problem["numbers"]), problem["target"])) == split


def test_every_gold_answer_of_both_splits_scores_one() -> None:
    for split in ("train", "test"):
        problems = [countdown.problem(key) for key in countdown.keys(split)]
        texts = [countdown.gold_answer(problem) for problem in problems]
        columns = {name: [problem[name] for problem in problems] for name in ("numbers", "target")}
        assert countdown_reward(texts, **columns) == [1.0] * len(problems)


def test_same_seed_gives_the_same_problems_and_another_seed_gives_others() -> None:
    first = countdown.make_problems("train", 50, seed=3)
    assert first == countdown.make_problems("train", 50, seed=3)
    assert first != countdown.make_problems("train", 50, seed=4)
    assert len({problem["id"] for problem in first}) == 50


def test_a_problem_shows_its_numbers_and_target() -> None:
    problem = countdown.make_problems("test", 1, seed=0)[0]
    a, b, c = problem["numbers"]
    assert problem["question"] == f"Use {a}, {b} and {c} to make {problem['target']}.\n"
    assert problem["id"] == f"countdown-{a}-{b}-{c}-{problem['target']}"
    assert problem["answer"] == str(problem["target"])


def test_a_step_reads_as_two_operations_and_a_blank_line() -> None:
    attempt = countdown.Attempt(3, "*", 7, "-", 2, pair_first=True)
    assert attempt.step() == "3 * 7 = 21, 21 - 2 = 19.\n\n"
    assert attempt.expression() == "(3 * 7) - 2"
    assert countdown.Attempt(2, "*", 3, "-", 15, pair_first=False).step() == "2 * 3 = 6, 15 - 6 = 9.\n\n"


def test_two_equal_numbers_have_the_legal_attempts_counted_by_hand() -> None:
    # 1, 1, 1 have 6 orders. The pair makes 2, 0 or 1; + - * with the third, either side. Illegal: 1 - 2 and 0 - 1.
    assert len(countdown.legal_attempts((1, 1, 1))) == 6 * (18 - 2)
    assert {attempt.value for attempt in countdown.legal_attempts((1, 1, 1))} == {0, 1, 2, 3}


def test_wrong_requests_say_what_is_there() -> None:
    with pytest.raises(ConfigError, match="did you mean 'test'"):
        countdown.make_problems("tests", 1)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="asked for 306 countdown problems, split 'test' has 305"):
        countdown.make_problems("test", 306)
    with pytest.raises(DataError, match="5 cannot be made from"):
        countdown.gold_answer({"numbers": [1, 1, 1], "target": 5})


# --- the verifier


@pytest.mark.parametrize(
    "text",
    [
        "Answer: (3 * 7) - 2",
        "3 * 7 = 22, 22 - 2 = 20.\n\nAnswer: (3 * 7) - 2",  # a step lies; only the answer line decides
        "Answer: none\n\nAnswer: 7*3-2",  # the last answer counts
        "so the result is \\boxed{7 \\times 3 - 2}",
        "<think>Answer: 3 + 7</think> <answer>3 * 7 - 2 = 19</answer>",
        "**Answer:** none\n\nAnswer: -2 + (7 × 3).",
        "**Answer:** `7 * 3 - 2`",
        "**Answer: 7 * 3 - 2**</s>",
        "Answer: \\boxed{7\\cdot 3 - 2}.",
    ],
)
def test_right_answers_score_one_in_every_accepted_form(text: str) -> None:
    assert score(text, [3, 7, 2], 19) == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Answer:",
        "Answer: none",
        "Answer: 19",  # the target itself
        "Answer: 3 * 7 - 3 + 1",  # numbers that were not given
        "Answer: 3 * 7 - 2 - 2 + 2",  # a number used three times
        "Answer: 2 * 7 + 3 + 2",  # a number used twice
        "Answer: 7 * 2 + 5",  # 3 unused, 5 not given
        "Answer: (3 * 7) - 1",  # off by one
        "Answer: (3 + 7) * 2",  # right numbers, makes 20
        "(3 * 7) - 2",  # no answer line
        "Answer: (3 * 7) - 2\nAnswer: none",  # the last answer counts
        "Answer: (3 * 7) - 2 / 0",
        "Answer: 3 * 7 -",
        "Answer: 3 7 2",
        "Answer: 3 * 7 - 2 apples",
        "Answer: 3 ** 7 - 2",
        "Answer: ٣ * 7 - 2",  # Arabic-Indic three
        "Answer: ³ * 7 - 2",
        "Answer: " + "(" * 400 + "3 * 7 - 2" + ")" * 400,
        "Answer: " + "(" * 100_000,
        "Answer: " * 15_000,
        "\\boxed{" * 15_000,
        "<answer>" * 15_000,
        "x" * 100_000,
        "9" * 100_000,
        "Answer: " + "9" * 100_000,
        "Answer: __import__('os').system('true')",
        "\x00\ud800 Answer: \ud800",
    ],
)
def test_wrong_answers_and_garbage_score_zero(text: str) -> None:
    assert score(text, [3, 7, 2], 19) == 0.0


def test_division_is_exact_and_any_count_of_numbers_is_accepted() -> None:
    assert score("Answer: 8 / (3 - 8 / 3)", [3, 3, 8, 8], 24) == 1.0  # 8 / (1/3)
    assert score("<answer>(1 + 2) * 3 * 4 - 5</answer>", [1, 2, 3, 4, 5], 31) == 1.0
    assert score("Answer: 1 / 3 * 3", [1, 3, 3], 1) == 1.0
    assert score("Answer: 33333333 / 99999999", [33333333, 99999999], 0) == 0.0


def test_a_row_without_numbers_or_target_is_none_not_zero() -> None:
    assert countdown_reward(["Answer: 1", "Answer: 1"], numbers=[[1], None], target=[None, 1]) == [None, None]
    assert countdown_reward(["Answer: 1"]) == [None]
    assert countdown_reward(["Answer: 1"], numbers=[[1]], answer=["1"]) == [1.0]
    assert countdown_reward(["Answer: 1"], numbers=["junk"], target=["junk"]) == [None]


def test_conversational_completions_are_read_from_their_last_message() -> None:
    message = [{"role": "assistant", "content": "Answer: 1 + 2"}]
    rows = [message, [], [{"role": "assistant", "content": None}]]
    assert countdown_reward(rows, numbers=[[1, 2]] * 3, target=[3] * 3) == [1.0, 0.0, 0.0]


def test_expressions_evaluate_left_to_right_with_precedence() -> None:
    assert evaluate("7 - 2 - 1") == (Fraction(4), [7, 2, 1])
    assert evaluate("8 / 2 / 2") == (Fraction(2), [8, 2, 2])
    assert evaluate("1 + 2 * 3") == (Fraction(7), [1, 2, 3])
    assert evaluate("-(1 - 3) / 4") == (Fraction(1, 2), [1, 3, 4])
    assert evaluate("1 2") is None
    assert find_expression("a\nAnswer: 1 + 2 = 3.\n") == "1 + 2"


# --- the model


@pytest.fixture(scope="module")
def tokenizer():  # type: ignore[no-untyped-def]
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(NANO)


def test_any_text_survives_the_tokenizer(tokenizer) -> None:  # type: ignore[no-untyped-def]
    for text in (
        countdown.make_problems("test", 1)[0]["question"]
        + countdown.gold_answer(countdown.make_problems("test", 1)[0]),
        "  héllo , world !  漢字 007 100 .\n\n\n  x\t",
    ):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode("Answer: none") == tokenizer.encode("Answer: none", add_special_tokens=False)


def test_tokens_of_prompt_and_answer_are_those_of_the_whole(tokenizer) -> None:  # type: ignore[no-untyped-def]
    for problem in countdown.make_problems("train", 100):
        question, answer = problem["question"], countdown.gold_answer(problem)
        assert tokenizer.encode(question) + tokenizer.encode(answer) == tokenizer.encode(question + answer)
        assert len(tokenizer.encode(question)) == 9


def test_the_model_folder_is_complete_and_small() -> None:
    files = {path.name: path.stat().st_size for path in NANO.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "README.md"} <= set(files)
    assert sum(files.values()) < 6_000_000


def test_the_model_answers_between_15_and_35_percent_of_test_problems(tokenizer) -> None:  # type: ignore[no-untyped-def]
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(NANO).eval()
    assert model.dtype == torch.float32
    problems = countdown.make_problems("test", 305)
    ids = tokenizer([problem["question"] for problem in problems], return_tensors="pt")
    torch.manual_seed(0)
    with torch.no_grad():
        out = model.generate(**ids, max_new_tokens=144, do_sample=True, temperature=1.0, top_p=1.0, top_k=0)
    texts = tokenizer.batch_decode(out[:, ids["input_ids"].shape[1] :], skip_special_tokens=True)
    rewards = countdown_reward(texts, numbers=[p["numbers"] for p in problems], target=[p["target"] for p in problems])
    assert 0.15 < sum(r or 0 for r in rewards) / len(rewards) < 0.35
    steps = sum(len(text.split("\n\n")) for text in texts) / len(texts)
    assert 4.5 < steps < 8
