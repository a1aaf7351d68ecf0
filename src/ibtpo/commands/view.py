"""Trees as one offline HTML page to explore, or in the terminal.

TREES is a file of trees (.jsonl, .jsonl.gz), a run folder, be the run finished or not, a folder of step_*.jsonl.gz
such as the trees_dir of IBScoreCallback, or the --output of ibtpo diagnose. Of several, or of a diagnosis of several
checkpoints, the trees of the same problems are laid side by side, those that changed most first. The scores are those
of the options stored in each tree; options given here take their place.
"""

import argparse
import sys
import time
from pathlib import Path

from .live import add_live_options, follow
from .options import SCORE, add_option
from .output import Progress, file_name, make_folder_of

OPTIONS = ("advantage", "lam", *SCORE)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `ibtpo view`."""
    parser.add_argument(
        "trees", metavar="TREES", type=Path, nargs="+", help="a file of trees, a run folder, or one of ibtpo diagnose"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=file_name,
        help="default: trees.html in the folder, or TREES with .html; compared.html for several",
    )
    parser.add_argument("--title", help="of the page (default: the name of the file or run)")
    parser.add_argument(
        "--terminal", action="store_true", help="print one tree, or what changed most, instead of writing a page"
    )
    parser.add_argument(
        "--tree", metavar="ID", help="which one, with --terminal; STEP:ID in a run (default: the first)"
    )
    parser.add_argument(
        "--tokenizer", type=Path, help="to show tokens' texts: folder with tokenizer.json (default: the run's model)"
    )
    add_live_options(parser)
    group = parser.add_argument_group("scores (default: as stored in each tree)")
    for name in OPTIONS:
        add_option(group, name, stored=True)


def run(args: argparse.Namespace) -> int:
    """Writes the page of all trees, or prints one tree."""
    if args.live or args.port is not None:
        return follow(args.trees, args, trees=True)
    from ..errors import ConfigError

    options = {name: getattr(args, name) for name in OPTIONS}
    if args.terminal:
        if args.output is not None:
            raise ConfigError("--terminal prints a tree and --output writes a page: give one of them")
        if args.title is not None or args.tokenizer is not None:
            raise ConfigError("--title and --tokenizer are for a page; leave them out with --terminal")
        from ..viewer.terminal import print_tree

        print_tree(args.trees, args.tree, options)
        return 0
    if args.tree is not None:
        raise ConfigError("--tree goes with --terminal; in a page every tree has a link: FILE.html#tree=ID")
    from .._text import visible
    from ..viewer.page import default_output, write_viewer

    output = args.output or default_output(args.trees)
    make_folder_of(output)
    last = time.monotonic()

    def told(trees: int) -> None:
        nonlocal last
        if time.monotonic() - last >= Progress.EVERY:
            last = time.monotonic()
            print(f"{count(trees)} trees read", file=sys.stderr, flush=True)

    result = write_viewer(args.trees, output, options=options, title=args.title, tokenizer=args.tokenizer, on_tree=told)
    for note in result.notes:
        print(f"left out: {visible(note)}", file=sys.stderr)
    for remark in result.remarks:
        print(f"note: {visible(remark)}", file=sys.stderr)
    print(f"wrote {result.output} ({size(result.bytes)}, {count(result.trees)} tree{'s' * (result.trees != 1)})")
    return 0


def count(n: int) -> str:
    """A whole number as people read it: 10 000."""
    return f"{n:,}".replace(",", " ")


def size(n: int) -> str:
    """Bytes as people read them: 812 kB, 12.3 MB."""
    return f"{n / 1e6:.1f} MB" if n >= 999_500 else f"{n / 1e3:.0f} kB"
