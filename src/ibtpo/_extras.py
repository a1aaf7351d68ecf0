"""Which extra of ours brings which optional package, for errors that name the install line."""

import importlib
from collections.abc import Callable

from .errors import ConfigError, DependencyError

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
    "safetensors": "torch",
    "torch": "torch",
    "transformers": "torch",
    "trl": "train",
    "vllm": "vllm",
}


def missing_package(error: ModuleNotFoundError, what: str) -> DependencyError | None:
    """The error to raise in place of `error`; None if it is about no optional package of ours.

    what: what needs the package, the subject of the message.
    """
    package = (error.name or "").partition(".")[0]
    extra = EXTRAS.get(package)
    return DependencyError(f"{what} needs the package {package!r}: pip install 'ibtpo[{extra}]'") if extra else None


def load_object(path: str) -> Callable[..., list[int]]:
    """The function a dotted path `package.module:name` stands for."""
    module, _, attribute = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as e:  # no such module, no such name, or whatever the module raises while it is imported
        raise ConfigError(f"cannot load {path!r}: {type(e).__name__}: {e}") from e
    if not callable(found):
        raise ConfigError(f"cannot load {path!r}: it is a {type(found).__name__}, not a function")
    return found
