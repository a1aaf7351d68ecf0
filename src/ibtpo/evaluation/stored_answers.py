"""The answers that `ibtpo eval` stores: writing, reading, and grading them again without sampling."""

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
from ..verify.tags import THINKING_TAGS
from .evaluate import Answer
from .statistics import bootstrap_interval

_BATCH = 512  # rows the verifier gets at once
# The type of each field of a stored answer; a bool is none of these, though Python counts it as an int.
_TYPES = {"id": str, "draw": int, "completion": str, "grade": float | int | None, "stop": str, "tokens": int}


def answer_lines(answers: Sequence[Answer]) -> str:
    """The text of a file of answers: JSON Lines as in `eval.answers.jsonl`, where an unknown grade is null."""
    rows = [{**asdict(a), "grade": None if a.grade is None or math.isnan(a.grade) else a.grade} for a in answers]
    return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def read_answers(path: Path) -> list[Answer]:
    """Reads a file that `answer_lines` wrote.

    Raises `DataError`, naming file, line and field, for a file that is missing, empty or broken, and for a draw that
    stands there twice.
    """
    try:
        # splitlines() would also split at Unicode's line separators, which JSON leaves in an answer as they are.
        lines = path.read_text(encoding="utf-8-sig").split("\n") if path.is_file() else None
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
    """The answer in one line. at: file and line, for the message of an error."""
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
    """The same answers with the grades that `verifier` gives them now.

    answers: (A,) stored answers.
    problems: the problems by their ids; each answer's must be among them.
    verifier: the verifier; the grade is the value of its first reward function, None where it fails.

    The verifier gets the bare question as its prompt, not the text that a chat template made of it.
    Returns (A,) answers in the same order.
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
    """The answers to each problem; the problems are in the order in which they first occur."""
    found: dict[str, list[Answer]] = {}
    for answer in answers:
        found.setdefault(answer.id, []).append(answer)
    return list(found.values())


def ifeval_accuracies(
    answers: Sequence[Answer],
    problems: Sequence[Problem],
    *,
    workers: int = 2,
    timeout: float = 10.0,
    thinking_tags: str = THINKING_TAGS,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """The accuracy of answers to IFEval prompts at each of its levels, with 95 % intervals.

    answers: the answers; those without a grade are left out.
    problems: the IFEval problems they answer.
    workers: how many child processes grade them.
    timeout: seconds an answer's grading may take.
    thinking_tags: pairs of tags around thinking, which is not graded.
    seed: seed of the intervals.

    At prompt level an answer is right if it follows all its instructions; at instruction level each instruction counts
    once. Intervals resample prompts, since the instructions of one answer stand or fall together.
    Returns {"accuracy": …, "ci": [low, high]} for each of `LEVELS`, both None if nothing was graded.
    """
    by_id = {p.id: p for p in problems}
    graded = [a for a in answers if a.grade is not None]
    rows = [{**by_id[a.id].columns, "completion": a.completion} for a in graded]
    names = [f"ibtpo.verify.ifeval:{level}" for level in LEVELS]
    with VerifierPool(names, workers=workers, timeout=timeout, thinking_tags=thinking_tags) as pool:
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
