"""The texts of single tokens, for the viewer.

A tree holds the text of each step but only the ids of its tokens, so showing a token's text takes the tokenizer.
"""

from collections.abc import Iterable
from pathlib import Path

from ..errors import ConfigError

NANO = Path(__file__).parents[1] / "assets" / "nano"


def find_tokenizer(given: Path | None, run: Path | None, model: object) -> Path | None:
    """The `tokenizer.json` to read, or None if none is known to fit.

    given: the file, or a folder that holds it, as the user named it.
    run: the run folder; if it holds a trained model, that model's tokenizer is taken.
    model: what a tree's meta calls its model; the embedded model's tokenizer is taken if this names it.

    The first of the three that there is decides. Raises `ConfigError` if `given` leads to no file.
    """
    if given is not None:
        file = given / "tokenizer.json" if given.is_dir() else given
        if not file.is_file():
            raise ConfigError(f"--tokenizer: {file} does not exist; give a folder with a tokenizer.json, or the file")
        return file
    if run is not None and (file := run / "model" / "tokenizer.json").is_file():
        return file
    # The model's path in a tree may be one of another machine. Only the embedded model is the same everywhere.
    embedded = model == "nano" or str(model).replace("\\", "/").endswith("ibtpo/assets/nano")
    return NANO / "tokenizer.json" if embedded else None


def token_texts(file: Path, ids: Iterable[int]) -> dict[int, str] | None:
    """The text of each token by its id; None if the package `tokenizers` is not installed or cannot read the file.

    file: a `tokenizer.json`.
    ids: the tokens' ids; those beyond the vocabulary are left out.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError:
        return None
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception:  # the package raises plain `Exception`s; without texts the page still shows ids
        return None
    size = tokenizer.get_vocab_size()
    return {i: tokenizer.decode([i], skip_special_tokens=False) for i in ids if i < size}
