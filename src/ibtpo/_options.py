"""The one table of options: each option of trees, scores, credit, sampling and verifying, declared once.

A field of a dataclass (`ScoreOptions`, `IBTPOConfig`, …) and the command-line option of the same name take default,
help and choices from their row here. The rows stand in a module of their own, apart from the dataclasses, because
`--help` must not load numpy, which scores need, or torch, which the trainer's configuration needs.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")

DOTTED = "package.module:function"  # stands among the choices where a function of one's own may be named


@dataclass(frozen=True, slots=True)
class Option:
    """One row of the table.

    default: the value where nothing is given; its type is the type of the option.
    help: what the option means, in a few words, without default and choices.
    choices: the values that may be given, if they can be listed; a form such as "tokens:COUNT" is one of them.
    """

    default: Any
    help: str
    choices: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The help text, followed by the choices where there are any."""
        if not self.choices:
            return self.help
        return f"{self.help}: {', '.join(self.choices[:-1])} or {self.choices[-1]}"


OPTIONS = {
    # Trees.
    "tree": Option("4,9,1,1", "B0,L,K,B: B0 first rollouts, then L-1 rounds of K places with B rollouts each"),
    "branching": Option(
        "ib",
        "where trees branch; the adaptive ones end a tree early that is all right or hopelessly wrong",
        (
            "ib",
            "entropy",
            "eptree",
            "fixed_width",
            "random",
            "independent",
            "ib_adaptive",
            "entropy_adaptive",
            "independent_adaptive",
            DOTTED,
        ),
    ),
    "splitter": Option(
        "blank_line",
        "what ends a step",
        ("blank_line", "delimiter:TEXT", "regex:PATTERN", "tokens:COUNT", "sentence", "noisy:SHARE", "turn", DOTTED),
    ),
    "lookahead": Option(0, "rounds a tree starts before the running one has returned: faster with few problems"),
    "max_in_flight": Option(64, "rollouts at the engine at once"),
    # Sampling.
    "temperature": Option(0.7, "sampling temperature"),
    "top_p": Option(0.95, "nucleus sampling; 1 is off"),
    "top_k": Option(20, "sample from the k most likely tokens; 0 is off"),
    "max_completion_length": Option(2048, "most tokens of an answer"),
    # Environments.
    "environment": Option(None, "what answers the model between turns: package.module:factory"),
    "environment_timeout": Option(60.0, "seconds a call of an environment or a tool may take"),
    "max_environments": Option(None, "environments that exist at once; default: one an answer under way"),
    "max_tool_calling_iterations": Option(None, "most turns of an answer that are answered; default: no limit"),
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
    "thinking_tags": Option(
        "<think> </think> <thinking> </thinking> <thought> </thought> <reasoning> </reasoning> [THINK] [/THINK] "
        "◁think▷ ◁/think▷ <|begin_of_thought|> <|end_of_thought|>",
        "pairs of tags around thinking, which built-in verifiers do not grade",
    ),
    "answer_tags": Option(
        "<answer> </answer> <|begin_of_solution|> <|end_of_solution|>",
        "pairs of tags around the final answer: where there are some, built-in verifiers grade only the last",
    ),
}


def option(name: str, **changes: Any) -> Any:
    """A dataclass field that takes default, help and choices from a row.

    name: the row's key in `OPTIONS`.
    changes: what is different in this dataclass: default, help or choices.
    """
    row = dataclasses.replace(OPTIONS[name], **changes)
    # The help names the choices. As metadata they would become argparse's in transformers' parser, which then refuses
    # "delimiter:;" because "delimiter:TEXT" is what is listed, and cannot make switches.
    return dataclasses.field(default=row.default, metadata={"help": row.text})


def pick(cls: Callable[..., T], source: Any, **given: Any) -> T:
    """Makes an options object from whatever holds its fields by name: a configuration, or a parsed command line.

    cls: the dataclass to make.
    source: the object whose attributes give the fields of the same names; a field that it lacks keeps its default.
    given: values that are used instead of those of `source`.
    """
    names = [f.name for f in dataclasses.fields(cls) if f.name not in given and hasattr(source, f.name)]  # type: ignore[arg-type]
    return cls(**{name: getattr(source, name) for name in names}, **given)


# Names that trees and results stored by earlier versions hold -> today's names.
RENAMED = {"beta": "ib_beta", "max_new_tokens": "max_completion_length"}


def todays_names(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Options that were read from a file of any version, under the names they have today.

    stored: names and values; a value may hold options in its turn. They must be options of trees, scores, credit or
        sampling: in a trainer's settings `beta` is not ours, but TRL's weight of the KL term.
    """
    return {
        RENAMED.get(key, key): todays_names(value) if isinstance(value, Mapping) else value
        for key, value in stored.items()
    }
