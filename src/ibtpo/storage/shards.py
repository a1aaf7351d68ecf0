"""Shards: a job's problems spread over several commands, on one machine or many, and their results joined.

Shard I of N takes every N-th problem, beginning with the I-th, and stores its part in a file of its own,
`trees.shard-I-of-N.jsonl.gz` beside where the whole, `trees.jsonl.gz`, would be. Trees do not depend on what grows
beside them, so the joined file is the one that a single command would have written.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ..errors import ConfigError

T = TypeVar("T")
ENDINGS = (".jsonl.gz", ".jsonl", ".json")
_TAG = re.compile(r"\.shard-(\d+)-of-(\d+)")


@dataclass(frozen=True)
class Shard:
    """One shard: number I, from 1, of N."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Reads `I/N`. Raises `ConfigError` unless 1 <= I <= N."""
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise ConfigError(f"a shard is I/N with I from 1 to N, such as 2/4; got {text!r}")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def of(self, items: Sequence[T]) -> list[T]:
        """Its part of the items. Raises `ConfigError` if there are fewer items than shards."""
        if len(items) < self.count:
            raise ConfigError(f"--shard {self}: only {len(items)} problems; use at most so many shards")
        return list(items[self.number - 1 :: self.count])

    def file(self, whole: Path) -> Path:
        """Where it stores its part of what the file `whole` holds without shards."""
        head, ending = _split(whole)
        return whole.with_name(f"{head}.shard-{self.number}-of-{self.count}{ending}")


def shards_of(whole: Path) -> list[Path]:
    """The files of all shards of a file, in the order of their numbers.

    whole: the file that they are to be joined to.

    Raises `ConfigError` if there are none, if one is missing or unfinished, or if they are of different numbers of
    shards.
    """
    head, ending = _split(whole)
    found: dict[int, dict[int, Path]] = {}
    for path in sorted(whole.parent.glob(f"*.shard-*-of-*{ending}*")):
        name = path.name.removesuffix(".partial")
        tag = _TAG.search(name)
        if tag is None or name != f"{head}{tag[0]}{ending}":
            continue
        shard = Shard(int(tag[1]), int(tag[2]))
        if name != path.name:
            raise ConfigError(f"{path}: shard {shard} is not finished; go on with it with --shard {shard} --resume")
        found.setdefault(shard.count, {})[shard.number] = path
    if not found:
        raise ConfigError(f"no shards of {whole}: expected files such as {Shard(1, 2).file(whole).name} beside it")
    if len(found) > 1:
        counts = " and ".join(map(str, sorted(found)))
        raise ConfigError(f"{whole}: there are shards of {counts}; delete those that do not belong to it")
    ((count, files),) = found.items()
    missing = [f"{number}/{count}" for number in range(1, count + 1) if number not in files]
    if missing:
        raise ConfigError(f"{whole}: not there yet: shard {', '.join(missing)}")
    return [files[number] for number in range(1, count + 1)]


def sharded_files(folder: Path) -> list[Path]:
    """The files that shards in a folder are to be joined to, in order of their names."""
    names = {_TAG.sub("", p.name.removesuffix(".partial")) for p in folder.glob("*.shard-*-of-*")}
    return [folder / name for name in sorted(names) if name.endswith(ENDINGS)]


def interleave(parts: Sequence[Sequence[T]], whole: Path) -> list[T]:
    """The items of all shards in the order that they had before `Shard.of`.

    parts: the items of each shard.
    whole: the file, for the message.

    Raises `ConfigError` if the sizes are not those of shards of the same problems.
    """
    total = sum(map(len, parts))
    wanted = [len(range(i, total, len(parts))) for i in range(len(parts))]
    if [len(part) for part in parts] != wanted:
        sizes = ", ".join(str(len(part)) for part in parts)
        raise ConfigError(
            f"{whole}: its shards hold {sizes} problems, which are no shards of one set; run those anew that had other "
            "problems"
        )
    return [parts[i % len(parts)][i // len(parts)] for i in range(total)]


def _split(path: Path) -> tuple[str, str]:
    """A file's name before its ending, and the ending."""
    ending = next((e for e in ENDINGS if path.name.endswith(e)), path.suffix)
    return path.name.removesuffix(ending), ending
