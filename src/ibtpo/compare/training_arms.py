"""Arms of a training comparison, as they are written on the command line.

An arm is a method and what it changes in the recipe, after commas: "ibtpo", "ibtpo,lam=0.5" or "grpo,advantage=ibtpo".
The keys are options of `ibtpo train`. A part without "=" belongs to the value before it: "ibtpo,tree=4,5,2,1".
"""

from collections.abc import Iterable
from typing import Any

from ..errors import ConfigError, unknown
from ..storage.yaml_file import yaml_value
from ..training.methods import METHODS

REFERENCE = "ibtpo"  # the arm all others are compared with
# The paper's parts of the method one by one, then its λ, its β and the noise on step boundaries.
COMPONENTS = (
    "grpo", "ibtpo,advantage=grpo", "grpo,advantage=ibtpo", "ibtpo,branching=random", "ibtpo,branching=entropy",
    "ibtpo", "ibtpo,lam=0", "ibtpo,lam=0.05", "ibtpo,lam=0.2", "ibtpo,lam=0.5", "ibtpo,ib_beta=1", "ibtpo,ib_beta=20",
    "ibtpo,splitter=noisy:0.1",
)  # fmt: skip
PRESETS = {"methods": (*(m for m in METHODS if m != REFERENCE), REFERENCE), "components": COMPONENTS}

# Options a comparison sets itself, and what to give in their place.
OWN = {
    "method": "the arm's first word",
    "seed": "--seeds",
    "learning_rate": "--learning-rates",
    "max_generated_tokens": "--tokens",
    "max_steps": "--tokens",
    "num_train_epochs": "--tokens",
    "eval_every_tokens": "--evaluations",
    "eval_before": "nothing: the untrained model is measured in every run",
}
# Options that decide what is asked and how it is judged: one value for all arms.
SHARED = (
    "model", "dtype", "data", "data_split", "limit", "eval_data", "eval_limit", "eval_k", "question_column",
    "answer_column", "verifier", "reward_weights", "system_prompt", "instruction", "temperature", "top_p", "top_k",
    "max_completion_length",
)  # fmt: skip


def expand(words: Iterable[str]) -> list[str]:
    """Arms with the lists "methods" and "components" spelt out, each arm once. Raises `ConfigError` as `parse` does."""
    arms = list(dict.fromkeys(arm for word in words for arm in PRESETS.get(word, (word,))))
    folders: dict[str, str] = {}
    for arm in arms:
        parse(arm)
        other = folders.setdefault(folder_name(arm), arm)
        if other != arm:
            raise ConfigError(f"--arms {other!r} and {arm!r} would share the folder {folder_name(arm)}; leave one out")
    return arms


def parse(arm: str) -> dict[str, Any]:
    """The options of an arm, `method` among them. Whether the method has them, `settings.resolve` finds out."""
    method, *parts = arm.split(",")
    if method not in METHODS:
        raise unknown("arm", method, (*METHODS, *PRESETS))
    options = assignments(parts, f"--arms {arm!r}")
    for name in options:
        if name in SHARED:
            raise ConfigError(f"--arms {arm!r}: {name} must be the same in all arms; give --set {name}=…")
    return {"method": method, **options}


def assignments(parts: Iterable[str], where: str) -> dict[str, Any]:
    """KEY=VALUE parts as options, values read as YAML. where: what a message calls their source."""
    texts: dict[str, str] = {}
    last = ""
    for part in parts:
        name, equals, text = part.partition("=")
        if not equals:
            if not last:
                raise ConfigError(f"{where}: {part!r} is no KEY=VALUE, e.g. lam=0.5")
            texts[last] += f",{part}"
            continue
        last = name.strip().replace("-", "_")
        if last in OWN:
            raise ConfigError(f"{where}: {last} is set by the comparison; give {OWN[last]}")
        texts[last] = text
    return {name: yaml_value(text) for name, text in texts.items()}


def folder_name(arm: str) -> str:
    """The arm as a folder's name."""
    return "".join(c if c.isalnum() or c in "._" else "-" for c in arm)
