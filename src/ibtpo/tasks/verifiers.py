"""Tasks of the package `verifiers` that take one answer: `verifiers:my-taskset`, `verifiers:my-taskset,split=test`.

What follows a comma goes into the taskset's own configuration. A task is found again by its place in the taskset, which
must give the same tasks each time; its key is compared. Tasks that need more than an answer (tools, a container, an
environment of their own, rewards that look into one) are refused: this package would leave that part out.
"""

import inspect
import itertools
import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from .._text import describe
from ..errors import ConfigError, DataError, DependencyError
from .reasoning_gym import parameters

PREFIX = "verifiers:"
COLUMN = "verifiers"  # of a row, as JSON: which task it is
_INSTALL = "pip install 'ibtpo[verifiers]'"
_ONLY = "only tasks that take one answer can be used"


def make_rows(source: str, limit: int | None) -> Iterator[dict[str, Any]]:
    """The rows of a taskset: `id`, `prompt` and which task it is.

    source: see the head of this module.
    limit: how many; by default all, of a taskset without an end 1000.

    Raises `ConfigError` for a taskset that cannot be loaded or needs more than an answer, and `DependencyError` where
    the package is not installed.
    """
    name, config = parameters(source, PREFIX)
    taskset = load_taskset(name, json.dumps(config, sort_keys=True))
    most = limit if limit is not None else None if taskset.bounded else 1000
    tasks = itertools.islice(taskset, most)
    for index in itertools.count():
        try:
            task = next(tasks, None)
        except Exception as error:  # a taskset reads data of its own, in its own way
            raise DataError(f"{source}: task {index} cannot be read: {describe(error)}") from error
        if task is None:
            return
        _check(source, task)
        item = {"taskset": name, "config": config, "index": index, "key": task.key}
        identity = task.data.id or f"{name}-{index}"
        yield {"id": identity, "prompt": messages(task), COLUMN: json.dumps(item)}


def messages(task: Any) -> list[dict[str, str]]:
    """The conversation that a task opens with, as text only."""
    data = task.data
    if data.prompt is None:
        raise ConfigError(
            f"{type(task).__name__}: its user opens the conversation; only tasks with a prompt can be used"
        )
    given = [{"role": "user", "content": data.prompt}] if isinstance(data.prompt, str) else []
    for message in [] if isinstance(data.prompt, str) else data.prompt:
        if not isinstance(message.content, str):
            raise ConfigError(f"{type(task).__name__}: its prompt holds more than text, such as images")
        given.append({"role": message.role, "content": message.content})
    return ([{"role": "system", "content": data.system_prompt}] if data.system_prompt else []) + given


@lru_cache(maxsize=8)
def load_taskset(name: str, config: str) -> Any:
    """The taskset of that name.

    name: as verifiers finds it: a module or package that exports a `Taskset`.
    config: its configuration as JSON.

    Raises as `make_rows`.
    """
    try:
        import verifiers.v1 as vf
        from verifiers.v1.utils import loaders
        from verifiers.v1.utils.generic import concrete_type
    except ModuleNotFoundError as error:
        raise DependencyError(
            f"{PREFIX}… needs the package {error.name!r}, verifiers 0.4 or newer: {_INSTALL}"
        ) from error
    try:
        kind = loaders.taskset_class(name)
        taskset = kind((concrete_type(kind, vf.TasksetConfig) or vf.TasksetConfig)(id=name, **json.loads(config)))
        environment = loaders.environment_class(name)
        tools = kind.toolsets(taskset.config)
    except Exception as error:  # a missing module, a wrong configuration, whatever the taskset does
        raise ConfigError(f"{PREFIX}{name} cannot be loaded: {describe(error)}") from error
    if environment is not vf.SingleAgentEnv:
        raise ConfigError(f"{PREFIX}{name} has an environment of its own, {environment.__name__}; {_ONLY}")
    if tools:
        raise ConfigError(f"{PREFIX}{name} has tools; {_ONLY}")
    return taskset


def _check(source: str, task: Any) -> None:
    """Raises `ConfigError` if a task needs more than an answer."""
    needs = None
    rewards = task.hooks("reward")
    if task.NEEDS_CONTAINER:
        needs = "needs a container"
    elif type(task).toolsets(task.config):
        needs = "has tools"
    elif task.plugged_judges():
        needs = "is graded by a model"
    elif not rewards:
        needs = "has no reward"
    else:
        runtime = [inspect.signature(function).parameters.get("runtime") for function in rewards]
        if any(parameter is not None and parameter.default is parameter.empty for parameter in runtime):
            needs = "has a reward that looks into its runtime"
    if needs is not None:
        raise ConfigError(f"{source}: {type(task).__name__} {needs}; {_ONLY}")
