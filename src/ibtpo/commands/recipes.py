"""List, print or copy the shipped training recipes."""

import argparse
import sys
from pathlib import Path

from .._text import table
from ..errors import ConfigError, unknown
from .output import check_free, file_name, make_folder_of

FOLDER = Path(__file__).parent.parent / "recipes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ibtpo recipes`."""
    parser.add_argument("name", metavar="NAME", nargs="?", help="print this recipe; without it all are listed")
    parser.add_argument("--copy", metavar="FILE", type=file_name, help="write the recipe to FILE, to edit it")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")


def run(args: argparse.Namespace) -> int:
    """Lists, prints or copies."""
    if args.name is None:
        if args.copy is not None:
            raise ConfigError("--copy needs the NAME of a recipe; `ibtpo recipes` lists them")
        print(table([(name, about(path)) for name, path in recipes().items()], left=2))
        return 0
    text = find_recipe(args.name).read_text(encoding="utf-8")
    if args.overwrite and args.copy is None:
        raise ConfigError("--overwrite goes with --copy FILE: it replaces FILE")
    if args.copy is None:
        sys.stdout.write(text)
        return 0
    check_free([args.copy], overwrite=args.overwrite)
    make_folder_of(args.copy)
    args.copy.write_text(text, encoding="utf-8")
    print(f"{args.copy} written; run it with: ibtpo train {args.copy}")
    return 0


def recipes() -> dict[str, Path]:
    """Name -> file of every shipped recipe, by name."""
    found = {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}
    if not found:
        raise ConfigError(f"no recipes in {FOLDER}; install ibtpo again")
    return found


def find_recipe(name: str) -> Path:
    """The file of a shipped recipe. Raises `ConfigError` naming the nearest one."""
    known = recipes()
    if name.removesuffix(".yaml") not in known:
        raise unknown("recipe", name, known)
    return known[name.removesuffix(".yaml")]


def about(path: Path) -> str:
    """The first comment line of a recipe."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#") and line.strip("# "):
            return line.strip("# ")
    return ""
