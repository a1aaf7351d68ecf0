"""Which extra of ours brings which optional package, for errors that name the install line."""

from .errors import DependencyError

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
