"""Reads the arms of a training comparison, as they are written on the command line.

An arm is a method, followed by what it changes in the recipe, with commas between: "ibtpo", "ibtpo,lam=0.5" or
"grpo,advantage=ibtpo". The keys are options of `ibtpo train`. A part without "=" belongs to the value before it, so
that a value may hold commas: "ibtpo,tree=4,5,2,1".
"""

from collections.abc import Iterable
from typing import Any

from ..errors import ConfigError, unknown
from ..storage.yaml_file import yaml_value
from ..training.methods import METHODS

REFERENCE = "ibtpo"  # the arm that all others are compared with
BASELINE = "grpo"  # and that all are compared with, too, where it is an arm
# The parts of the paper's method one by one, then its λ, its β and noise on step boundaries.
COMPONENTS = (
    "grpo", "ibtpo,advantage=grpo", "grpo,advantage=ibtpo", "ibtpo,branching=random", "ibtpo,branching=eptree",
    "ibtpo", "ibtpo,lam=0", "ibtpo,lam=0.05", "ibtpo,lam=0.2", "ibtpo,lam=0.5", "ibtpo,ib_beta=1", "ibtpo,ib_beta=20",
    "ibtpo,splitter=noisy:0.1",
)  # fmt: skip
PRESETS = {"methods": (*(m for m in METHODS if m != REFERENCE), REFERENCE), "components": COMPONENTS}

# Options that the comparison itself sets, and what to give in their place.
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
# Options that decide what is asked and how it is judged. Arms that differ in them could not be compared.
SHARED = (
    "model", "dtype", "data", "data_split", "limit", "eval_data", "eval_split", "eval_limit", "eval_k",
    "question_column", "answer_column", "verifier", "reward_weights", "system_prompt", "instruction",
    "chat_template_kwargs", "temperature", "top_p", "top_k", "max_completion_length",
)  # fmt: skip


def expand(words: Iterable[str]) -> list[str]:
    """The arms that the words of `--arms` stand for, each arm once.

    words: arms, and the names of `PRESETS`, which stand for lists of arms.

    Raises `ConfigError` if one of them is no arm, or if two arms would have the same folder.
    """
    arms = list(dict.fromkeys(arm for word in words for arm in PRESETS.get(word, (word,))))
    folders: dict[str, str] = {}
    for arm in arms:
        parse(arm)
        other = folders.setdefault(folder_name(arm), arm)
        if other != arm:
            raise ConfigError(f"--arms {other!r} and {arm!r} would share the folder {folder_name(arm)}; leave one out")
    return arms


def parse(arm: str) -> dict[str, Any]:
    """The options of an arm by name, `method` among them. Whether they exist is for `settings.resolve` to find out.

    arm: a method and its changes, as the module describes.

    Raises `ConfigError` for an unknown method, for a part that cannot be read, and for an option that an arm must not
    change.
    """
    method, *parts = arm.split(",")
    if method not in METHODS:
        raise unknown("arm", method, (*METHODS, *PRESETS))
    options = assignments(parts, f"--arms {arm!r}")
    for name in options:
        if name in SHARED:
            raise ConfigError(f"--arms {arm!r}: {name} must be the same in all arms; give --set {name}=…")
    return {"method": method, **options}


def assignments(parts: Iterable[str], where: str) -> dict[str, Any]:
    """Reads KEY=VALUE parts as options, with values in YAML.

    parts: the parts; one without "=" belongs to the value before it.
    where: what an error message calls the source of the parts.

    Raises `ConfigError` if the first part has no "=", or if the comparison itself sets an option.
    """
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
    """The name of an arm's folder: the arm with "-" in place of all but letters, digits, "." and "_"."""
    return "".join(c if c.isalnum() or c in "._" else "-" for c in arm)
