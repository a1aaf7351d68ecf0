"""List, print or copy the shipped training recipes, and the files that spread them over GPUs."""

import argparse
import sys

from .._files import write_whole
from .._text import table
from ..errors import ConfigError
from ..storage.recipes import about, accelerate_files, find_recipe, recipes
from .output import check_free, file_name, make_folder_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `ibtpo recipes`."""
    parser.add_argument("name", metavar="NAME", nargs="?", help="print this file; without it all are listed")
    parser.add_argument("--copy", metavar="FILE", type=file_name, help="write it to FILE, to edit it")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")


def run(args: argparse.Namespace) -> int:
    """Lists the recipes, prints one, or copies it to a file."""
    if args.name is None:
        if args.copy is not None:
            raise ConfigError("--copy needs the NAME of a recipe; `ibtpo recipes` lists them")
        rows = [(name, about(path)) for name, path in {**recipes(), **accelerate_files()}.items()]
        print(table(rows, left=2))
        return 0
    spread = accelerate_files().get(args.name)
    text = (spread or find_recipe(args.name)).read_text(encoding="utf-8")
    if args.overwrite and args.copy is None:
        raise ConfigError("--overwrite goes with --copy FILE: it replaces FILE")
    if args.copy is None:
        sys.stdout.write(text)
        return 0
    check_free([args.copy], overwrite=args.overwrite)
    make_folder_of(args.copy)
    write_whole(args.copy, text)
    how = f"accelerate launch --config_file {args.copy} -m ibtpo train RECIPE" if spread else f"ibtpo train {args.copy}"
    print(f"{args.copy} written; run it with: {how}")
    return 0
