"""Tasks of the package `verifiers` as rows: `verifiers:my-taskset`, `verifiers:my-taskset,split=test`.

What follows a comma goes into the taskset's own configuration. A task is found again by its place in the taskset, which
must give the same tasks each time; its key is compared. Tasks that need more than an agent that talks and calls tools,
such as a container or a reward that looks into a runtime, are refused: that part would be left out. A taskset
with tools, or with an environment of its own, is answered in turns (`turns`).
"""

import asyncio
import itertools
import json
from collections.abc import Iterator
from typing import Any

from ..._text import describe
from ...environments.live import background_loop
from ...errors import ConfigError, DataError, IBTPOError
from ..reasoning_gym import parameters
from .loading import PREFIX, answered_by, check_task, load_taskset, messages
from .turns import VerifiersTools, VerifiersTurns

COLUMN = "verifiers"  # of a row, as JSON: which task it is, and under "turns" what answers it, if anything does
ENVIRONMENTS = {kind.__name__: f"{kind.__module__}:{kind.__name__}" for kind in (VerifiersTurns, VerifiersTools)}
OPENING = 60.0  # seconds in which a conversation must be opened


def make_rows(source: str, limit: int | None) -> Iterator[dict[str, Any]]:
    """The rows of a taskset: `id`, `prompt` and which task it is.

    source: see the head of this module.
    limit: how many; by default all, of a taskset without an end 1000.

    Raises `ConfigError` for a taskset that cannot be loaded or needs too much, and `DependencyError` where the package
    is not installed.
    """
    name, config = parameters(source, PREFIX)
    settings = json.dumps(config, sort_keys=True)
    taskset, turns = load_taskset(name, settings), answered_by(name, settings)
    most = limit if limit is not None else None if taskset.bounded else 1000
    tasks = itertools.islice(taskset, most)
    openings = _Openings()
    try:
        for index in itertools.count():
            try:
                task = next(tasks, None)
            except Exception as error:  # a taskset reads data of its own, in its own way
                raise DataError(f"{source}: task {index} cannot be read: {describe(error)}") from error
            if task is None:
                return
            check_task(source, task, turns is not None)
            item = {"taskset": name, "config": config, "index": index, "key": task.key}
            if turns is not None:
                item["turns"] = turns
            if turns is not None and task.data.prompt is None:  # its environment opens the conversation
                item["prompt"] = openings.of(json.dumps(item))
            prompt = item.get("prompt") or messages(task)
            yield {"id": task.data.id or f"{name}-{index}", "prompt": prompt, COLUMN: json.dumps(item)}
    finally:
        openings.close()


def environment_of(column: str) -> str | None:
    """What answers the turns of a task, as a dotted path; None for a task that takes one answer."""
    try:
        return ENVIRONMENTS[json.loads(column)["turns"]]
    except (ValueError, TypeError, KeyError):  # it takes one answer, or a file has a column of the same name
        return None


class _Openings:
    """Asks environments how they open a conversation."""

    def __init__(self) -> None:
        self._environment: VerifiersTurns | None = None

    def of(self, column: str) -> list[dict[str, Any]]:
        """What the environment of a task says first. Raises `ConfigError`."""
        self._environment = self._environment or VerifiersTurns()
        future = asyncio.run_coroutine_threadsafe(self._environment.open(column), background_loop())
        try:
            return future.result(OPENING)
        except IBTPOError:
            raise
        except Exception as error:
            future.cancel()
            name = json.loads(column)["taskset"]
            raise ConfigError(f"{PREFIX}{name} does not open a conversation: {describe(error)}") from error

    def close(self) -> None:
        if self._environment is not None:
            asyncio.run_coroutine_threadsafe(self._environment.close(), background_loop()).result(OPENING)
