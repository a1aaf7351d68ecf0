"""Every error ibtpo raises on purpose.

    IBTPOError
    ├── ConfigError        (ValueError)    an option is unknown, out of range, or does not fit another
    ├── DataError          (ValueError)    a file or row is wrong; the message names file and line
    ├── EngineError        (RuntimeError)  a rollout could not be generated
    ├── VerifierError      (RuntimeError)  a verifier broke its contract
    ├── CheckpointError    (RuntimeError)  a run folder cannot be resumed
    └── DependencyError    (ImportError)   an optional package is missing; the message names the install line

Each also inherits the standard type in brackets, so code that catches `ValueError` keeps working.
A message says what is wrong, the values found, and what to do.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class IBTPOError(Exception):
    """Base of all errors raised on purpose."""


class ConfigError(IBTPOError, ValueError):
    """An option is unknown, out of range, or contradicts another."""


class DataError(IBTPOError, ValueError):
    """A file or a row of it is wrong."""


class EngineError(IBTPOError, RuntimeError):
    """A rollout could not be generated."""


class VerifierError(IBTPOError, RuntimeError):
    """A verifier broke its contract (wrong number of rewards, wrong type, or nothing but failures)."""


class CheckpointError(IBTPOError, RuntimeError):
    """A run folder or checkpoint cannot be used."""


class DependencyError(IBTPOError, ImportError):
    """An optional package is missing."""


def unknown(kind: str, name: str, known: Iterable[str]) -> ConfigError:
    """A `ConfigError` for a name that is not one of `known`, naming the nearest one."""
    choices = sorted(known)
    near = get_close_matches(name, choices, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(choices)}"
    return ConfigError(f"unknown {kind} {name!r}; {hint}")
