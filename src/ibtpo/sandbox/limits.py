"""What a run of untrusted code may use."""

from dataclasses import asdict, dataclass

from ..errors import ConfigError


@dataclass(frozen=True, slots=True)
class Limits:
    """What a run of untrusted code may use.

    seconds: CPU time, rounded up to whole seconds.
    patience: seconds by the clock.
    memory: bytes of address space.
    output: bytes of each file, standard output among them.
    scratch: bytes of all files in /tmp, the only folder that can be written; it lasts as long as the sandbox.
    files: open files.
    threads: threads. There are no further processes.
    """

    seconds: float = 6.0
    patience: float = 18.0
    memory: int = 1 << 30
    output: int = 4 << 20
    scratch: int = 32 << 20
    files: int = 64
    threads: int = 16

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not value > 0:
                raise ConfigError(f"the sandbox's {name} must be positive, got {value}")
