"""Is exploration in balance with exploitation? One curve over checkpoints, or what a flat GRPO log can say.

With --model, trees of the same problems with the same seeds are grown from every checkpoint; the trainer's output
folder stands for its checkpoint-* in order of step. With --output, the curve is drawn in diagnosis.html, what is
finished is kept, and --resume goes on.

With --completions, TRL's stored answers (log_completions=True) are read; they hold no trees.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._extras import missing_package
from .._text import table, without_nan
from .._version import __version__
from ..engines.models import decoder
from ..errors import ConfigError
from .inputs import make_prompts, open_environments, open_model, open_verifier, read_problems
from .options import add_search_options, search_options
from .output import print_json, say_shard_is_done, tree_progress

if TYPE_CHECKING:
    from ..compare.checkpoints import Curve
    from ..search import Prompt, SearchOptions, TreeSearch
    from ..storage.shards import Shard
    from ..tasks.problems import Problem
    from ..verify.pool import VerifierPool


# The columns of the printed tables: of checkpoints, with their titles, and of a log without trees.
SHOWN = ("avg_rate", "policy_rate", "eff_rate", "cov_eta", "ib_score", "entropy")
TITLES = ("Avg-Rate", "policy's own", "Eff-Rate", "Cov(η1,η2)", "IB-Score", "entropy")
OWN = {
    "diagnosis.html",
    "trees.html",
    "curve.csv",
    "summary.json",
    "trees",
}  # --overwrite refuses a folder that holds more
FLAT = ("step", "groups", "answers", "eff_rate", "avg_rate", "pass_at_g", "uniform", "distinct", "characters")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `ibtpo diagnose`."""
    parser.usage = "ibtpo diagnose --model CKPT [CKPT ...] --data D [options]\n       ibtpo diagnose --completions PATH"
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder for diagnosis.html, summary.json and trees/")
    parser.add_argument("--resume", action="store_true", help="keep the trees that are there, grow the others")
    parser.add_argument("--overwrite", action="store_true", help="drop what is there")
    group = parser.add_argument_group("flat logs")
    group.add_argument("--completions", type=Path, metavar="PATH", help="a completions_*.parquet or a run's folder")
    group.add_argument("--reward-column", help="the one that is 1 for right and 0 for wrong (default: the only one)")
    add_search_options(parser, several_models=True)


def run(args: argparse.Namespace) -> int:
    """Measures the checkpoints, or reads a log, and prints the result; 1 if a checkpoint could not be measured."""
    if args.completions is not None:
        if args.model or args.data:
            raise ConfigError("--completions reads a log and --model measures checkpoints: give one of them")
        if args.output is not None or args.resume or args.overwrite:
            raise ConfigError("--completions prints what a log says and writes no files; with --json you can keep it")
        return _flat(args)
    if not args.model or not args.data:
        raise ConfigError("give --model and --data to measure checkpoints, or --completions to read a log")
    if args.reward_column is not None:
        raise ConfigError("--reward-column is for --completions; a checkpoint's answers are graded by --verifier")
    from ..compare.checkpoints import find_checkpoints
    from ..engines.open import is_dotted_path

    if args.engine != "transformers" and not is_dotted_path(args.engine):
        raise ConfigError(
            f"checkpoints are measured in this process, one after the other: --engine must be transformers or "
            f"package.module:factory, got {args.engine!r}"
        )
    options = search_options(args)
    names = find_checkpoints(args.model)
    if args.output is not None:
        _check_folder(args.output, args.resume, args.overwrite, args.shard)
    elif args.shard is not None:
        raise ConfigError("--shard needs --output: without it there is nothing to join")
    elif args.resume:
        raise ConfigError("--resume needs --output: without it no tree is kept")
    problems, verifier_name = read_problems(args)
    if args.output is not None:
        _make_folder(
            args.output, args.overwrite, args.shard
        )  # only now: a misspelt option must not cost an older measurement
    with open_verifier(args, verifier_name) as verifier:
        return _measure(args, options, names, problems, verifier, verifier_name)


def _check_folder(folder: Path, resume: bool, overwrite: bool, shard: "Shard | None") -> None:
    """Raises `ConfigError` if --output cannot be used, or holds what --overwrite must not delete.

    With a shard only its own files count, since other shards may be writing theirs.
    """
    if resume and overwrite:
        raise ConfigError("--resume keeps what is there and --overwrite drops it: give one of them")
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; name a folder")
    if _files_of(folder, shard) and not (resume or overwrite):
        raise ConfigError(f"{folder} exists already; give --resume to go on with it or --overwrite to start again")
    others = sorted({p.name for p in folder.iterdir()} - OWN) if folder.is_dir() else []
    if overwrite and others:
        raise ConfigError(f"{folder} is no diagnosis, it holds {others[0]}: --overwrite will not delete from it")


def _files_of(folder: Path, shard: "Shard | None") -> list[Path]:
    """What a folder holds already, or what it holds of a shard."""
    if shard is None:
        return list(folder.iterdir()) if folder.is_dir() else []
    return sorted((folder / "trees").glob(f"{shard.file(Path('*.jsonl'))}*"))


def _make_folder(folder: Path, overwrite: bool, shard: "Shard | None") -> None:
    """Makes the folder of --output; with `overwrite` its old trees are deleted, other files as they are rewritten."""
    try:
        (folder / "trees").mkdir(parents=True, exist_ok=True)
        if overwrite:
            old = [p for end in ("jsonl", "jsonl.partial*") for p in (folder / "trees").glob(f"*.{end}")]
            for file in old if shard is None else _files_of(folder, shard):
                file.unlink()
    except OSError as e:
        raise ConfigError(f"{folder} cannot be made: {e.strerror}; choose another --output") from e


def _measure(
    args: argparse.Namespace,
    options: "SearchOptions",
    names: list[str],
    problems: "list[Problem]",
    verifier: "VerifierPool",
    verifier_name: str,
) -> int:
    from ..compare.checkpoints import BrokenError, measure_curve
    from ..search import TreeSearch

    opened = ExitStack()

    def open_search(name: str) -> "tuple[TreeSearch, list[Prompt]]":
        try:
            engine, tokenizer = open_model(argparse.Namespace(**{**vars(args), "model": name}))
        except ConfigError as e:
            raise BrokenError(str(e)) from e
        environments = opened.enter_context(open_environments(args, tokenizer))
        prompts = make_prompts(args, problems, engine, tokenizer, environments)
        search = TreeSearch(engine, verifier, decoder(tokenizer), options, environments=environments)
        return search, prompts

    def show(curve: "Curve") -> None:
        if args.output is not None and args.shard is None:
            _write_summary(args, curve, verifier_name)
        if args.json:
            print_json(curve.rows[-1])

    with opened:
        curve = measure_curve(
            names,
            [p.id for p in problems],
            options,
            verifier_name,
            open_search,
            environment=args.environment,
            folder=None if args.output is None else args.output / "trees",
            resume=args.resume,
            shard=args.shard,
            progress=lambda label: tree_progress(f"trees of {label}", len(problems), quiet=args.quiet),
            on_row=show,
        )
    if args.json:
        print_json({"verdict": curve.changes()})
    else:
        print(_table(curve) + "\n\n" + "\n".join(curve.changes()))
        for row in curve.rows:
            if "error" in row:
                print(f"left out: {row['error']}")
    if args.shard is not None:
        say_shard_is_done(args)
    elif args.output is not None:
        _write_page(args, curve, len(problems), verifier_name)
    return 1 if len(curve.records) < len(curve.rows) else 0


def _write_summary(args: argparse.Namespace, curve: "Curve", verifier_name: str) -> None:
    from .._files import write_whole

    summary = {"ibtpo": __version__, "data": args.data, "verifier": verifier_name, "seed": args.seed,
               "checkpoints": curve.rows, "verdict": curve.changes()}  # fmt: skip
    text = json.dumps(without_nan(summary), indent=2, ensure_ascii=False, allow_nan=False)
    write_whole(args.output / "summary.json", text + "\n")


def _write_page(args: argparse.Namespace, curve: "Curve", problems: int, verifier_name: str) -> None:
    """Writes the page of trees and that of curves, the latter where the packages that draw them are installed."""
    page, trees = args.output / "diagnosis.html", args.output / "trees.html"
    from ..viewer.page import write_viewer

    write_viewer(args.output, trees)
    try:
        from ..report.checkpoints import write_diagnosis
    except ModuleNotFoundError as e:  # the numbers are on disk already: a missing plot package is no failure
        print(f"no curves are drawn: {missing_package(e, page.name) or e}", file=sys.stderr)
        return
    facts = [("data", args.data), ("problems", problems), ("verifier", verifier_name), ("tree", args.tree),
             ("seed", args.seed)]  # fmt: skip
    write_diagnosis(curve.rows, curve.changes(), facts, page, trees.name)
    if not args.json:
        print(f"\ncurves: {page}\ntrees: {trees}")


def _table(curve: "Curve") -> str:
    from ..evaluation.statistics import Measured

    lines = [
        [row["label"], *(str(Measured(**row[name])) for name in SHOWN)] for row in curve.rows if "error" not in row
    ]
    return table(lines, ["checkpoint", *TITLES])


def _flat(args: argparse.Namespace) -> int:
    """Prints what a log of flat groups can say, and what it cannot."""
    from ..compare.flat_logs import INSTEAD, NOT_COMPUTED, read_flat_log

    log = read_flat_log(args.completions, args.reward_column)
    if args.json:
        for row in log.steps:
            print_json(row)
        print_json({"correct": log.correct, "why": log.why, "repeated": log.repeated,
                    "not_computed": NOT_COMPUTED, "instead": INSTEAD})  # fmt: skip
        return 0
    columns = [name for name in FLAT if name in log.steps[0]]
    columns += [name for name in log.steps[0] if name.startswith("reward/") and name != f"reward/{log.correct}"]
    print(table([[_shown(row[name]) for name in columns] for row in log.steps], columns, left=0))
    print(f"\n{log.why[0].upper()}{log.why[1:]}." if log.correct else f"\nNo Eff-Rate, Avg-Rate or pass@G: {log.why}.")
    if log.repeated:
        print(f"Steps {_some(log.repeated)} hold the answers of the step before and are counted once.")
    print("\nNot computed:")
    for what, reason in NOT_COMPUTED.items():
        print(f"- {what}: {reason}")
    print(f"Instead, {INSTEAD}")
    return 0


def _shown(value: Any) -> Any:
    return value if isinstance(value, int) else "-" if math.isnan(value) else f"{value:.3f}"


def _some(steps: Sequence[int]) -> str:
    """The first eight steps, and how many more there are."""
    return ", ".join(map(str, steps[:8])) + (f" and {len(steps) - 8} more" if len(steps) > 8 else "")
