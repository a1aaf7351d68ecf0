"""Every error that ibtpo raises on purpose.

    IBTPOError
    ├── ConfigError        (ValueError)    an option is unknown, out of range, or does not fit another
    ├── DataError          (ValueError)    a file or row is wrong; the message names file and line
    ├── EngineError        (RuntimeError)  a rollout could not be generated
    ├── VerifierError      (RuntimeError)  a verifier broke its contract
    ├── CheckpointError    (RuntimeError)  a run folder or checkpoint cannot be used
    └── DependencyError    (ImportError)   an optional package is missing; the message names the install line

Each class also inherits the standard type in brackets, so that code which catches `ValueError`, for example, keeps
working. A message says what is wrong, which values were found, and what to do.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class IBTPOError(Exception):
    """The base of all errors that ibtpo raises on purpose."""


class ConfigError(IBTPOError, ValueError):
    """An option is unknown, out of range, or contradicts another."""


class DataError(IBTPOError, ValueError):
    """A file or one of its rows is wrong."""


class EngineError(IBTPOError, RuntimeError):
    """A rollout could not be generated."""


class VerifierError(IBTPOError, RuntimeError):
    """A verifier broke its contract: it gave a wrong number of rewards or a wrong type, or it only failed."""


class CheckpointError(IBTPOError, RuntimeError):
    """A run folder or checkpoint cannot be used."""


class DependencyError(IBTPOError, ImportError):
    """An optional package is missing."""


# What a function of the user's own may stand for, besides the built-in names.
_OWN = ("advantage", "branching rule", "engine", "splitter")


def unknown(kind: str, name: str, known: Iterable[str]) -> ConfigError:
    """Makes the `ConfigError` for a name that does not exist; it suggests the nearest known one, or lists all.

    A name such as "mytask.rule", where a function of one's own may be given, was meant to be "mytask:rule".

    kind: what the name is a name of, such as "regularizer".
    name: the name that was given.
    known: the names that exist.
    """
    module, _, function = name.rpartition(".")
    if kind in _OWN and module and all(part.isidentifier() for part in name.split(".")):
        return ConfigError(f"unknown {kind} {name!r}; for a function of your own, write {module}:{function}")
    choices = sorted(known)
    near = get_close_matches(name, choices, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(choices)}"
    return ConfigError(f"unknown {kind} {name!r}; {hint}")
