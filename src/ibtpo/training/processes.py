"""How many processes train together: what a launcher says, and not what a scheduler left in the environment.

`torchrun`, `accelerate launch` and `deepspeed` give each process all of `LAUNCHER`, by which the processes find each
other. Job scripts for Slurm export some of them, WORLD_SIZE above all, also where a single process is started without a
launcher. That one trains alone.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_DECIDING = LAUNCHER[:3]  # those by which accelerate, TRL and torch would take a single process for one of several

_ALONE = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}  # what is true of a process without a launcher


def process_count() -> int:
    """The number of processes that a launcher started, this one among them; 1 without a launcher."""
    return int(os.environ["WORLD_SIZE"]) if _is_launched() else 1


def _is_launched() -> bool:
    numbers = [os.environ.get(name, "") for name in _DECIDING]
    return all(map(str.isdecimal, numbers)) and all(os.environ.get(name) for name in LAUNCHER)


@contextmanager
def alone_unless_launched(warn: Callable[[str], None]) -> Iterator[None]:
    """Hides what a scheduler exported from this process and its libraries while the block runs.

    warn: called with a sentence if that could have meant several processes.
    """
    strays = {} if _is_launched() else {name: os.environ[name] for name in _DECIDING if name in os.environ}
    if _ALONE | {name: value for name, value in strays.items() if value} != _ALONE:
        found = ", ".join(f"{name}={value}" for name, value in strays.items())
        lacking = ", ".join(name for name in LAUNCHER if not os.environ.get(name)) or "numbers"
        warn(
            f"{found} in the environment, but no launcher started this process ({lacking} missing): it trains alone; "
            f"for several processes use accelerate launch"
        )
    for name in strays:
        del os.environ[name]
    try:
        yield
    finally:
        for name, value in strays.items():
            os.environ.setdefault(name, value)
