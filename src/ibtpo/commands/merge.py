"""Join what the shards of `sample`, `eval`, `diagnose` or `compare branching` stored, once all of them are there.

OUTPUT is what all shards were given as --output. A file of trees or an eval.json is whole after that; for a folder, the
same command without --shard and with --resume then writes the tables, and grows nothing. The shards' files stay.
"""

import argparse
import json
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, DataError
from ..storage.shards import interleave, sharded_files, shards_of
from ..storage.tree_file import TreeFile
from .options import add_output_options, add_verifier_options
from .output import check_free, print_json

if TYPE_CHECKING:
    from ..evaluation.evaluate import Answer
    from ..tasks.problems import Problem
    from ..tree import ReasoningTree


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `ibtpo merge`."""
    parser.usage = "ibtpo merge OUTPUT [options]"
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="trees.jsonl[.gz], eval.json, or a folder")
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")
    add_output_options(parser)
    add_verifier_options(parser.add_argument_group("IFEval, whose levels are graded anew"), "what the shards had")


def run(args: argparse.Namespace) -> int:
    """Joins the shards and says what was joined."""
    if args.output.suffix == ".json":
        _merge_answers(args)
        return 0
    folder = args.output.is_dir()
    wholes = sharded_files(args.output / "trees") if folder else [args.output]
    if not wholes:
        raise ConfigError(
            f"{args.output / 'trees'} holds no shards; were they run with --shard I/N --output {args.output}?"
        )
    shards = {whole: shards_of(whole) for whole in wholes}
    check_free([path for whole in wholes for path in (whole, TreeFile(whole).part)], overwrite=args.overwrite)
    for whole, files in shards.items():
        count = _merge_trees(whole, files)
        if args.json:
            print_json({"output": str(whole), "shards": len(files), "trees": count})
        else:
            print(f"{whole}: {count} trees of {len(files)} shards")
    if folder and not args.json:
        print("now the same command without --shard and with --resume writes the result")
    return 0


def _merge_trees(whole: Path, files: list[Path]) -> int:
    """Writes the trees of all shards into one file, in the order of the problems; returns how many there are."""
    ids: list[list[str]] = [[] for _ in files]
    store = TreeFile(whole)
    with store.alone():
        deque(store.open(resume=False), maxlen=0)
        try:
            for tree, mine in _checked(files, ids):
                mine.append(tree.id)
                store.append(tree)
            order = interleave(ids, whole)
        except BaseException:
            store.part.unlink()
            raise
        store.finish(order)
    return len(order)


def _checked(files: list[Path], ids: list[list[str]]) -> Iterator[tuple["ReasoningTree", list[str]]]:
    """Each tree of the shards, with the list in `ids` that its id belongs to.

    Raises `ConfigError` for one that was grown in another way than the first, or that two shards hold.
    """
    from ..tree import read_trees

    first: dict[str, Any] | None = None
    seen: set[str] = set()
    for file, mine in zip(files, ids, strict=True):
        for tree in read_trees(file):
            how = {key: tree.meta.get(key) for key in ("search", "model", "verifier")}
            first = first or how
            if how != first:
                key = next(key for key in how if how[key] != first[key])
                raise ConfigError(f"{file}: {key} of {tree.id!r} is not that of the first shard; run it anew")
            if tree.id in seen:
                raise ConfigError(f"{file}: the tree of {tree.id!r} is in another shard, too; run it anew")
            seen.add(tree.id)
            yield tree, mine


def _merge_answers(args: argparse.Namespace) -> None:
    """Writes eval.json and its answers from those of all shards, and prints the result as `ibtpo eval` does."""
    from ..evaluation.evaluate import summarise_answers
    from ..evaluation.stored_answers import by_problem, read_answers
    from .eval import STATED, finish
    from .inputs import read_problems

    files = shards_of(args.output)
    check_free([args.output, args.output.with_suffix(".answers.jsonl")], overwrite=args.overwrite)
    kept = ("model", *STATED, "verifier", "sampling", "max_completion_length", "seed")
    records = [_record(file) for file in files]
    hows = [{key: record[key] for key in kept if key in record} for record in records]
    for file, how, record in zip(files, hows, records, strict=True):
        if (how, record["k"]) != (hows[0], records[0]["k"]):
            key = next((key for key in how if how[key] != hows[0].get(key)), "k")
            raise ConfigError(f"{file}: {key} is not that of the first shard; run it anew")
    parts = [by_problem(read_answers(file.with_suffix(".answers.jsonl"))) for file in files]
    rows: list[list[Answer]] = interleave(parts, args.output)
    if len({row[0].id for row in rows}) < len(rows):
        raise ConfigError(f"{args.output}: a problem is in two of its shards; run those anew that had other problems")
    problems: list[Problem] = []
    if hows[0]["verifier"] == "ifeval":
        unset = dict.fromkeys(("split", "limit", "question_column", "answer_column", "instruction", "verifier"))
        where = {key: hows[0].get(key) for key in ("benchmark", "data")}
        problems, _ = read_problems(argparse.Namespace(**unset, **where))
    result = summarise_answers(rows, records[0]["k"], seed=hows[0]["seed"])
    seconds = round(sum(record["seconds"] for record in records), 3)
    finish(args, result, problems, {**hows[0], "shards": len(files), "seconds": seconds})


def _record(file: Path) -> dict[str, Any]:
    """The eval.json of a shard."""
    try:
        record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        record["k"], record["seconds"], record["verifier"], record["seed"]
    except (ValueError, LookupError, TypeError) as e:
        raise DataError(f"{file}: not what `ibtpo eval --shard` writes ({type(e).__name__}: {e}); run it anew") from e
    return record
