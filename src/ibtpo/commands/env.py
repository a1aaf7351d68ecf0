"""Versions and hardware, for bug reports. Every run folder holds the same in its `env.json`."""

import argparse

from ..storage.env import collect_env
from .output import print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `ibtpo env`."""
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(args: argparse.Namespace) -> int:
    """Prints the environment."""
    env = collect_env()
    if args.json:
        print_json(env)
        return 0
    for key, value in {**env, **env["packages"]}.items():
        if key != "packages":
            text = "-" if value is None else ", ".join(value) or "none" if isinstance(value, list) else str(value)
            print(f"{key + ':':<14}{text}")
    return 0
