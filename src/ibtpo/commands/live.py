"""The option `--live` of the verbs whose pages can follow a run in progress."""

import argparse
from pathlib import Path

from .._text import visible
from ..errors import ConfigError


def add_live_options(parser: argparse.ArgumentParser) -> None:
    """Declares `--live` and `--port`."""
    parser.add_argument(
        "--live", action="store_true", help="serve the page on 127.0.0.1 and follow the run while it goes on"
    )
    parser.add_argument("--port", type=int, help="the server's port, with --live (default: a free one)")


def check_port(args: argparse.Namespace) -> None:
    """Raises `ConfigError` for a `--port` without `--live`."""
    if args.port is not None and not args.live:
        raise ConfigError("--port is for --live; leave it out, or add --live")


def follow(run: Path, args: argparse.Namespace, *, trees: bool = False) -> int:
    """Serves the report and the trees of a run folder until it is interrupted.

    run: the run folder.
    args: the options of `add_live_options`.
    trees: whether the trees' address is printed first.
    """
    from ..report.live import serve

    def tell(report: str, of_trees: str) -> None:
        rows = [f"report: {report}", f"trees: {of_trees}"]
        print(*(rows[::-1] if trees else rows), sep="\n")
        print(f"following {visible(str(run))} on this machine only, until Ctrl-C", flush=True)

    serve(run, args.port or 0, tell)
    return 0
