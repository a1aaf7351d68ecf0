"""Arithmetic word problems with their calculations: GSM8K, and MAWPS, ASDiv-A and SVAMP as SVAMP's repository has them.

An answer is written as calculations, one a step, and a last line that the verifier `math` reads as the final answer:

    26+7=33

    61-33=28

    #### 28

GSM8K has the calculations in its worked solutions, between << and >>; the others have an equation, whose operations are
carried out one by one. A model of 135M parameters learns far more from a few thousand of these than from sentences, and
an answer of four steps has 30 tokens.
"""

import csv
import json
import operator
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ibtpo._seeds import stable_hash
from ibtpo.tasks.walk import make_problems
from ibtpo.verify.math import explicit_answer

FILES = {"train": ("gsm8k_train*.jsonl", "mawps-asdiv-a.csv"), "test": ("gsm8k_test*.jsonl", "SVAMP.json")}
_CALCULATION = re.compile(r"<<([^<>=]+=[^<>=]+)>>")
_OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
_DECIMALS = 2  # problems with finer numbers are left out

Row = dict[str, Any]


def make_row(name: str, question: str, calculations: Sequence[str], answer: str) -> Row:
    """A row: id, question, answer, how many calculations there are, and `text`, the answer that a model is taught."""
    text = "\n\n".join([*calculations, f"#### {answer}"])
    return {"id": name, "question": question, "answer": answer, "calculations": len(calculations), "text": text}


def read_gsm8k(path: Path) -> Iterator[Row]:
    """The problems of a GSM8K file whose last calculation gives the answer.

    path: JSON Lines with `question` and the worked solution in `solution` or, as GSM8K itself has it, in `answer`; `id`
        may be there, too.

    Raises `ValueError` for a row whose solution states no answer.
    """
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        row = json.loads(line)
        solution = row.get("solution") or row["answer"]
        answer = explicit_answer(solution)
        if answer is None:
            raise ValueError(f"{path}, line {number}: the solution has no line that starts with ####")
        answer = answer.replace(",", "")
        calculations = [found.replace(" ", "") for found in _CALCULATION.findall(solution)]
        if calculations and calculations[-1].split("=")[1] == answer:
            yield make_row(row.get("id") or f"{path.stem}-{number}", row["question"], calculations, answer)


def read_mawps_asdiv(path: Path) -> Iterator[Row]:
    """The problems of `data/mawps-asdiv-a_svamp/train.csv`: the numbers stand apart, the equation is in prefix form."""
    with path.open(newline="", encoding="utf-8") as file:
        for number, row in enumerate(csv.DictReader(file)):
            question, tokens = row["Question"], row["Equation"].split()
            for i, value in enumerate(row["Numbers"].split()):
                question = re.sub(rf"\bnumber{i}\b", written(float(value)), question)
                tokens = [value if token == f"number{i}" else token for token in tokens]
            question = re.sub(r" ([.,?!'])", r"\1", question).replace("$ ", "$")
            yield from _row_of_equation(f"mawps-asdiv-{number}", question, tokens, float(row["Answer"]))


def read_svamp(path: Path) -> Iterator[Row]:
    """The problems of `SVAMP.json`, whose equation is in brackets throughout."""
    for row in json.loads(path.read_text(encoding="utf-8")):
        question = f"{row['Body'].strip().rstrip('.')}. {row['Question'].strip()}"
        yield from _row_of_equation(row["ID"], question, prefix(row["Equation"].split()), float(row["Answer"]))


def _row_of_equation(name: str, question: str, tokens: Sequence[str], answer: float) -> Iterator[Row]:
    """The row of a problem, or nothing where the equation does not give the answer or a number is too fine."""
    found = carry_out(tokens)
    if found is not None and abs(found[0] - answer) < 1e-6 and found[1]:
        yield make_row(name, question, found[1], written(answer))


def prefix(infix: Sequence[str]) -> list[str]:
    """An equation in brackets, `( ( 4 + 13 ) * 15 )` by tokens, in prefix form: `* + 4 13 15`."""
    waiting: list[list[str]] = [[]]
    for token in infix:
        if token == "(":
            waiting.append([])
        elif token == ")":
            *left, right = waiting.pop()
            waiting[-1].append(" ".join([left[1], left[0], right]))
        else:
            waiting[-1].append(token)
    return " ".join(waiting[0]).split()


def carry_out(tokens: Sequence[str]) -> tuple[float, list[str]] | None:
    """The value of an equation in prefix form and its calculations in the order in which they can be made.

    Returns None where a number has more than two decimals, or a division is by 0.
    """
    calculations: list[str] = []
    values: list[float] = []
    for token in reversed(tokens):  # so that the operands of an operation are known before it
        if token in _OPERATIONS:
            left, right = values.pop(), values.pop()
            if token == "/" and right == 0:
                return None
            value = _OPERATIONS[token](left, right)
            calculations.append(f"{written(left)}{token}{written(right)}={written(value)}")
        else:
            value = float(token)
        if abs(round(value, _DECIMALS) - value) > 1e-9:
            return None
        values.append(value)
    return values[0], calculations


def written(value: float) -> str:
    """A number as people write it: 40, 14.02."""
    return f"{value:.{_DECIMALS}f}".rstrip("0").rstrip(".")


def read_problems(folder: Path, split: str) -> list[Row]:
    """All problems of a split, "train" or "test", each question once.

    folder: holds the files of `FILES`; those of SVAMP's repository may be absent.
    """
    gsm8k, other = (sorted(folder.glob(pattern)) for pattern in FILES[split])
    read_other = read_mawps_asdiv if split == "train" else read_svamp
    rows = [row for path in gsm8k for row in read_gsm8k(path)] + [row for path in other for row in read_other(path)]
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(row["question"], row)
    return list(first.values())


def split_rows(train: Sequence[Row], test: Sequence[Row], warm_up: int, longest: int) -> dict[str, list[Row]]:
    """Splits problems into those of the warm-up, those to train on and those to measure on; no question is in two.

    train: rows of the training split, some of which are taught in the warm-up.
    test: rows of the test split.
    warm_up: how many problems of one calculation are taught, and how many longer ones.
    longest: the most calculations of a problem. Those of one calculation are taught only: a tree has nowhere to branch.

    Returns the rows by name: "warm_up", "train", "held_out". They are shuffled by a hash of their ids, which depends on
    nothing else.
    """
    shuffled = sorted(train, key=lambda row: stable_hash(row["id"]))
    short = [row for row in shuffled if row["calculations"] == 1]
    long = [row for row in shuffled if 1 < row["calculations"] <= longest]
    held_out = sorted(test, key=lambda row: stable_hash(row["id"]))
    questions = {row["question"] for row in train}
    return {
        "warm_up": short[:warm_up] + long[:warm_up],
        "train": long[warm_up:],
        "held_out": [r for r in held_out if r["question"] not in questions and 1 < r["calculations"] <= longest],
    }


def write_made_up(path: Path, problems: int, seed: int) -> None:
    """Writes problems of the embedded task in GSM8K's form, for trying the whole way where GSM8K is not."""
    rows = []
    for walk in make_problems("train", problems, seed):
        start, target = walk["start"], walk["target"]
        first = f"{start}+1={start + 1}"
        second = f"{start + 1}+{target - start - 1}={target}"
        rows.append({"question": walk["question"], "answer": f"<<{first}>>\n<<{second}>>\n#### {target}"})
    write_rows(path, rows)


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Writes rows as JSON Lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def read_rows(path: Path) -> list[Row]:
    """Reads rows from JSON Lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
