"""Reads the arms of a branching comparison: a branching rule, then changed score options, as in "ib,ib_beta=1"."""

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from .._options import RENAMED
from ..errors import ConfigError

if TYPE_CHECKING:
    from ..search import SearchOptions

ARMS = (
    "random", "fixed_width", "entropy", "eptree", "ib", "ib,ib_beta=1", "ib,ib_beta=20", "ib,value=draws",
    "ib,confidence=joint", "ib,confidence=head:1", "ib,weight=unique",
)  # fmt: skip
POOL = "independent"  # the branching rule of the pool that all arms are compared with
GROUPS = (8, 12)  # the group sizes of the paper


def arm_options(arm: str, base: "SearchOptions") -> "SearchOptions":
    """The search options of an arm.

    arm: a branching rule, and after commas score options as NAME=VALUE; `beta` is the former name of `ib_beta`.
    base: the options that the arm changes.

    Raises `ConfigError` for a change that is no score option, and for a value that the option does not take.
    """
    rule, *changes = arm.split(",")
    known = {f.name: f.type for f in fields(base.score)}
    values: dict[str, Any] = {}
    for change in changes:
        name, equals, text = change.partition("=")
        name = name.strip().replace("-", "_")
        name = RENAMED.get(name, name)
        if not equals or name not in known:
            raise ConfigError(f"--arms {arm!r}: {change!r} is not one of {', '.join(f'{k}=…' for k in known)}")
        try:
            values[name] = float(text) if isinstance(getattr(base.score, name), float) else text
        except ValueError as e:
            raise ConfigError(f"--arms {arm!r}: {name} must be a number, got {text!r}") from e
    return replace(base, branching=rule, score=replace(base.score, **values))


def pool_options(base: "SearchOptions", answers: int) -> "SearchOptions":
    """The search options under which the pool of independent answers is sampled.

    base: the options of the arms.
    answers: how many answers a problem gets.
    """
    from ..search import Budget

    return replace(base, branching=POOL, budget=Budget(answers, 1, 1, 1), lookahead=0)
