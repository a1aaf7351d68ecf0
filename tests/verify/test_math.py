"""The math verifier: which answers are equal, and where a text says its answer.

`answers.jsonl` holds gold answers and completions by the kind of writing that they try, each with its right grade.
"""

import json
import threading
import time
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from ibtpo.errors import DataError
from ibtpo.verify.choice import choice_reward
from ibtpo.verify.extract import boxed_contents, explicit_answer, last_boxed
from ibtpo.verify.math import gold_text, math_reward
from ibtpo.verify.pool import VerifierPool

pytest.importorskip("math_verify")

ROWS = [json.loads(line) for line in (Path(__file__).parent / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
KINDS = {kind: list(rows) for kind, rows in groupby(ROWS, key=lambda row: row["kind"])}

RIGHT = [
    ("18", r"\boxed{18}"),
    ("18", "She makes 9 * 2 = $<<9*2=18>>18 every day.\n#### 18"),
    ("18", "The answer is 18."),
    ("18", "The answer is: 18 dollars. Hope this helps!"),
    ("18", "So she makes 18 dollars a day."),
    ("18", r"Answer: \boxed{18}"),
    ("18", "**Final Answer: 18**"),
    ("18", "**Answer:**\n\n18"),
    ("18.90", r"Hence it is $\$18.90$."),
    ("34", "Answer: $34$"),
    ("72", "the total is 48+24 = 72"),
    ("5", "我们得到答案是 $5$。"),
    ("5", "答案：5"),
    ("3", r"first \boxed{2}, no: \boxed{3}"),
    ("3", r"\boxed{3} and later an unfinished \boxed{4"),
    ("5", r"$\boxed 5$"),
    ("5", r"\boxed{x=\boxed{5}}"),
    ("4", r"\fbox{4}"),
    ("5", r"\boxed{x=5}"),
    ("x=5", r"\boxed{5}"),
    ("27", r"\boxed{27.0}"),
    ("1000", r"\boxed{1,000}"),
    (r"10,\!080", r"\boxed{10080}"),
    (r"10,\!080", r"\boxed{10, \!080}"),
    (r"\frac{1}{2}", r"\boxed{\dfrac12}"),
    (r"\frac{1}{2}", r"The answer is $\frac{1}{2}$."),
    (r"\frac{1}{2}", "The answer is:\n$$\n\\frac{1}{2}\n$$"),
    (r"\frac{3}{4}", "Thus\n\\[ x = \\frac{3}{4} \\]\n"),
    ("0.5", r"\boxed{1/2}"),
    (r"\frac13", r"\boxed{0.333333}"),
    (r"2007 + \frac\pi 2", r"\boxed{2007+\frac{\pi}{2}}"),
    (r"\left( 3, \frac{\pi}{2} \right)", r"\boxed{(3,\pi/2)}"),
    ("1,2", r"\boxed{2,1}"),
    (r"-2 \text{ or } -12", r"\boxed{-12,-2}"),
    (r"6, 8\text{, and }10", r"\boxed{6,8,10}"),
    (r"\{1,2\}", r"\boxed{\{2, 1\}}"),
    ("[0,1)", r"\boxed{[0, 1)}"),
    (r"11\sqrt2", r"\boxed{11\sqrt{2}}"),
    ("(x-1)(x+1)", r"\boxed{x^2-1}"),
    ("2x+3", r"\boxed{2x+3}."),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\boxed{\begin{bmatrix} 1 \\ 2 \end{bmatrix}}"),
    ("2516_8", r"\boxed{2516_{8}}"),
    ("2516_8", r"\boxed{2516}"),
    (r"864 \mbox{ inches}^2", r"\boxed{864}"),
    (r"5.4 \text{ cents}", r"\boxed{5.4}"),
    ("5", r"\boxed{5 m}"),
    ("5", r"\boxed{5\text{ m}}"),
    ("90", r"\boxed{90^\circ}"),
    (r"\$32.50", r"\boxed{32.5}"),
    (r"10\%", r"\boxed{10\%}"),
    (r"\text{Evelyn}", r"so \boxed{Evelyn}"),
    (r"\text{even}", r"\boxed{Even}"),
    (r"\text{(C)}", r"\boxed{C}"),
    ("C", r"\boxed{\textbf{(C)}}"),
    (r"8\!:\!34 \text{ p.m.}", r"\boxed{8:34 \text{ PM}}"),
]

WRONG = [
    ("18", ""),
    ("18", r"\boxed{}"),
    ("18", r"18 \boxed{}"),
    ("18", r"\boxed{18"),
    ("18", r"\boxed{19}"),
    ("18", r"\boxed{-18}"),
    ("18", r"\boxed{18} no \boxed{17}"),
    ("5", "#### 6\n"),
    ("5", "The answer is 6. I first had 5"),
    ("5", "The answer is 5 or 7."),
    ("7", "The answer is 5 or 7."),
    ("3", "The answer is about three"),
    ("5", r"\boxed{4, 5}"),
    ("5", r"\boxed{4; 5}"),
    ("5", r"\boxed{4 \text{ or } 5}"),
    ("9", r"\boxed{4 \quad 5}"),
    ("0.15", r"\boxed{\frac{3}{20} \equals 0.3 \times 10^{18}}"),
    ("0.75", r"\boxed{1 \mid \frac{3}{4}}"),
    ("3", r"\boxed{1 2}"),
    ("12", r"\boxed{1 2}"),
    ("7", r"\boxed{5 apples, 7 pears}"),
    ("5", r"\boxed{\pm 5}"),
    (r"\pm 5", r"\boxed{5}"),
    ("35", r"\boxed{3,5}"),
    ("123", r"\boxed{1,2,3}"),
    ("1,2", r"\boxed{1,2,3}"),
    ("(1,2)", r"\boxed{(2,1)}"),
    ("[1,2]", r"\boxed{(1,2)}"),
    ("[1,2)", r"\boxed{(1,2]}"),
    ("1.5", r"\boxed{15}"),
    ("5", r"\boxed{5!}"),
    ("11", r"\boxed{1_1}"),
    ("2516_8", r"\boxed{2516_7}"),
    (r"\pi", r"\boxed{3.14}"),
    (r"\frac13", r"\boxed{0.33}"),
    (r"\frac{1}{10000000}", r"\boxed{0.0}"),
    ("0.0000003", r"\boxed{0.0000004}"),
    ("1:2", r"\boxed{2:1}"),
    (r"\frac{2}{3}", r"\boxed{\frac{3}{2}}"),
    (r"2\sqrt{3}", r"\boxed{3\sqrt{2}}"),
    ("x^2+1", r"\boxed{x^2-1}"),
    ("x=5", r"\boxed{y=5}"),
    ("0", r"\boxed{2x - y - 18 = 0}"),
    (r"\infty", r"\boxed{-\infty}"),
    ("2t", r"\boxed{2}"),
    ("3", r"\boxed{3x}"),
    ("3c", r"\boxed{3}"),
    ("2", r"\boxed{2ab}"),
    ("5", r"\boxed{50\%}"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\boxed{\begin{pmatrix} 2 \\ 1 \end{pmatrix}}"),
    ("0", r"\boxed{\emptyset}"),
    ("1", r"\boxed{True}"),
    (r"\text{east}", r"\boxed{seat}"),
    ("east", r"\boxed{seat}"),
    ("LQSX", r"\boxed{QLSX}"),
    (r"\text{odd}", r"\boxed{even}"),
    (r"\text{(C)}", r"\boxed{D}"),
    (r"8\!:\!34 \text{ p.m.}", r"\boxed{8:34 \text{ a.m.}}"),
]


@pytest.mark.parametrize(("gold", "completion"), RIGHT)
def test_math_accepts_an_equal_answer(gold: str, completion: str) -> None:
    assert math_reward([completion], [gold]) == [1.0]


@pytest.mark.parametrize(("gold", "completion"), WRONG)
def test_math_rejects_a_wrong_or_missing_answer(gold: str, completion: str) -> None:
    assert math_reward([completion], [gold]) == [0.0]


def test_math_takes_numbers_conversations_and_rows_without_gold() -> None:
    box = r"\boxed{27}"
    chat = [{"role": "assistant", "content": box}]
    parts = [{"role": "assistant", "content": [{"type": "text", "text": box}]}]
    golds = [27, 27.0, None, "", float("nan"), r"so \boxed{27}"]
    assert math_reward([box, chat, box, box, box, parts], golds) == [1.0, 1.0, None, None, None, 1.0]


def test_math_works_off_the_main_thread() -> None:
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.extend(math_reward([r"\boxed{\frac{2}{4}}"], [r"\frac12"])))
    thread.start()
    thread.join()
    assert found == [1.0]


def test_boxes_are_found_whole_nested_and_past_unbalanced_braces() -> None:
    assert last_boxed(r"\boxed{\frac{1}{2}}") == r"\frac{1}{2}"
    assert last_boxed(r"{ { \boxed{1}") == "1"
    assert last_boxed(r"\boxed{\{1\}}") == r"\{1\}"
    assert last_boxed(r"\boxed{1") is None
    assert boxed_contents(r"\boxed{a} \boxed{b \boxed{c}}") == [(0, "a"), (10, r"b \boxed{c}"), (19, "c")]
    assert explicit_answer("#### 1\n#### 1,234 ") == "1,234"
    assert last_boxed("\\boxed{" * 50_000) is None


@pytest.mark.parametrize("kind", KINDS)
def test_answers_of_each_kind_get_the_grade_that_is_right(kind: str) -> None:
    rows = KINDS[kind]
    grades = math_reward([row["completion"] for row in rows], [row["gold"] for row in rows])
    wrong = [(row["gold"], row["completion"]) for row, grade in zip(rows, grades, strict=True) if grade != row["want"]]
    assert wrong == []


def test_a_number_of_json_is_the_number_that_was_written() -> None:
    golds = [1e-08, 1e16, 6.02e23, 1e-300, 27, 0.5]
    boxes = [
        r"\boxed{0.00000001}",
        r"\boxed{10^{16}}",
        r"\boxed{6.02\times10^{23}}",
        r"\boxed{0}",
        r"\boxed{27.0}",
        r"\boxed{½}",
    ]
    assert math_reward(boxes, golds) == [1.0, 1.0, 1.0, 0.0, 1.0, 1.0]


def test_a_list_of_one_is_its_element_and_what_else_is_no_text_is_refused() -> None:
    assert gold_text(["7"]) == gold_text(("7",)) == "7"
    with pytest.raises(DataError, match=r"must be text or a number, got list \['3', '5'\]; write an answer of several"):
        gold_text(["3", "5"])
    with pytest.raises(DataError, match="got dict"):
        math_reward([r"\boxed{7}"], [{"value": "7"}])


@pytest.mark.parametrize("verifier", ["math", "choice"])
def test_a_gold_answer_of_several_parts_is_an_error_of_its_row_only(verifier: str) -> None:
    golds: list[Any] = [["A", "B"], {"value": "A"}, "A", ["A"]]
    with VerifierPool(verifier, workers=1) as pool:
        verdicts = pool.score([{"prompt": "q", "completion": r"\boxed{A}", "answer": gold} for gold in golds])
    assert [verdict.reward for verdict in verdicts] == [None, None, 1.0, 1.0]
    assert "a gold answer must be text or a number, got list" in str(verdicts[0].error)
    assert "got dict" in str(verdicts[1].error)


# What once took minutes, or filled memory; each as an answer, and as all of a completion.
ENDLESS = {
    "a tower": "9^{9^{9^{9}}}",
    "a power": "10^{999999999}",
    "a factorial of a factorial": "((10!)!)!",
    "a binomial": r"\binom{10^9}{5\cdot10^8}",
    "parentheses": "(" * 500 + "5" + ")" * 500,
    "exponents": "x" + "^{x" * 30 + "}" * 30,
    "signs": "-" * 1500 + "5x",
    "a sum": "+".join(["1"] * 900),
    "percent signs": "5" + "%" * 800,
    "a union": r"[0,1]\cup" * 60 + "[0,2]",
    "an inequality": "x^{50}+x<1",
}


@pytest.mark.parametrize("answer", ENDLESS.values(), ids=ENDLESS)
def test_an_answer_that_would_take_minutes_is_wrong_at_once(answer: str) -> None:
    math_reward([r"\boxed{x+1}"], ["1+x"])  # imports what is needed
    begin = time.process_time()
    assert math_reward([rf"\boxed{{{answer}}}", f"The answer is {answer}."], ["7", "7"]) == [0.0, 0.0]
    assert math_reward([rf"\boxed{{{answer}}}"], ["x<1"]) == [0.0]
    assert time.process_time() - begin < 5


@pytest.mark.parametrize(
    "text", ["\n", " ", "#", "$", "{", "*", '"', "\\", " is", "the answer is ", "answer: ", "\\boxed{"]
)
@pytest.mark.parametrize("verifier", [math_reward, choice_reward])
def test_a_completion_that_repeats_itself_for_pages_takes_no_longer_for_it(verifier: Any, text: str) -> None:
    completion = text * (100_000 // len(text))
    begin = time.process_time()
    assert verifier([completion], ["B"]) == [0.0]
    assert time.process_time() - begin < 5


def test_a_long_answer_is_compared_as_text() -> None:
    long = "x+" * 1500 + "1"
    assert math_reward([rf"\boxed{{{long}}}", rf"\boxed{{{long}2}}"], [long, long]) == [1.0, 0.0]
