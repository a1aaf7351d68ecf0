"""Code from outside the package: optional packages, and the user's own functions by dotted path."""

import importlib
import os
import sys
from typing import Any

from ._text import describe
from .errors import ConfigError, DependencyError

# Optional package -> the extra of ours that installs it, for errors that name the install line.
EXTRAS = {
    "accelerate": "train",
    "datasets": "train",
    "gguf": "gguf",
    "httpx2": "server",
    "jinja2": "train",
    "langdetect": "ifeval",
    "lm_eval": "ifeval",
    "math_verify": "math",
    "matplotlib": "train",
    "nltk": "ifeval",
    "peft": "peft",
    "reasoning_gym": "reasoning-gym",
    "safetensors": "torch",
    "starlette": "live",
    "torch": "torch",
    "transformers": "torch",
    "trl": "train",
    "uvicorn": "live",
    "verifiers": "verifiers",
    "vllm": "vllm",
}


def missing_package(error: ModuleNotFoundError, what: str) -> DependencyError | None:
    """The error that tells how to install a missing package, to be raised in place of Python's.

    error: what the import raised.
    what: what needs the package, in words for the message.

    Returns None if the missing module belongs to no optional package of ours.
    """
    package = (error.name or "").partition(".")[0]
    extra = EXTRAS.get(package)
    return DependencyError(f"{what} needs the package {package!r}: pip install 'ibtpo[{extra}]'") if extra else None


def load_object(path: str, what: str) -> Any:
    """The function, or other callable, that a dotted path stands for.

    path: `package.module:function`. Those of rewards may also be `package.module.function`; for everything else a
        name without a colon is one of the built-in names, and never comes here. The module is looked for where Python
        looks for modules, the current folder included (see `find_modules_here`).
    what: what the path was given for, in words for the message: "branching rule", "splitter", "advantage", …

    Raises `ConfigError` that names `what`, the path, and why it cannot be loaded: the module is missing or fails while
    it is imported, it has no such name, or the name is nothing that can be called.
    """
    module_name, colon, name = path.partition(":")
    if not colon:
        module_name, _, name = path.rpartition(".")
    try:
        module = importlib.import_module(module_name)
        found = getattr(module, name, None)
    except (Exception, SystemExit) as e:  # no such module, or whatever the module does while it is imported
        raise ConfigError(f"cannot load {what} {path!r}: {describe(e)}{_where(e)}") from e
    if found is None:
        file = getattr(module, "__file__", None) or "built into Python"
        raise ConfigError(f"cannot load {what} {path!r}: {name!r} does not exist in module {module_name!r} ({file})")
    if not callable(found):
        raise ConfigError(f"cannot load {what} {path!r}: {name!r} is {type(found).__name__}, not callable")
    return found


def _where(error: BaseException) -> str:
    """The innermost line of the user's own code that an import failed at, for the message; "" if there is none."""
    import traceback

    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    last = frames[-1] if frames else None
    return f" (at {last.filename}:{last.lineno})" if last and last.filename != __file__ else ""


def find_modules_here() -> None:
    """Lets modules in the current folder be imported, as `python -m` does; an installed command does not by itself."""
    try:
        here = os.getcwd()
    except FileNotFoundError:  # the folder has been deleted since this process started
        return
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)


def child_environment() -> dict[str, str]:
    """The environment variables for a child process that has to find the same modules in the same places as this one.

    PYTHONPATH is this process's import path in its order, with the current folder's name where the path has "". A
    folder with a colon in its name, which would end there, is named from the current folder: start the child in it.
    """
    folders = [path or os.getcwd() for path in sys.path]
    named = [os.path.relpath(path) if os.pathsep in path else path for path in folders]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(named)}
