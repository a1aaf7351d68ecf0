"""How many processes train together: what a launcher says, and not what a scheduler left in the environment.

`torchrun`, `accelerate launch` and `deepspeed` give each process all of `LAUNCHER`, by which the processes find each
other. Job scripts for Slurm export WORLD_SIZE, also where a single process is started without a launcher. That one
trains alone. Where several processes were meant and this one would train alone all the same, that is an error.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import ConfigError

LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_DECIDING = LAUNCHER[:3]  # those by which accelerate, TRL and torch would take a single process for one of several

_ALONE = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}  # what is true of a process without a launcher
_ON_CPUS = "ACCELERATE_USE_CPU=true python -m torch.distributed.run --nproc_per_node N -m ibtpo train …"


def process_count() -> int:
    """The number of processes that a launcher started, this one among them; 1 without a launcher."""
    return int(os.environ["WORLD_SIZE"]) if _is_launched() else 1


def _is_launched() -> bool:
    numbers = [os.environ.get(name, "") for name in _DECIDING]
    return all(map(str.isdecimal, numbers)) and all(os.environ.get(name) for name in LAUNCHER)


@contextmanager
def alone_unless_launched(warn: Callable[[str], None]) -> Iterator[None]:
    """Hides a WORLD_SIZE that a scheduler exported from this process and its libraries while the block runs.

    warn: called with a sentence if it could have meant several processes.

    Raises `ConfigError` for a process that is told its rank among several, but not how to find the others.
    """
    strays = {} if _is_launched() else {name: os.environ[name] for name in _DECIDING if name in os.environ}
    if _ALONE | {name: value for name, value in strays.items() if value} != _ALONE:
        found = ", ".join(f"{name}={value}" for name, value in strays.items())
        lacking = ", ".join(name for name in LAUNCHER if not os.environ.get(name)) or "numbers"
        if strays.get("RANK") or strays.get("LOCAL_RANK"):
            raise ConfigError(
                f"{found} in the environment, but not all that a launcher sets ({lacking} missing): each process would "
                f"train alone, into the same folder; start them with accelerate launch, or unset {', '.join(strays)}"
            )
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


def check_process_count(found: int) -> None:
    """Refuses a launch that would make of several processes as many runs of one.

    found: how many processes accelerate has brought together.

    Raises `ConfigError` if a launcher started another number, and if `accelerate launch` was to start several and
    started one, as it does on a CPU or with one GPU.
    """
    if process_count() != found:
        raise ConfigError(
            f"a launcher started {process_count()} processes, but accelerate brought {found} together, so that each "
            f"would train alone; on CPUs start them with {_ON_CPUS}"
        )
    # It sets an address for several processes only, and ACCELERATE_MIXED_PRECISION always.
    asked = all(os.environ.get(name) for name in ("ACCELERATE_MIXED_PRECISION", "MASTER_ADDR", "MASTER_PORT"))
    if asked and not _is_launched():
        raise ConfigError(
            f"accelerate launch was to start several processes and started one, as it does on a CPU or with one GPU: "
            f"on CPUs start them with {_ON_CPUS}; for one give --num_processes 1 and unset MASTER_ADDR"
        )


def same_everywhere(value: Any) -> Any:
    """Returns the main process's `value` in every process; all of them must make this call."""
    if process_count() == 1:
        return value
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list, parse_flag_from_env

    # accelerate heeds the variable only where it makes its state itself; without it processes on CPUs are strangers.
    PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))
    return broadcast_object_list([value])[0]
