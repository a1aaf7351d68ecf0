"""Grade stored answers again with the present verifier, without sampling."""

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._options import todays_names
from .._text import cell
from ..errors import ConfigError, DataError
from .eval import finish
from .inputs import open_verifier, read_problems
from .options import add_output_options, add_problem_options, add_verifier_options
from .output import check_free, file_name, make_folder_of

if TYPE_CHECKING:
    from ..evaluation.evaluate import Answer

SHOWN = 10  # changed grades in the printed report
# What the new record takes over from that of the evaluation that sampled the answers.
KEPT = ("model", "benchmark", "data", "sampling", "max_completion_length", "seed")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `ibtpo regrade`."""
    parser.add_argument("answers", type=file_name, metavar="ANSWERS", help="eval.answers.jsonl, as eval wrote it")
    parser.add_argument("--output", type=file_name, metavar="FILE", help="a new eval.json, and its answers next to it")
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")
    add_output_options(parser)
    group = parser.add_argument_group("problems (default: what eval.json next to ANSWERS names)")
    add_problem_options(group, required=False, benchmarks=True)
    add_verifier_options(group, "what eval.json names")


def run(args: argparse.Namespace) -> int:
    """Grades the answers again, stores the result if --output names a file, and prints it with what changed."""
    from ..evaluation.evaluate import summarise_answers
    from ..evaluation.stored_answers import by_problem, read_answers, regrade

    if args.output is not None:
        check_free([args.output, args.output.with_suffix(".answers.jsonl")], overwrite=args.overwrite)
        make_folder_of(args.output)
    answers = read_answers(args.answers)
    before = _record(args.answers)
    if args.benchmark is None and args.data is None:
        args.benchmark, args.data = before.get("benchmark"), before.get("data")
        args.verifier = args.verifier or before.get("verifier")
    if args.benchmark is None and args.data is None:
        raise ConfigError(f"no eval.json next to {args.answers} names the problems; give --benchmark or --data")
    args.instruction = None  # `read_problems` looks for it, but what followed the question does not change a grade
    problems, verifier_name = read_problems(args)
    by_id = {p.id: p for p in problems}
    for number, answer in enumerate(answers, 1):
        if answer.id not in by_id:
            where = args.data or args.benchmark
            raise DataError(f"{args.answers}, answer {number}: no problem {answer.id!r} in {where}; name its own data")
    with open_verifier(args, verifier_name) as verifier:
        graded = regrade(answers, by_id, verifier)
    rows = by_problem(graded)
    result = summarise_answers(rows, max(map(len, rows)), seed=before.get("seed", 0))
    changed = [(old, new) for old, new in zip(answers, graded, strict=True) if old.grade != new.grade]
    how: dict[str, Any] = {key: before[key] for key in KEPT if key in before}
    how |= {key: getattr(args, key) for key in ("benchmark", "data") if getattr(args, key) is not None}
    how |= {"verifier": verifier_name, "regraded": str(args.answers), "changed": len(changed)}
    finish(args, result, problems, how)
    if not args.json:
        print("\n".join(_changes(changed, len(answers))))
    return 0


def _record(answers: Path) -> dict[str, Any]:
    """The eval.json that belongs to an answers file; empty if there is none."""
    path = answers.with_name(answers.name.removesuffix(".answers.jsonl") + ".json")
    if path == answers or not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON: {error}; mend it, or name the problems with --data") from error
    if not isinstance(record, dict):
        raise DataError(f"{path}: expected an object as `ibtpo eval` writes it, got {type(record).__name__}")
    return todays_names(record)


def _changes(changed: Sequence[tuple["Answer", "Answer"]], total: int) -> list[str]:
    """Lines that say how many grades changed, from what to what, and in which answers."""
    kinds = Counter((old.grade, new.grade) for old, new in changed)
    parts = [f"{cell(old, 1)} -> {cell(new, 1)}: {n}" for (old, new), n in kinds.most_common()]
    lines = [f"changed grades: {len(changed)} of {total}" + (f" ({', '.join(parts)})" if parts else "")]
    lines += [
        f"  {old.id}, draw {old.draw}: {cell(old.grade, 1)} -> {cell(new.grade, 1)}" for old, new in changed[:SHOWN]
    ]
    return lines + ([f"  … and {len(changed) - SHOWN} more"] if len(changed) > SHOWN else [])
