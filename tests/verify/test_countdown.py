"""Countdown's verifier: any text gets the right reward, in every accepted form of an answer."""

from fractions import Fraction

import pytest

from ibtpo.verify.countdown import countdown_reward, evaluate, find_expression


def score(text: str, numbers: list[int], target: int) -> float | None:
    return countdown_reward([text], numbers=[numbers], target=[target])[0]


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
