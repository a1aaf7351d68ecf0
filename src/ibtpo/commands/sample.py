"""Grow reasoning trees for a set of problems and store them, one a line.

A tree is on disk as soon as it is grown, so --resume can go on where a run was stopped.
"""

import argparse
import sys
import time
from typing import TYPE_CHECKING

from .._text import table
from ..engines.models import decoder
from ..storage.tree_file import TreeFile
from .inputs import make_prompts, open_environments, open_model, open_verifier, read_problems
from .options import add_search_options, search_options
from .output import check_free, file_name, make_folder_of, print_json, tree_progress, warn_if_all_failed

if TYPE_CHECKING:
    from ..search import SearchOptions
    from ..tasks.problems import Problem
    from ..tree import ReasoningTree
    from ..verify.pool import VerifierPool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `ibtpo sample`."""
    parser.usage = "ibtpo sample --model M --data D --output trees.jsonl [options]"
    parser.add_argument("--output", required=True, type=file_name, metavar="FILE", help="trees.jsonl or trees.jsonl.gz")
    parser.add_argument("--resume", action="store_true", help="keep the trees that are there, grow the others")
    parser.add_argument("--overwrite", action="store_true", help="drop what is there")
    add_search_options(parser)


def run(args: argparse.Namespace) -> int:
    """Grows the trees that are missing, writes the file in the order of the problems, and prints a summary."""
    options = search_options(args)
    if args.shard is not None:
        args.output = args.shard.file(args.output)
    store = TreeFile(args.output)
    check_free([store.path, store.part], overwrite=args.overwrite, resume=args.resume, can_resume=True)
    make_folder_of(store.path)
    problems, verifier_name = read_problems(args)
    with open_verifier(args, verifier_name) as verifier:  # its children start while the model is loaded
        return _sample(args, options, store, problems, verifier_name, verifier)


def _sample(
    args: argparse.Namespace,
    options: "SearchOptions",
    store: TreeFile,
    problems: list["Problem"],
    verifier_name: str,
    verifier: "VerifierPool",
) -> int:
    from ..engines.completions import bias
    from ..evaluation.stored_trees import grow_stored, made_by
    from ..metrics import TOTALS, single_step_warning, single_steps, summarise, tree_record
    from ..search import TreeSearch

    engine, tokenizer = open_model(args)
    meta = made_by(args.model, verifier_name, args.environment)
    if biased := bias(engine.logprobs, options.sampling):
        meta["logprobs"] = biased  # trees whose scores cannot be trusted say so
    records = {}
    errors: list[str] = []
    single = 0
    began = time.monotonic()
    with (
        open_environments(args, tokenizer) as environments,
        tree_progress("trees", len(problems), quiet=args.quiet) as show,
    ):
        prompts = make_prompts(args, problems, engine, tokenizer, environments)

        def measure(tree: "ReasoningTree", grown: bool) -> None:
            nonlocal single
            records[tree.id] = tree_record(tree, options.score)
            single += single_steps(tree)
            errors.extend(tree.meta.get("verifier_errors", [])[:1])
            show(tree, grown)

        search = TreeSearch(engine, verifier, decoder(tokenizer), options, environments=environments)
        grow_stored(search, prompts, store, meta=meta, resume=args.resume, on_tree=measure)
    means = summarise([records[p.id] for p in prompts])
    counts = {key: int(means[key]) for key in TOTALS}
    summary = {
        "output": str(args.output),
        "trees": len(prompts),
        **means,
        **counts,
        "seconds": round(time.monotonic() - began, 3),
    }
    if args.json:
        print_json(summary)
    else:
        print(table(list(summary.items())))
    if not args.quiet:
        warn_if_all_failed(counts["trajectories"], counts["verifier_errors"], errors[0] if errors else None)
        text = single_step_warning(single, counts["trajectories"], options.splitter)
        if text and options.branching != "independent":
            print(f"warning: {text}", file=sys.stderr)
    return 0
