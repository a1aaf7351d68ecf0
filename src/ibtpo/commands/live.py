"""The option `--live` of the verbs whose pages can follow a run in progress."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from .._text import visible
from ..errors import ConfigError
from .options import SCORE

_NOT_LIVE = ("output", "title", "terminal", "tree", "tokenizer", "advantage", "lam", *SCORE)


def add_live_options(parser: argparse.ArgumentParser) -> None:
    """Declares `--live` and `--port`."""
    parser.add_argument(
        "--live", action="store_true", help="serve the page on 127.0.0.1 and follow the run while it goes on"
    )
    parser.add_argument("--port", type=int, help="the server's port, with --live (default: a free one)")


def follow(runs: Path | Sequence[Path], args: argparse.Namespace, *, trees: bool = False) -> int:
    """Serves the report and the trees of a run folder until it is interrupted.

    runs: the run folder, or a list that must hold one.
    args: all options of the verb; beside those of `add_live_options` none may be given.
    trees: whether the trees' address is printed first.
    """
    (run, *more) = [runs] if isinstance(runs, Path) else runs
    if not args.live:
        raise ConfigError("--port is for --live; leave it out, or add --live")
    if more:
        raise ConfigError(f"--live follows one run, got {1 + len(more)}; start it once for each")
    others = [name for name in vars(args) if name in _NOT_LIVE and vars(args)[name] not in (None, False)]
    if others:
        option = others[0].replace("_", "-")
        raise ConfigError(f"--live writes no file and shows the run as it is; leave --{option} out")
    from ..report.live import serve

    def tell(report: str, of_trees: str) -> None:
        rows = [f"report: {report}", f"trees: {of_trees}"]
        print(*(rows[::-1] if trees else rows), sep="\n")
        print(f"following {visible(str(run))} on this machine only, until Ctrl-C", flush=True)

    serve(run, args.port or 0, tell)
    return 0
