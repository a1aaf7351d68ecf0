"""Problems of reasoning-gym, more than a hundred tasks that are made up on the spot: `reasoning_gym:countdown`.

    reasoning_gym:countdown:test                        the held-out problems
    reasoning_gym:countdown,min_numbers=4,size=500      a task's own parameters; 500 problems; `seed=1` for others

A row's column `reasoning_gym` says in JSON which problem it is, and holds the entry that the task's scorer needs as a
Python literal, where it is one. Where it is none, the entry is made again from its seed.
"""

import ast
import hashlib
import json
import random
import re
from collections.abc import Iterator
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

from .._text import describe, short
from ..errors import ConfigError, DataError, DependencyError, unknown

PREFIX = "reasoning_gym:"
COLUMN = "reasoning_gym"  # JSON, since the fields of a table's column must be of one kind
SPLITS = ("train", "test")
SIZE = 1000  # problems, where neither the source nor a limit says how many
HELD_OUT_ONE_IN = 4  # of the different questions
_SEEDS = 1 << 20  # problems that a seed of the source stands for
_TRIES = 50  # for each problem that is wanted: a task that has not given enough by then has no more
_INSTALL = "pip install 'ibtpo[reasoning-gym]'"


def make_rows(source: str, split: str, limit: int | None, seed: int) -> Iterator[dict[str, Any]]:
    """The rows of a source, with `id`, `question`, `answer` and which problem it is; no question comes twice.

    A question's text alone decides whether it is held out: no seed and no size brings one into both splits.

    source: see the head of this module.
    split: "train" or "test", where the source does not say.
    limit: how many; by default what the source says, else `SIZE`.
    seed: of the problems, where the source does not say.

    Raises `ConfigError` for a task, split or parameter that does not exist, `DataError` where a task has fewer
    questions, and `DependencyError` where reasoning-gym is not installed.
    """
    task, given_split, config = parse(source)
    split = given_split or split
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    seed = _whole(source, "seed", config.pop("seed", seed), 0)
    size = _whole(source, "size", config.pop("size", SIZE), 1)
    wanted = size if limit is None else limit
    seen: set[str] = set()
    for number in range(min(_TRIES * wanted, _SEEDS)):
        item = {"task": task, "config": config, "seed": seed * _SEEDS + number}
        entry = make_problem(item)
        question = str(entry["question"])
        key = hashlib.sha256(question.encode("utf-8", "replace")).hexdigest()
        if key in seen or (int(key[:8], 16) % HELD_OUT_ONE_IN == 0) != (split == "test"):
            continue
        seen.add(key)
        answer = entry.get("answer")
        yield {
            "id": f"{task}-{item['seed']}",
            "question": question,
            "answer": None if answer is None else str(answer),
            COLUMN: _column({**item, "key": key[:16]}, entry),
        }
        if len(seen) == wanted:
            return
    raise DataError(
        f"{source}: {task} gave {len(seen)} different questions for {split} of the {wanted} that are wanted; ask for "
        "fewer with --limit, or widen its parameters"
    )


def parse(source: str) -> tuple[str, str, dict[str, Any]]:
    """The task of a source, its split ("" if none is named) and its parameters, `size` and `seed` among them.

    Raises `ConfigError` for what is no such source.
    """
    name, config = parameters(source, PREFIX)
    task, _, split = name.partition(":")
    return task, split, config


def parameters(source: str, prefix: str) -> tuple[str, dict[str, Any]]:
    """The name that a source has before its first comma, and the parameters that follow as `name=value`.

    source: such as `reasoning_gym:countdown,min_numbers=4`; values are YAML.
    prefix: what the source begins with.

    Raises `ConfigError` for what cannot be read so.
    """
    import yaml

    name, _, words = source.removeprefix(prefix).partition(",")
    try:
        config = yaml.safe_load("{" + re.sub(r"(^|,)\s*([a-zA-Z_]\w*)=", r"\1\2: ", words) + "}")
    except yaml.YAMLError:
        config = None
    if not name or not isinstance(config, dict) or None in config.values():
        raise ConfigError(f"{source!r} cannot be read; write {prefix}NAME or {prefix}NAME,parameter=value,other=value")
    return name, config


def make_problem(item: dict[str, Any]) -> dict[str, Any]:
    """The entry of reasoning-gym that a row stands for.

    item: what the row's column says: `task`, `config`, `seed`, and if it is from a row, `key` and maybe `entry`.

    Raises `ConfigError` for a task or parameters that do not exist and `DataError` if this machine makes another
    question of them than the row's.
    """
    if "entry" in item:
        return dict(ast.literal_eval(item["entry"]))
    dataset = make_dataset(item)
    state = random.getstate()
    random.seed(item["seed"])  # list_functions draws from the generator that all share
    try:
        entry: dict[str, Any] = dataset[0]
    except Exception as error:  # a task's generator fails in any way for parameters that it has not checked
        raise ConfigError(f"{PREFIX}{item['task']} cannot make a problem: {describe(error)}") from error
    finally:
        random.setstate(state)
    if "key" in item:
        question = str(entry["question"]).encode("utf-8", "replace")
        if hashlib.sha256(question).hexdigest()[:16] != item["key"]:
            raise DataError(
                f"{item['task']}, seed {item['seed']}: reasoning-gym makes another question of it here; grade with the "
                "version that made the data"
            )
    return entry


def make_dataset(item: dict[str, Any]) -> Any:
    """The data set of reasoning-gym, of one problem, that a row's column stands for; it has the scorer, too."""
    names = tasks()
    task, config = item["task"], dict(item["config"])
    if task not in names:
        raise unknown("reasoning-gym task", task, names)
    from reasoning_gym import create_dataset
    from reasoning_gym.factory import DATASETS

    fields = DATASETS[task][1].__dataclass_fields__
    if wrong := [name for name in config if name not in fields]:
        raise unknown(f"parameter of {task}", wrong[0], [name for name in fields if name not in ("seed", "size")])
    for name, value in config.items():
        if isinstance(value, list) and isinstance(fields[name].default, tuple):
            config[name] = tuple(value)
    try:
        return create_dataset(task, seed=item["seed"], size=1, **config)
    except Exception as error:  # asserts, type errors: whatever a task checks its parameters with
        raise ConfigError(f"{PREFIX}{task} refuses {short(config, 120)}: {describe(error)}") from error


@lru_cache(maxsize=1)
def tasks() -> tuple[str, ...]:
    """The names of all tasks. Raises `DependencyError` where reasoning-gym is not installed."""
    try:
        import reasoning_gym  # noqa: F401
        from reasoning_gym.factory import DATASETS
    except ModuleNotFoundError as error:
        raise DependencyError(f"{PREFIX}… needs the package {error.name!r}: {_INSTALL}") from error
    return tuple(sorted(DATASETS))


def is_installed() -> bool:
    """Whether reasoning-gym can be imported, without importing it."""
    return find_spec("reasoning_gym") is not None


def _column(item: dict[str, Any], entry: dict[str, Any]) -> str:
    """The text of a row's column, with the entry in it if that is a literal: JSON alone has no tuples."""
    text = repr(entry)
    try:
        literal = ast.literal_eval(text) == entry
    except (ValueError, SyntaxError, MemoryError, RecursionError):  # it holds objects
        literal = False
    return json.dumps({**item, "entry": text} if literal else item)


def _whole(source: str, name: str, value: Any, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < _SEEDS:
        raise ConfigError(f"{source!r}: {name} must be a whole number from {least} on, got {value!r}")
    return value
