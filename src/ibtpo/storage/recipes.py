"""The recipes that are shipped with the package."""

from pathlib import Path

from ..errors import ConfigError, unknown

FOLDER = Path(__file__).parent.parent / "recipes"
TRAIN_SWITCHES = ("overwrite", "dry_run", "quiet", "json", "options")


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
