"""GPQA, read from its authors' CSV file (arXiv 2311.12022).

Each question has four options, which are shuffled with a seed of the row's own and get the letters A to D. The authors
ask that the questions are not spread in plain text, so the file is always the user's.
"""

import csv
import random
from collections.abc import Iterator
from pathlib import Path

from .._text import half_character
from ..errors import DataError
from .problems import Problem, check_limit

CORRECT = "Correct Answer"
OPTIONS = (CORRECT, "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
LETTERS = "ABCD"


def load_gpqa(path: str | Path, *, limit: int | None = None, instruction: str | None = None) -> list[Problem]:
    """The problems of one of GPQA's files.

    A prompt is the question, the four options and the instruction; an answer is the letter of the right option. The
    columns of a problem are `answer` and `choices` (letter -> text).

    path: `gpqa_diamond.csv`, `gpqa_main.csv` or `gpqa_extended.csv`.
    limit: read this many at most.
    instruction: what follows each question; None for nothing.

    Raises `DataError`, which names file, line and column, for anything wrong in the file, and `ConfigError` for a limit
    below 1.
    """
    check_limit(limit)
    problems: list[Problem] = []
    seen: dict[str, int] = {}
    for line, row in _rows(Path(path).expanduser()):
        at = f"{path}, line {line}"
        cells = {name: _cell(at, name, row) for name in ("Question", *OPTIONS)}
        if len({cells[name] for name in OPTIONS}) < len(OPTIONS):
            raise DataError(f"{at}: two of the four options are the same text")
        # The row itself is the seed, not its place in the file: every model sees its options in the same order.
        identity = (row.get("Record ID") or "").strip() or cells["Question"]
        if identity in seen:
            raise DataError(f"{at}: the same record as in line {seen[identity]}")
        seen[identity] = line
        draw = random.Random(identity)
        shuffled = sorted(OPTIONS, key=lambda _: draw.random())
        choices = {letter: cells[name] for letter, name in zip(LETTERS, shuffled, strict=True)}
        answer = LETTERS[shuffled.index(CORRECT)]
        listed = "\n".join(f"({letter}) {text}" for letter, text in choices.items())
        prompt = f"{cells['Question']}\n\n{listed}" + ("" if instruction is None else f"\n\n{instruction}")
        name = identity if (row.get("Record ID") or "").strip() else f"gpqa-{line}"
        problems.append(Problem(name, prompt, answer, {"answer": answer, "choices": choices}))
        if len(problems) == limit:
            break
    if not problems:
        raise DataError(f"{path} has no rows; expected GPQA's CSV")
    return problems


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str | None]]]:
    """For each row of the file, the line where it starts and its cells by column."""
    if not path.is_file():
        raise DataError(f"{path} is no file; name GPQA's CSV, e.g. gpqa_diamond.csv")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            missing = [name for name in ("Question", *OPTIONS) if name not in (reader.fieldnames or ())]
            if missing:
                raise DataError(
                    f"{path}, line 1: no column {', '.join(map(repr, missing))}; expected GPQA's CSV with "
                    f"the columns 'Question', {', '.join(map(repr, OPTIONS))}"
                )
            start = reader.line_num + 1
            for row in reader:
                if None in row:
                    raise DataError(f"{path}, line {start}: more cells than the header has columns")
                yield start, row
                start = reader.line_num + 1
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start + 1} is not UTF-8; save the file as UTF-8") from error
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num + 1}: not valid CSV: {error}") from error


def _cell(at: str, name: str, row: dict[str, str | None]) -> str:
    """The text of a cell. Raises `DataError` where it is empty or no tokenizer could take it."""
    text = (row[name] or "").strip()
    if not text:
        raise DataError(f"{at}, column {name!r}: empty")
    if (half := half_character(text)) is not None:
        raise DataError(f"{at}, column {name!r}: {half} is half a character (a lone surrogate)")
    return text
