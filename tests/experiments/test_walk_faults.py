"""Why answers to walks fail: the first fault of an answer decides, and what is right is what the verifier says."""

import sys
from pathlib import Path

import pytest

from ibtpo.tasks.walk import DONE, gold_answer, make_problems
from ibtpo.tree import ReasoningTree, Step

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments" / "walk_faults"))

import count

PROBLEM = (10, 22, [7, 3, 1, -9, -2])


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("+7 = 17.\n\n+3 = 20.\n\n", "eos", "form"),  # ends without a last word
        ("+7 = 17.\n\n+7 = 24.\n\n-2 = 22.\n\nDone.", "eos", "right"),
        ("+7 = 17.\n\n+3 = 20.\n\nDone.", "eos", "lost"),
        ("+7 = 17.\n\nStuck.", "eos", "lost"),
        ("+7 = 18.\n\n+4 = 22.\n\nDone.", "eos", "sum"),  # the first fault: the second move is not offered either
        ("+5 = 15.\n\n+7 = 23.\n\nDone.", "eos", "move"),
        ("-9 = 1.\n\n-2 = -1.\n\n", "eos", "form"),  # no value of a walk is below 0
        ("".join(f"+1 = {value}.\n\n" for value in range(11, 20)), "eos", "many"),  # nine moves
        ("+7 = 17.\n\n+3", "length", "cut"),
        ("+7 = 17.\n\n+3", "eos", "form"),
    ],
)
def test_the_first_fault_of_an_answer(text: str, stop: str, expected: str) -> None:
    assert count.fault(text, stop, *PROBLEM) == expected


def answer(row: dict, text: str, reward: float) -> ReasoningTree:
    """A tree of one answer of one step to a walk."""
    tree = ReasoningTree(row["id"], (1,))
    tree.add(0, [Step((2,), text, (-1.0,))], reward, "eos")
    return tree


def test_shares_follow_the_problem_in_the_trees_id() -> None:
    rows = make_problems("test", 20)
    trees = [answer(row, gold_answer(row), 1.0) for row in rows] + [answer(row, DONE, 0.0) for row in rows]
    found = count.shares(trees)
    assert found["right"] == 0.5
    assert found["lost"] == 0.5
    assert sum(found.values()) == 1


def test_a_count_that_contradicts_the_verifier_is_an_error() -> None:
    row = make_problems("test", 1)[0]
    with pytest.raises(ValueError, match=r"walk-.* is right, but its reward is 0"):
        count.shares([answer(row, gold_answer(row), 0.0)])
