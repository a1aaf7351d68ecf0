"""Do the reference answers of a data file score 1.0 through the verifier, in two forms, and other problems' not?

Ask this before any training. The exit code is 1 if more than 0.5 % of a file's answers fail.
"""

import argparse
import json
import sys

from .inputs import open_verifier, read_problems
from .options import add_verifier_options

TOLERATED = 0.005  # share of a file's reference answers that may fail


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `ibtpo check-data`."""
    parser.add_argument("files", metavar="FILE", nargs="+", help="data files, walk[:test], or dataset ids")
    parser.add_argument("--limit", type=int, help="the first N problems of each")
    parser.add_argument("--split", default="train", help="of a dataset (default: %(default)s)")
    parser.add_argument("--question-column", help="default: question, prompt or problem")
    parser.add_argument("--answer-column", help="default: answer or solution")
    parser.add_argument("--json", action="store_true", help="one line of JSON a file")
    add_verifier_options(parser, "by the data's columns, else math")


def run(args: argparse.Namespace) -> int:
    """Checks file after file and prints a report of each; 1 if too many answers of one of them fail."""
    from ..evaluation.gold_check import check_data

    code = 0
    for name in args.files:
        args.data, args.instruction = name, None
        problems, verifier_name = read_problems(args)
        with open_verifier(args, verifier_name) as verifier:
            report = check_data(problems, verifier)
        failed = report.n - report.passed > TOLERATED * report.n
        code = max(code, int(failed))
        if args.json:
            record = {"file": name, "verifier": verifier_name, **json.loads(report.to_json())}
            print(json.dumps(record, ensure_ascii=False), flush=True)
        else:
            print(f"{name} ({report.n} problems, verifier {verifier_name}): {'FAILED' if failed else 'ok'}")
            print("\n".join(f"  {line}" for line in str(report).split("\n")), flush=True)
    if code:
        print(f"more than {100 * TOLERATED:g} % of the reference answers of a file failed", file=sys.stderr)
    return code
