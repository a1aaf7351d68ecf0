"""Write the report of a run, report.html in its folder, or of several runs a page that compares them, compare.html.

With --live nothing is written: the report is served on this machine and follows the run while it goes on.
"""

import argparse
from pathlib import Path

from .live import add_live_options, follow
from .output import file_name, make_folder_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `ibtpo report`."""
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="run folders, as `ibtpo train` makes them")
    parser.add_argument(
        "-o", "--output", type=file_name, help="the page to write (default: RUN/report.html; of several compare.html)"
    )
    add_live_options(parser)


def run(args: argparse.Namespace) -> int:
    """Writes the page and prints where it is, or serves it."""
    if args.live or args.port is not None:
        return follow(args.runs, args)
    from ..report.run import write_comparison, write_report

    if args.output is not None:
        make_folder_of(args.output)
    if len(args.runs) > 1:
        written = write_comparison(args.runs, args.output or Path("compare.html"))
    else:
        written = write_report(args.runs[0], args.output)
    print(f"report: {written}")
    return 0
