"""The text of each token, where a tokenizer is at hand: a tree holds the text of steps and the ids of tokens."""

from collections.abc import Iterable
from pathlib import Path

from ..errors import ConfigError

NANO = Path(__file__).parents[1] / "assets" / "nano"


def find_tokenizer(given: Path | None, run: Path | None, model: object) -> Path | None:
    """The `tokenizer.json` to read: the one given, the one of the run's trained model, or the embedded model's.

    model: what a tree's meta calls its model. Raises `ConfigError` if `given` holds none.
    """
    if given is not None:
        file = given / "tokenizer.json" if given.is_dir() else given
        if not file.is_file():
            raise ConfigError(f"--tokenizer: {file} does not exist; give a folder with a tokenizer.json, or the file")
        return file
    if run is not None and (file := run / "model" / "tokenizer.json").is_file():
        return file
    # A path in a tree may be of another machine: only the embedded model's is known to be the same everywhere.
    return NANO / "tokenizer.json" if str(model).replace("\\", "/").endswith(("assets/nano", "nano")) else None


def token_texts(file: Path, ids: Iterable[int]) -> dict[int, str] | None:
    """Token id -> text; None where the package `tokenizers` is not installed or cannot read the file."""
    try:
        from tokenizers import Tokenizer
    except ImportError:
        return None
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception:  # the package raises bare ones; without texts the page still shows ids
        return None
    size = tokenizer.get_vocab_size()
    return {i: tokenizer.decode([i], skip_special_tokens=False) for i in ids if i < size}
