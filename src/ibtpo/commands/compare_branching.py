"""Compare branching rules on the same problems, seeds and sampling, and with independent answers at equal tokens.

An ARM is a branching rule, with score options after commas: ib, entropy, ib,beta=1 or ib,confidence=joint,value=draws.
Independent answers are always measured: a pool of them a problem gives every group size. IB-Score and Cov(eta1, eta2)
are measured with the same score options (those given with --beta, --confidence, …) for every arm.

--output gets trees/ARM.jsonl.gz, summary.json and table.md; --resume goes on where a run was stopped.
"""

import argparse
import asyncio
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._text import without_nan
from .._version import __version__
from ..engines.models import decoder
from ..errors import ConfigError, IBTPOError
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
    from ..comparison import Pool
    from ..metrics import Record
    from ..score import ScoreOptions
    from ..search import Prompt, SearchOptions
    from ..tree import ReasoningTree

ARMS = (
    "random", "fixed_width", "entropy", "ib", "ib,beta=1", "ib,beta=20", "ib,value=draws", "ib,confidence=joint",
    "ib,confidence=head:1", "ib,weight=unique",
)  # fmt: skip
POOL = "independent"
GROUPS = (8, 12)  # the paper's

SHOWN = {
    "eff_rate": "Eff-Rate", "avg_rate": "Avg-Rate", "pass_at_g": "pass@G", "generated_tokens": "tokens",
    "distinct": "distinct", "branch_cost": "branch cost", "ib_score": "IB-Score", "cov_eta": "Cov(η1,η2)",
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ibtpo compare branching`."""
    parser.usage = "ibtpo compare branching --model M --data D --output DIR [--arms ARM ...] [options]"
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for the trees and the result")
    parser.add_argument("--resume", action="store_true", help="keep the trees that are there, grow the others")
    parser.add_argument("--arms", nargs="+", default=ARMS, metavar="ARM", help=f"default: {' '.join(ARMS)}")
    parser.add_argument(
        "--pool", type=int, default=24, metavar="N", help="independent answers a problem (default: %(default)s)"
    )
    add_output_options(parser)
    add_data_options(parser)
    add_tree_options(parser)
    add_sampling_options(parser)
    add_score_options(parser)


def run(args: argparse.Namespace) -> int:
    """Grows what is missing of every arm, writes the folder, prints the table."""
    options = search_options(args)
    if args.pool < max(GROUPS):
        raise ConfigError(f"--pool must be at least {max(GROUPS)}, the larger group of the table; got {args.pool}")
    arms = {POOL: pool_options(options, args.pool), **{arm: arm_options(arm, options) for arm in args.arms}}
    folder = args.output
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; name a folder")
    if folder.is_dir() and any(folder.iterdir()) and not args.resume:
        raise ConfigError(f"{folder} exists already; give --resume to go on with it, or another --output")
    problems, verifier_name = read_problems(args)
    (folder / "trees").mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    made_by = {"ibtpo": __version__, "model": args.model, "verifier": verifier_name}
    with open_verifier(args, verifier_name) as verifier:
        engine, tokenizer = open_model(args)
        prompts = make_prompts(args, problems, engine, tokenizer)
        for arm, its_options in arms.items():
            from ..search import TreeSearch

            search = TreeSearch(engine, verifier, decoder(tokenizer), its_options)
            _grow(args, search, _store(folder, arm), prompts, its_options, made_by, arm)
    summary = summarise(folder, list(args.arms), options.score, seed=args.seed)
    _write(args, folder, summary, options, verifier_name, time.monotonic() - began)
    if args.json:
        print_json(summary)
    else:
        print(markdown(summary))
    return 0


def arm_options(arm: str, base: "SearchOptions") -> "SearchOptions":
    """The options of an arm such as "ib,beta=1". Raises `ConfigError` for what is no score option."""
    rule, *changes = arm.split(",")
    known = {f.name: f.type for f in fields(base.score)}
    values: dict[str, Any] = {}
    for change in changes:
        name, equals, text = change.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or name not in known:
            raise ConfigError(f"--arms {arm!r}: {change!r} is not one of {', '.join(f'{k}=…' for k in known)}")
        try:
            values[name] = float(text) if isinstance(getattr(base.score, name), float) else text
        except ValueError as e:
            raise ConfigError(f"--arms {arm!r}: {name} must be a number, got {text!r}") from e
    return replace(base, branching=rule, score=replace(base.score, **values))


def pool_options(base: "SearchOptions", answers: int) -> "SearchOptions":
    """The options under which the pool of independent answers is sampled."""
    from ..search import Budget

    return replace(base, branching=POOL, budget=Budget(answers, 1, 1, 1), lookahead=0)


def _store(folder: Path, arm: str) -> TreeFile:
    name = "".join(c if c.isalnum() or c in "._" else "-" for c in arm)
    return TreeFile(folder / "trees" / f"{name}.jsonl.gz")


def _grow(
    args: argparse.Namespace,
    search: Any,
    store: TreeFile,
    prompts: "Sequence[Prompt]",
    options: "SearchOptions",
    made_by: dict[str, Any],
    arm: str,
) -> None:
    done = set()
    for tree in store.open(resume=args.resume):
        check_same(tree, prompts, options, made_by, store.path)
        done.add(tree.id)
    progress = Progress(f"trees of {arm}", len(prompts), len(done), quiet=args.quiet)

    def keep(tree: "ReasoningTree") -> None:
        tree.meta.update(made_by)
        store.append(tree)
        progress.add(tree.generated_tokens, [leaf.reward for leaf in tree.leaves if leaf.reward is not None])
        del tree.nodes[1:], tree.leaves[:], tree.rollouts[:]

    with progress.shown():
        try:
            asyncio.run(search.grow_all([p for p in prompts if p.id not in done], on_tree=keep))
        except IBTPOError as e:
            raise type(e)(f"{e}; what is grown is kept, go on with --resume") from e
    store.finish([p.id for p in prompts])


def first_answers(tree: "ReasoningTree", g: int) -> "ReasoningTree":
    """The group of a tree's first g independent answers."""
    from ..tree import ROOT, ReasoningTree

    group = ReasoningTree(tree.id, tree.prompt_ids, tree.prompt, tree.answer)
    for leaf in tree.leaves[:g]:
        group.add(ROOT, [tree.nodes[n].step for n in tree.path(leaf.node)], leaf.reward, leaf.stop)
    return group


def read_pool(path: Path, score: "ScoreOptions") -> "tuple[Pool, dict[int, list[Record]]]":
    """The pool of independent answers, and the records of its first 8 and its first 12."""
    from ..comparison import Pool
    from ..metrics import correctness, tree_record
    from ..tree import read_trees

    pool, records = Pool([], []), {g: [] for g in GROUPS}  # type: ignore[var-annotated]
    for tree in read_trees(path):
        pool.rewards.append(correctness(tree))
        pool.tokens.append([r.tokens for r in tree.rollouts])
        for g in GROUPS:
            records[g].append(tree_record(first_answers(tree, g), score))
    return pool, records


def summarise(folder: Path, arms: Sequence[str], score: "ScoreOptions", *, seed: int = 0) -> dict[str, Any]:
    """The result of a folder's stored trees."""
    from ..comparison import at_equal_tokens, measured
    from ..evaluation.statistics import Resamples, interval, nanmean
    from ..metrics import tree_record
    from ..tree import read_trees

    pool, first = read_pool(_store(folder, POOL).path, score)
    resamples: Resamples = Resamples(len(pool.rewards), seed=seed)
    rows: dict[str, Any] = {}
    for g in GROUPS:
        row = measured(first[g], resamples)
        # The pool knows more of such groups than its first answers show.
        better = {name: curve[:, g - 1] for name, curve in pool.curves().items()}
        better |= {"avg_rate": pool.success, "generated_tokens": g * pool.length}
        row |= {name: interval(nanmean(v), resamples.means(v)) for name, v in better.items()}
        rows[f"{POOL} G={g}"] = row
    for arm in arms:
        records = [tree_record(tree, score) for tree in read_trees(_store(folder, arm).path)]
        rows[arm] = {**measured(records, resamples), "equal_tokens": at_equal_tokens(records, pool, resamples)}
    return {
        "problems": len(pool.rewards),
        "success": interval(nanmean(pool.success), resamples.means(pool.success)),
        "answer_tokens": interval(nanmean(pool.length), resamples.means(pool.length)),
        "arms": rows,
    }


def markdown(summary: dict[str, Any]) -> str:
    """The result as two tables."""
    rates = ("eff_rate", "avg_rate", "pass_at_g")

    def cell(value: dict[str, float], digits: int, scale: float = 1.0) -> str:
        if math.isnan(value["mean"]):
            return "–"
        mean, low, high = (f"{scale * value[k]:.{digits}f}" for k in ("mean", "low", "high"))
        return f"{mean} [{low}, {high}]"

    def number(name: str, row: dict[str, Any]) -> str:
        if name in rates:
            return cell(row[name], 1, 100)
        return cell(row[name], 0 if name == "generated_tokens" else 3)

    success = cell(summary["success"], 1, 100)
    lines = [
        f"{summary['problems']} problems. The policy's own success rate is {success} %: Avg-Rate over a tree's leaves "
        "is biased by where the search branched. Eff-Rate, Avg-Rate and pass@G in percent; 95 % bootstrap intervals "
        "over problems.",
        "",
        f"| arm | {' | '.join(SHOWN.values())} |",
        f"| --- |{' --- |' * len(SHOWN)}",
    ]
    for arm, row in summary["arms"].items():
        lines.append(f"| {arm} | {' | '.join(number(name, row) for name in SHOWN)} |")
    lines += [
        "",
        "Against independent answers that cost the same tokens:",
        "",
        "| arm | independent answers for its tokens | trajectories, times as many | Eff-Rate, difference in points | "
        "pass@G, difference in points |",
        "| --- | --- | --- | --- | --- |",
    ]
    for arm, row in summary["arms"].items():
        equal = row.get("equal_tokens")
        if equal:
            differences = " | ".join(cell(equal[name]["difference"], 1, 100) for name in ("eff_rate", "pass_at_g"))
            lines.append(f"| {arm} | {cell(equal['answers'], 2)} | {cell(equal['trajectories'], 2)} | {differences} |")
    return "\n".join(lines)


def _write(
    args: argparse.Namespace,
    folder: Path,
    summary: dict[str, Any],
    options: "SearchOptions",
    verifier: str,
    seconds: float,
) -> None:
    from ..storage.env import collect_env
    from ..storage.run_folder import write_whole

    about = {
        "model": args.model, "data": args.data, "limit": args.limit, "verifier": verifier, "pool": args.pool,
        "options": asdict(options), "seconds": round(seconds, 1), "env": collect_env(),
    }  # fmt: skip
    text = json.dumps(without_nan({**summary, **about}), indent=1, ensure_ascii=False, allow_nan=False)
    write_whole(folder / "summary.json", text + "\n")
    write_whole(folder / "table.md", markdown(summary) + "\n")
