"""Saving a model: that it can be saved is known before the first step, and what was saved before is never lost."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .._files import real_path
from .._text import describe
from ..errors import CheckpointError, ConfigError

# What transformers ignores when it does not sample, or does not search with beams, but refuses to save.
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")
_HARDLY_ANY = 1 << 20  # bytes that are left at most where a file did not fit: not every library says that it did not
_BEAMS = ("early_stopping", "length_penalty")


def make_saveable(model: Any) -> None:
    """Mends a generation config that transformers reads but refuses to save, as hub models have them.

    Options that do nothing get their defaults: a temperature without `do_sample`, a length penalty without beams. What
    the model generates by default stays the same.

    Raises `ConfigError` if transformers refuses to save it all the same.
    """
    config = getattr(model, "generation_config", None)
    if config is None:
        return
    plain = type(config)()
    unused = [*(() if config.do_sample else _SAMPLING), *(() if (config.num_beams or 1) > 1 else _BEAMS)]
    for name in unused:
        if hasattr(config, name):
            setattr(config, name, getattr(plain, name))
    try:
        config.validate(strict=True)
    except ValueError as e:
        reason = " ".join(str(e).split())
        raise ConfigError(f"the model's generation_config.json could not be saved with it; mend it: {reason}") from e


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Gives the block the name of a folder to fill, which takes the name `path` when the block ends.

    So the folder appears whole or not at all, and an earlier one stays until then. Only one process may do this.

    Raises `CheckpointError` for any error of the block, which is one of writing.
    """
    path = real_path(path)
    part = path.with_name(path.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    with writing(part):
        yield part
        if path.is_dir():
            shutil.rmtree(path)
        os.replace(part, path)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turns any error of the block, which writes a folder, into one that names it, and removes what was written of it.

    A full disk makes safetensors, torch and transformers raise errors of many types, few of which name a file.

    Raises `CheckpointError`.
    """
    try:
        yield
    except Exception as e:
        place = next(p for p in folder.absolute().parents if p.is_dir())
        full = "the disk is full: " if shutil.disk_usage(place).free < _HARDLY_ANY else ""
        shutil.rmtree(folder, ignore_errors=True)  # half of it is of no use, and takes room
        raise CheckpointError(
            f"{folder} cannot be written: {full}{describe(e)}; what was written before is whole, go on with --resume"
        ) from e


@contextmanager
def reading(checkpoint: str | None) -> Iterator[None]:
    """Turns any error of the block into a `CheckpointError` that names the checkpoint.

    Anything may be raised where weights and pickles are damaged, so everything is caught.
    """
    try:
        yield
    except Exception as e:
        raise CheckpointError(
            f"{checkpoint} cannot be read ({describe(e)}); delete it to go on from the checkpoint before"
        ) from e
