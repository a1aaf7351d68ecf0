"""GSM8K's problems and worked solutions, as the warm-up and the training read them.

A worked solution becomes an answer in steps: a blank line between two steps, and the last line `#### 18`, which the
verifier `math` reads as the final answer. What GSM8K wrote for a calculator (`<<48/2=24>>`) is taken out.
"""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ibtpo._seeds import stable_hash
from ibtpo.tasks.walk import make_problems
from ibtpo.verify.math import explicit_answer

_CALCULATOR = re.compile(r"<<[^<>]*>>")

Row = dict[str, Any]


def solution_steps(solution: str) -> list[str]:
    """The steps of a worked solution: its lines without the calculator's annotations, the line `####` left out."""
    lines = (_CALCULATOR.sub("", line).strip() for line in solution.splitlines())
    return [line for line in lines if line and not line.startswith("####")]


def written_answer(steps: Sequence[str], answer: str) -> str:
    """The answer that a model is taught to write: the steps and `#### answer`, a blank line between any two."""
    return "\n\n".join([*steps, f"#### {answer}"])


def read_gsm8k(path: Path, most_steps: int) -> list[Row]:
    """The problems of a GSM8K file whose worked solution has at most so many steps, each question once.

    path: JSON Lines with `question` and the worked solution in `solution` or, as GSM8K itself has it, in `answer`; `id`
        may be there, too.
    most_steps: the most steps a solution may have; fewer steps are easier.

    Returns rows of id, question, answer and `text`, the answer that a model is taught to write.
    Raises `ValueError` for a row whose solution states no answer.
    """
    rows, questions = [], set()
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        row = json.loads(line)
        solution = row.get("solution") or row["answer"]
        answer = explicit_answer(solution)
        if answer is None:
            raise ValueError(f"{path}, line {number}: the solution has no line that starts with ####")
        steps = solution_steps(solution)
        if len(steps) > most_steps or row["question"] in questions:
            continue
        questions.add(row["question"])
        answer = answer.replace(",", "")
        name = row.get("id") or f"{path.stem}-{number}"
        rows.append({"id": name, "question": row["question"], "answer": answer, "text": written_answer(steps, answer)})
    return rows


def split_rows(train: Sequence[Row], test: Sequence[Row], warm_up: int) -> dict[str, list[Row]]:
    """Splits problems into those of the warm-up, those to train on and those to measure on; no question is in two.

    train: rows of the training split, some of which are taught in the warm-up.
    test: rows of the test split.
    warm_up: how many are taught.

    Returns the rows by name: "warm_up", "train", "held_out". They are shuffled by a hash of their ids, which depends on
    nothing else.
    """
    shuffled = sorted(train, key=lambda row: stable_hash(row["id"]))
    held_out = sorted(test, key=lambda row: stable_hash(row["id"]))
    questions = {row["question"] for row in shuffled}
    return {
        "warm_up": shuffled[:warm_up],
        "train": shuffled[warm_up:],
        "held_out": [row for row in held_out if row["question"] not in questions],
    }


def write_made_up(path: Path, problems: int, seed: int) -> None:
    """Writes problems of the embedded task in GSM8K's form, for trying the whole way where GSM8K is not."""
    rows = []
    for walk in make_problems("train", problems, seed):
        start, target = walk["start"], walk["target"]
        step = f"{start} + {target - start} = <<{start}+{target - start}={target}>>{target}."
        rows.append({"question": walk["question"], "answer": f"{step}\n#### {target}"})
    write_rows(path, rows)


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Writes rows as JSON Lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def read_rows(path: Path) -> list[Row]:
    """Reads rows from JSON Lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
