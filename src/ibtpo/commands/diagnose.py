"""Is exploration in balance with exploitation? One curve over checkpoints, or what a flat GRPO log can say.

With --model, trees of the same problems with the same seeds are grown from every checkpoint; the trainer's output
folder stands for its checkpoint-* in order of step. With --output, the curve is drawn in diagnosis.html, what is
finished is kept, and --resume goes on.
With --completions, TRL's stored answers (log_completions=True) are read; they hold no trees.
"""

import argparse
import asyncio
import gc
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._extras import missing_package
from .._text import table, without_nan
from .._version import __version__
from ..engines.models import decoder
from ..errors import ConfigError, EngineError
from ..storage.tree_file import TreeFile, check_same
from .inputs import make_prompts, open_model, open_verifier, read_problems
from .options import (
    add_data_options,
    add_output_options,
    add_sampling_options,
    add_score_options,
    add_tree_options,
    search_options,
)
from .output import Progress, print_json

if TYPE_CHECKING:
    from ..metrics import Record
    from ..search import SearchOptions
    from ..tasks.problems import Problem
    from ..tree import ReasoningTree
    from ..verify.pool import VerifierPool


SHOWN = ("avg_rate", "eff_rate", "cov_eta", "ib_score", "entropy")
TITLES = ("Avg-Rate", "Eff-Rate", "Cov(η1,η2)", "IB-Score", "entropy")
OWN = {"diagnosis.html", "curve.csv", "summary.json", "trees"}  # what the folder of --output holds
FLAT = ("step", "groups", "answers", "eff_rate", "avg_rate", "pass_at_g", "uniform", "distinct", "characters")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ibtpo diagnose`."""
    parser.usage = "ibtpo diagnose --model CKPT [CKPT ...] --data D [options]\n       ibtpo diagnose --completions PATH"
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder for diagnosis.html, summary.json and trees/")
    parser.add_argument("--resume", action="store_true", help="keep the trees that are there, grow the others")
    parser.add_argument("--overwrite", action="store_true", help="drop what is there")
    add_output_options(parser)
    group = parser.add_argument_group("flat logs")
    group.add_argument("--completions", type=Path, metavar="PATH", help="a completions_*.parquet or a run's folder")
    group.add_argument("--reward-column", help="the one that is 1 for right and 0 for wrong (default: the only one)")
    add_data_options(parser, several_models=True)
    add_tree_options(parser)
    add_sampling_options(parser)
    add_score_options(parser)


def run(args: argparse.Namespace) -> int:
    """Measures and prints; 1 when a checkpoint could not be measured."""
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

    options = search_options(args)
    names = find_checkpoints(args.model)
    if args.output is not None:
        _check_folder(args.output, args.resume, args.overwrite)
    elif args.resume:
        raise ConfigError("--resume needs --output: without it no tree is kept")
    problems, verifier_name = read_problems(args)
    if args.output is not None:
        _make_folder(args.output, args.overwrite)  # only now: a misspelt option must not cost an older measurement
    with open_verifier(args, verifier_name) as verifier:
        return _Curve(args, options, problems, verifier, verifier_name).run(names)


def _check_folder(folder: Path, resume: bool, overwrite: bool) -> None:
    if resume and overwrite:
        raise ConfigError("--resume keeps what is there and --overwrite drops it: give one of them")
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; name a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (resume or overwrite):
        raise ConfigError(f"{folder} exists already; give --resume to go on with it or --overwrite to start again")
    others = sorted({p.name for p in folder.iterdir()} - OWN) if folder.is_dir() else []
    if overwrite and others:
        raise ConfigError(f"{folder} is no diagnosis, it holds {others[0]}: --overwrite will not delete from it")


def _make_folder(folder: Path, overwrite: bool) -> None:
    try:
        (folder / "trees").mkdir(parents=True, exist_ok=True)
        if overwrite:
            for file in [p for end in ("jsonl", "jsonl.partial*") for p in (folder / "trees").glob(f"*.{end}")]:
                file.unlink()
    except OSError as e:
        raise ConfigError(f"{folder} cannot be made: {e.strerror}; choose another --output") from e


class _Curve:
    """One row a checkpoint, the same problems and seeds for all."""

    def __init__(
        self,
        args: argparse.Namespace,
        options: "SearchOptions",
        problems: "list[Problem]",
        verifier: "VerifierPool",
        verifier_name: str,
    ) -> None:
        self.args, self.options, self.problems = args, options, problems
        self.verifier, self.verifier_name = verifier, verifier_name
        self.rows: list[dict[str, Any]] = []
        self.records: list[list[Record]] = []  # of the checkpoints that could be measured

    def run(self, names: Sequence[str]) -> int:
        from ..compare.checkpoints import BrokenError, labels, measure, step_of

        for name, label in zip(names, labels(names), strict=True):
            row: dict[str, Any] = {"model": name, "label": label, "step": step_of(Path(name))}
            began = time.monotonic()
            try:
                records = self._records(name, label)
            except BrokenError as e:
                row["error"] = str(e)
            else:
                self.records.append(records)
                row |= {"problems": len(records), **measure(records), "seconds": round(time.monotonic() - began, 3)}
            self.rows.append(row)
            self._store()
            if self.args.json:
                print_json(row)
        if not self.records:
            raise EngineError(f"no checkpoint could be measured; the first: {self.rows[0]['error']}")
        if self.args.json:
            print_json({"verdict": self._verdict()})
        else:
            print(self._table() + "\n\n" + "\n".join(self._verdict()))
            for row in self.rows:
                if "error" in row:
                    print(f"left out: {row['error']}")
        if self.args.output is not None:
            self._draw(self.args.output / "diagnosis.html")
        return 1 if len(self.records) < len(self.rows) else 0

    def _records(self, name: str, label: str) -> "list[Record]":
        """(P,) records of one checkpoint, from stored trees as far as there are any."""
        from ..compare.checkpoints import BrokenError
        from ..metrics import tree_record
        from ..search import Prompt, TreeSearch

        args, options = self.args, self.options
        made_by = {"ibtpo": __version__, "model": name, "verifier": self.verifier_name}
        records: dict[str, Record] = {}
        store = None if args.output is None else TreeFile(args.output / "trees" / f"{label}.jsonl")
        ids = [p.id for p in self.problems]

        def read(prompts: "Sequence[Prompt] | None") -> None:
            for tree in store.open(resume=args.resume) if store else ():
                # Of a finished checkpoint no model is loaded, so there is no tokenizer to read its prompts with.
                same = prompts or [Prompt(id, tree.prompt_ids, tree.prompt) for id in ids]
                check_same(tree, same, options, made_by, store.path if store else Path())
                records[tree.id] = tree_record(tree, options.score)

        if store and args.resume and store.path.exists() and not store.part.exists():
            read(None)
        if len(records) < len(ids):
            try:
                options_of_it = {**vars(args), "model": name, "engine": "transformers"}
                engine, tokenizer = open_model(argparse.Namespace(**options_of_it))
            except ConfigError as e:
                raise BrokenError(str(e)) from e
            prompts = make_prompts(args, self.problems, engine, tokenizer)
            if not records:
                read(prompts)
            progress = Progress(f"trees of {label}", len(ids), len(records), quiet=args.quiet)

            def keep(tree: "ReasoningTree") -> None:
                tree.meta.update(made_by)
                records[tree.id] = tree_record(tree, options.score)
                if store:
                    store.append(tree)
                progress.add(tree.generated_tokens, [r for r in (leaf.reward for leaf in tree.leaves) if r is not None])

            with progress.shown():
                search = TreeSearch(engine, self.verifier, decoder(tokenizer), options)
                try:
                    asyncio.run(search.grow_each([p for p in prompts if p.id not in records], keep))
                except EngineError as e:
                    raise BrokenError(f"{name}: {e}") from e
            del engine, search, keep
            gc.collect()  # the next model needs the memory, and engines are in reference cycles
        if store:
            store.finish(ids)
        return [records[id] for id in ids]

    def _verdict(self) -> list[str]:
        from ..compare.checkpoints import what_changed

        return what_changed(self.records[0], self.records[-1])

    def _store(self) -> None:
        if self.args.output is None:
            return
        from ..storage.run_folder import write_whole

        summary = {"ibtpo": __version__, "data": self.args.data, "verifier": self.verifier_name, "seed": self.args.seed,
                   "checkpoints": self.rows, "verdict": self._verdict() if self.records else []}  # fmt: skip
        text = json.dumps(without_nan(summary), indent=2, ensure_ascii=False, allow_nan=False)
        write_whole(self.args.output / "summary.json", text + "\n")

    def _draw(self, page: Path) -> None:
        try:
            from ..report.checkpoints import write_diagnosis
        except ModuleNotFoundError as e:  # all numbers are on disk: no reason to fail
            print(f"no curves are drawn: {missing_package(e, page.name) or e}", file=sys.stderr)
            return
        facts = [("data", self.args.data), ("problems", len(self.problems)), ("verifier", self.verifier_name),
                 ("tree", self.args.tree), ("seed", self.args.seed)]  # fmt: skip
        write_diagnosis(self.rows, self._verdict(), facts, page)
        if not self.args.json:
            print(f"\ncurves: {page}")

    def _table(self) -> str:
        from ..evaluation.statistics import Measured

        lines = [
            [row["label"], *(str(Measured(**row[name])) for name in SHOWN)] for row in self.rows if "error" not in row
        ]
        return table(lines, ["checkpoint", *TITLES])


def _flat(args: argparse.Namespace) -> int:
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
    return ", ".join(map(str, steps[:8])) + (f" and {len(steps) - 8} more" if len(steps) > 8 else "")
