"""Answers read back and graded again."""

import json
from pathlib import Path

import pytest

from ibtpo.errors import DataError
from ibtpo.evaluation.evaluate import Answer
from ibtpo.evaluation.stored_answers import answer_lines, read_answers

ANSWERS = [
    Answer("q0", 0, r"so \boxed{1}", 1.0, "eos", 5),
    Answer("q0", 1, r"so \boxed{2}", 1.0, "eos", 5),  # a wrong grade, to be found
    Answer("q1", 0, "a\u2028b \\boxed{1}", None, "length", 7),
    Answer("q1", 1, r"\boxed{7}", 0.0, "eos", 3),
]


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    (tmp_path / "q.jsonl").write_text(
        "".join(json.dumps({"id": f"q{i}", "question": "?", "answer": "1"}) + "\n" for i in range(3))
    )
    (tmp_path / "eval.answers.jsonl").write_text(answer_lines(ANSWERS), encoding="utf-8")
    return tmp_path


def test_stored_answers_are_read_as_they_were(stored: Path) -> None:
    assert read_answers(stored / "eval.answers.jsonl") == ANSWERS


def test_a_byte_order_mark_before_answers_or_their_result_is_no_part_of_them(call, stored: Path) -> None:
    file, record = stored / "eval.answers.jsonl", stored / "eval.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert read_answers(file) == ANSWERS
    record.write_text(json.dumps({"data": str(stored / "q.jsonl"), "verifier": "math"}), encoding="utf-8-sig")
    code, out, _ = call("regrade", file, "--verifier-workers", 1)
    assert (code, "changed grades: 2 of 4" in out) == (0, True)


def test_regrade_tells_what_changed_and_stores_it(call, stored: Path) -> None:
    words = ["--data", stored / "q.jsonl", "--verifier-workers", 1]
    code, out, err = call("regrade", stored / "eval.answers.jsonl", *words, "--output", stored / "new.json")
    assert (code, err) == (0, "")
    assert "changed grades: 2 of 4 (1.0 -> 0.0: 1, - -> 1.0: 1)" in out
    assert "  q0, draw 1: 1.0 -> 0.0\n" in out
    assert [a.grade for a in read_answers(stored / "new.answers.jsonl")] == [1.0, 0.0, 1.0, 0.0]
    record = json.loads((stored / "new.json").read_text())
    assert (record["avg"], record["pass"], record["k"], record["n"]) == (0.5, 1.0, 2, 2)
    assert (record["changed"], record["verifier"], record["tokens"]) == (2, "math", 20)
    again = call("regrade", stored / "new.answers.jsonl", "--verifier-workers", 1)  # new.json names the problems
    assert again[0] == 0
    assert "changed grades: 0 of 4\n" in again[1]
    assert call("regrade", stored / "eval.answers.jsonl", *words, "--output", stored / "new.json")[0] == 2


def test_a_problem_with_fewer_answers_counts_by_those_it_has(call, stored: Path) -> None:
    (stored / "eval.answers.jsonl").write_text(answer_lines(ANSWERS[:3]), encoding="utf-8")
    words = ["--data", stored / "q.jsonl", "--verifier-workers", 1, "--json"]
    record = json.loads(call("regrade", stored / "eval.answers.jsonl", *words)[1])
    assert (record["avg"], record["k"], record["n"]) == (0.75, 2, 2)


GOOD = {"id": "q0", "draw": 0, "completion": "x", "grade": None, "stop": "eos", "tokens": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty; expected one answer a line"),
        (json.dumps(GOOD) + "\n[1]\n", "line 2: expected an object with named fields, got list"),
        (json.dumps(GOOD)[:-3] + "\n", "line 1: not valid JSON"),
        (json.dumps({**GOOD, "draw": "0"}), "line 1, field 'draw': got '0'"),
        (json.dumps({**GOOD, "grade": True}), "line 1, field 'grade': got True"),
        (json.dumps({k: v for k, v in GOOD.items() if k != "stop"}), "line 1: no field 'stop'; expected id, draw,"),
        (json.dumps(GOOD) + "\n" + json.dumps(GOOD), "line 2: draw 0 of 'q0' is in line 1 already"),
    ],
)
def test_a_malformed_answers_file_is_one_message_with_its_line(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(DataError) as error:
        read_answers(tmp_path / "a.jsonl")
    assert str(error.value).startswith(str(tmp_path / "a.jsonl"))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("files", "words", "message"),
    [
        ({}, [], "no eval.json next to eval.answers.jsonl names the problems; give --benchmark or --data"),
        ({"eval.json": "{"}, [], "eval.json: not valid JSON"),
        ({"eval.json": "[]"}, [], "eval.json: expected an object"),
        (
            {"p.jsonl": '{"id": "z", "question": "?", "answer": "1"}'},
            ["--data", "p.jsonl"],
            "answer 1: no problem 'q0' in p.jsonl",
        ),
        ({"eval.answers.jsonl": b"\xff"}, [], "eval.answers.jsonl: byte 1 is not UTF-8"),
    ],
)
def test_what_regrade_cannot_do_is_told(call, stored: Path, monkeypatch, files, words, message) -> None:
    monkeypatch.chdir(stored)
    for name, content in files.items():
        (stored / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    code, _, err = call("regrade", "eval.answers.jsonl", *words)
    assert (code, message in err) == (2, True), err
    assert call("regrade", "none.jsonl")[0] == 2
