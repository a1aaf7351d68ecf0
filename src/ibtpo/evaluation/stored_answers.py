"""Answers that `ibtpo eval` stored: read, written, and graded again without sampling."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from ..tasks.problems import Problem
from ..verify import Verifier
from ..verify.ifeval import LEVELS
from ..verify.pool import VerifierPool
from .evaluate import Answer
from .statistics import bootstrap_interval

_BATCH = 512
_TYPES = {"id": str, "draw": int, "completion": str, "grade": float | int | None, "stop": str, "tokens": int}


def answer_lines(answers: Sequence[Answer]) -> str:
    """JSON Lines of answers, as `eval.answers.jsonl` holds them; a grade that is unknown is null."""
    rows = [{**asdict(a), "grade": None if a.grade is None or math.isnan(a.grade) else a.grade} for a in answers]
    return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def read_answers(path: Path) -> list[Answer]:
    """The answers of a file. Raises `DataError` naming file, line and field."""
    try:
        # Not splitlines(): an answer may hold a line separator that JSON leaves as it is.
        lines = path.read_text(encoding="utf-8").split("\n") if path.is_file() else None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start + 1} is not UTF-8") from error
    if lines is None:
        raise DataError(f"{path} is no file; name the eval.answers.jsonl that `ibtpo eval --output` wrote")
    answers: list[Answer] = []
    seen: dict[tuple[str, int], int] = {}
    for number, line in enumerate(lines, 1):
        if line.strip():
            answers.append(answer := _answer(f"{path}, line {number}", line))
            if (first := seen.setdefault((answer.id, answer.draw), number)) != number:
                raise DataError(
                    f"{path}, line {number}: draw {answer.draw} of {answer.id!r} is in line {first} already"
                )
    if not answers:
        raise DataError(f"{path} is empty; expected one answer a line")
    return answers


def _answer(at: str, line: str) -> Answer:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{at}: not valid JSON: {error}") from error
    if not isinstance(row, dict):
        raise DataError(f"{at}: expected an object with named fields, got {type(row).__name__}")
    for field in fields(Answer):
        if field.name not in row:
            raise DataError(f"{at}: no field {field.name!r}; expected {', '.join(_TYPES)}, as `ibtpo eval` writes them")
        value = row[field.name]
        if not isinstance(value, _TYPES[field.name]) or isinstance(value, bool):
            raise DataError(f"{at}, field {field.name!r}: got {value!r:.80}")
    return Answer(**{name: row[name] for name in _TYPES})


def regrade(answers: Sequence[Answer], problems: Mapping[str, Problem], verifier: Verifier) -> list[Answer]:
    """(A,) the same answers with the grades that `verifier` gives them now. problems: by id, one for each answer.

    The verifier is given the bare question as prompt, not the text that a chat template made of it.
    """
    rows = [
        {**p.columns, "answer": p.answer, "prompt": p.prompt, "completion": a.completion}
        for a, p in ((a, problems[a.id]) for a in answers)
    ]
    verdicts = [v for at in range(0, len(rows), _BATCH) for v in verifier.score(rows[at : at + _BATCH])]
    return [
        replace(a, grade=None if v.error is not None else v.per_function[0])
        for a, v in zip(answers, verdicts, strict=True)
    ]


def by_problem(answers: Sequence[Answer]) -> list[list[Answer]]:
    """The answers of each problem, problems in the order in which they first occur."""
    found: dict[str, list[Answer]] = {}
    for answer in answers:
        found.setdefault(answer.id, []).append(answer)
    return list(found.values())


def ifeval_accuracies(
    answers: Sequence[Answer], problems: Sequence[Problem], *, workers: int = 2, timeout: float = 10.0, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Accuracy and 95 % interval at each of `LEVELS`, of graded answers to these problems.

    At prompt level an answer is right if it follows all its instructions; at instruction level each instruction counts
    once. Intervals resample prompts, for the instructions of one answer stand or fall together.
    """
    by_id = {p.id: p for p in problems}
    graded = [a for a in answers if a.grade is not None]
    rows = [{**by_id[a.id].columns, "completion": a.completion} for a in graded]
    with VerifierPool([f"ibtpo.verify.ifeval:{level}" for level in LEVELS], workers=workers, timeout=timeout) as pool:
        verdicts = pool.score(rows)
    values: dict[str, list[tuple[float | None, ...]]] = {}
    for answer, verdict in zip(graded, verdicts, strict=True):
        if verdict.error is None:
            values.setdefault(answer.id, []).append(verdict.per_function)
    per_prompt = np.array([np.array(v, dtype=float).mean(axis=0) for v in values.values()]).reshape(-1, len(LEVELS))
    sizes = np.array([len(by_id[i].columns["instruction_id_list"]) for i in values], dtype=float)
    found: dict[str, dict[str, Any]] = {}
    for j, level in enumerate(LEVELS):
        weights = sizes if level.startswith("instruction") else np.ones_like(sizes)
        accuracy = float(np.average(per_prompt[:, j], weights=weights)) if len(weights) else None
        interval = bootstrap_interval(per_prompt[:, j], seed=seed, weights=weights)
        found[level] = {"accuracy": accuracy, "ci": None if accuracy is None else list(interval)}
    return found
