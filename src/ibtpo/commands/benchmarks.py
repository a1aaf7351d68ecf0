"""List the benchmarks of `ibtpo eval --benchmark NAME`, or write the part of DAPO-Math that is for training."""

import argparse
import json

from .._files import write_whole
from .._text import table
from ..errors import ConfigError
from .output import check_free, file_name, make_folder_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `ibtpo benchmarks`."""
    parser.add_argument(
        "--rest-of", metavar="DATA", help="a copy of DAPO-Math: what dapo_heldout and other benchmarks leave of it …"
    )
    parser.add_argument("--output", type=file_name, metavar="FILE", help="… goes here, as JSON Lines to train on")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")


def run(args: argparse.Namespace) -> int:
    """Prints the table of benchmarks, or writes the training problems of DAPO-Math to a file."""
    from ..tasks.benchmarks import BENCHMARKS, split_dapo

    if (args.rest_of is None) != (args.output is None):
        raise ConfigError("--rest-of DATA and --output FILE go together")
    if args.rest_of is None:
        rows = [
            (b.name, b.hub or "a file of yours", b.split if b.hub else "-", b.problems, b.verifier, b.k)
            for b in BENCHMARKS.values()
        ]
        print(table(rows, ("benchmark", "dataset", "split", "problems", "verifier", "k"), left=3))
        print("\nibtpo eval --model M --benchmark NAME [--data FILE]")
        return 0
    check_free([args.output], overwrite=args.overwrite)
    held_out, rest = split_dapo(args.rest_of)
    make_folder_of(args.output)
    problems = [{"id": p.id, "question": p.prompt, **p.columns} for p in rest]
    write_whole(args.output, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in problems))
    print(f"{args.output}: {len(rest)} problems for training; {len(held_out)} others are held out")
    return 0
