"""Arms of a branching comparison: a branching rule, and changed score options after commas, such as "ib,ib_beta=1"."""

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from .._options import RENAMED
from ..errors import ConfigError

if TYPE_CHECKING:
    from ..search import SearchOptions

ARMS = (
    "random", "fixed_width", "entropy", "ib", "ib,ib_beta=1", "ib,ib_beta=20", "ib,value=draws", "ib,confidence=joint",
    "ib,confidence=head:1", "ib,weight=unique",
)  # fmt: skip
POOL = "independent"
GROUPS = (8, 12)  # the paper's


def arm_options(arm: str, base: "SearchOptions") -> "SearchOptions":
    """The options of an arm such as "ib,ib_beta=1", which may still be written "ib,beta=1".

    Raises `ConfigError` for what is no score option.
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
    """The options under which the pool of independent answers is sampled."""
    from ..search import Budget

    return replace(base, branching=POOL, budget=Budget(answers, 1, 1, 1), lookahead=0)
