"""The recipes that are shipped with the package: YAML files of settings, each a whole training run.

Beside them are files for `accelerate launch --config_file`, which say how a run is spread over GPUs.
"""

from pathlib import Path

from ..errors import ConfigError, unknown

FOLDER = Path(__file__).parent.parent / "recipes"
# Options of `ibtpo train` that take no value and belong to the command line: a recipe may not set them.
TRAIN_SWITCHES = ("overwrite", "dry_run", "quiet", "json", "options")


def recipes() -> dict[str, Path]:
    """The file of every shipped recipe by its name, in alphabetical order.

    Raises `ConfigError` if the package was installed without them.
    """
    found = {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}
    if not found:
        raise ConfigError(f"no recipes in {FOLDER}; install ibtpo again")
    return found


def accelerate_files() -> dict[str, Path]:
    """The shipped files for accelerate by their names."""
    return {path.stem: path for path in sorted((FOLDER / "accelerate").glob("*.yaml"))}


def find_recipe(name: str) -> Path:
    """The file of a shipped recipe, whose name may be given with `.yaml`.

    Raises `ConfigError`, naming the most similar recipe or else all of them, if there is none of this name.
    """
    known = recipes()
    if name.removesuffix(".yaml") not in known:
        raise unknown("recipe", name, known)
    return known[name.removesuffix(".yaml")]


def about(path: Path) -> str:
    """What a recipe is about: its first comment line that holds any words; empty if it has none."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#") and line.strip("# "):
            return line.strip("# ")
    return ""
