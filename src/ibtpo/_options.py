"""The one table of options: each option of trees, scores, credit, sampling and verifying, declared once.

A field of a dataclass (`ScoreOptions`, `IBTPOConfig`, …) and an option of the command line take default, help and
choices from their row here. The rows stand in a module of their own, apart from the dataclasses, because a help text
must not load numpy, which scores need, or torch, which the trainer's configuration needs.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")

DOTTED = "package.module:function"  # stands among the choices where a function of one's own may be named


@dataclass(frozen=True, slots=True)
class Option:
    """One row.

    default: the value where nothing is given; its type is the option's type.
    help: what it means, in a few words, without default and choices.
    choices: what may be given, if that can be listed.
    """

    default: Any
    help: str
    choices: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The help text with the choices."""
        if not self.choices:
            return self.help
        return f"{self.help}: {', '.join(self.choices[:-1])} or {self.choices[-1]}"


OPTIONS = {
    # Trees.
    "tree": Option("4,9,1,1", "B0,L,K,B: B0 first rollouts, then L-1 rounds of K places with B rollouts each"),
    "branching": Option("ib", "where trees branch", ("ib", "entropy", "fixed_width", "random", "independent", DOTTED)),
    "splitter": Option(
        "blank_line",
        "what ends a step",
        ("blank_line", "delimiter:TEXT", "regex:PATTERN", "tokens:COUNT", "sentence", "noisy:SHARE", DOTTED),
    ),
    "lookahead": Option(0, "rounds a tree starts before the running one has returned: faster with few problems"),
    "max_in_flight": Option(64, "rollouts at the engine at once"),
    # Sampling.
    "temperature": Option(0.7, "sampling temperature"),
    "top_p": Option(0.95, "nucleus sampling; 1 is off"),
    "top_k": Option(20, "sample from the k most likely tokens; 0 is off"),
    "max_completion_length": Option(2048, "most tokens of an answer"),
    # Scores.
    "ib_beta": Option(5.0, "beta of the Information Bottleneck"),
    "value": Option("leaves", "value of a node", ("leaves", "draws")),
    "confidence": Option("geomean", "confidence in a step", ("geomean", "joint", "head:K")),
    "weight": Option("draws", "weight of a child in the IB-Score", ("draws", "unique")),
    "ratio_prior": Option(0.0, "a > 0 smooths p-hat in ratios as (k+a)/(n+2a)"),
    # Credit.
    "advantage": Option("ibtpo", "advantage of a step", ("ibtpo", "grpo", "treerl", "treepo", DOTTED)),
    "lam": Option(0.1, "weight of the local IB advantage"),
    "ib_on_uniform_trees": Option(True, "keep the IB advantage in trees that are all right or all wrong"),
    "prefix_weight": Option("trajectories", "weight of shared tokens", ("trajectories", "once", "sqrt")),
    # Verifying.
    "verifier_timeout": Option(30.0, "seconds a verifier may take for one answer"),
    "verifier_workers": Option(2, "child processes for verifiers given by name"),
}


def option(name: str, **changes: Any) -> Any:
    """A dataclass field for the option `name`. changes: what differs there (default, help, choices)."""
    row = dataclasses.replace(OPTIONS[name], **changes)
    return dataclasses.field(default=row.default, metadata={"help": row.text, "choices": row.choices})


def pick(cls: Callable[..., T], source: Any, **given: Any) -> T:
    """An options object made by name from whatever holds its fields: a configuration, or a parsed command line.

    cls: the dataclass to make. source: its attributes of the same names as the fields are taken; a field it lacks
    keeps its default. given: values that go before those of `source`.
    """
    names = [f.name for f in dataclasses.fields(cls) if f.name not in given and hasattr(source, f.name)]  # type: ignore[arg-type]
    return cls(**{name: getattr(source, name) for name in names}, **given)


# Names that stored trees and results of earlier versions hold, and today's.
RENAMED = {"beta": "ib_beta", "max_new_tokens": "max_completion_length"}


def todays_names(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Options read from a file, at any depth under the names they have today; the file may be of an earlier version.

    For options of trees, scores, credit and sampling only: in a trainer's settings `beta` is TRL's KL weight.
    """
    return {
        RENAMED.get(key, key): todays_names(value) if isinstance(value, Mapping) else value
        for key, value in stored.items()
    }
