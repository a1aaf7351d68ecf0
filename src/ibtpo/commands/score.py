"""Print p-hat, IB-Score and step advantages of stored trees, as tables or as one line of JSON a tree."""

import argparse
import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..errors import DataError
from .options import add_option, add_score_options, score_options
from .output import print_json

if TYPE_CHECKING:
    from ..tree import ReasoningTree


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `ibtpo score`."""
    parser.add_argument("trees", metavar="TREES", help="trees.jsonl or trees.jsonl.gz; - reads stdin")
    parser.add_argument("--json", action="store_true", help="one line of JSON a tree")
    add_option(parser, "advantage")
    add_option(parser, "lam")
    add_score_options(parser)


def run(args: argparse.Namespace) -> int:
    """Prints the scores of every tree."""
    from ..credit import CreditOptions
    from ..metrics import readable, tree_scores
    from ..tree import read_trees

    options = CreditOptions(args.advantage, args.lam, score=score_options(args))
    for tree in _from_stdin() if args.trees == "-" else read_trees(args.trees):
        record = tree_scores(tree, options)
        if args.json:
            print_json(record)
        else:
            print(readable(tree, record), end="\n\n")
    return 0


def _from_stdin() -> Iterator["ReasoningTree"]:
    """The trees on standard input, one a line."""
    from ..tree import ReasoningTree

    number = 0
    for number, line in enumerate(sys.stdin.buffer, 1):
        if not line.strip():
            continue
        try:
            yield ReasoningTree.from_dict(json.loads(line.decode()))
        except (json.JSONDecodeError, UnicodeDecodeError, DataError, RecursionError) as e:
            raise DataError(f"<stdin>:{number}: {e}") from e
    if number == 0:
        raise DataError("<stdin>: nothing to read; expected one tree a line")
