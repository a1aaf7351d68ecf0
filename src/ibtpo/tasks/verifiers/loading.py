"""Tasksets of the package `verifiers`, loaded and checked, and their tasks, found again by their place."""

import inspect
import itertools
import json
from functools import lru_cache
from typing import Any

from ..._text import describe
from ...errors import ConfigError, DataError, DependencyError

PREFIX = "verifiers:"
_INSTALL = "pip install 'ibtpo[verifiers]'"
_ONLY = "only tasks whose agent talks, and calls tools on this machine, can be used"


@lru_cache(maxsize=8)
def load_taskset(name: str, config: str) -> Any:
    """The taskset of that name.

    name: as verifiers finds it: a module or package that exports a `Taskset`.
    config: its configuration as JSON.

    Raises `ConfigError` for a taskset that cannot be loaded, and `DependencyError` where the package is not installed.
    """
    vf, loaders = _package()
    from verifiers.v1.utils.generic import concrete_type

    try:
        kind = loaders.taskset_class(name)
        return kind((concrete_type(kind, vf.TasksetConfig) or vf.TasksetConfig)(id=name, **json.loads(config)))
    except Exception as error:  # a missing module, a wrong configuration, whatever the taskset does
        raise ConfigError(f"{PREFIX}{name} cannot be loaded: {describe(error)}") from error


@lru_cache(maxsize=8)
def answered_by(name: str, config: str) -> str | None:
    """Which class of `turns` answers the turns of a taskset's tasks; None if they take one answer.

    name, config: see `load_taskset`.

    Raises as that, and `ConfigError` for an environment or tools that cannot be run here.
    """
    vf, loaders = _package()
    taskset = load_taskset(name, config)
    try:
        kind = loaders.environment_class(name)
        agents = _agents(loaders.env_config_type(name))
        tools = [*taskset.toolsets(taskset.config), *taskset.task_type().toolsets(taskset.config.task)]
    except Exception as error:
        raise ConfigError(f"{PREFIX}{name} cannot be loaded: {describe(error)}") from error
    if kind is vf.SingleAgentEnv and not tools:
        return None
    if len(agents) != 1:
        raise ConfigError(
            f"{PREFIX}{name} has an environment, {kind.__name__}, of {len(agents)} agents ({', '.join(agents)}); only "
            "those of one agent can be used"
        )
    ((role, agent),) = agents.items()
    harness = loaders.default_harness_id(name) if agent.harness is None else agent.harness.id
    if harness not in ("bash", "null"):
        raise ConfigError(f"{PREFIX}{name}: its agent is the program {harness!r}; {_ONLY}")
    if agent.model is not None or agent.client is not None:
        raise ConfigError(f"{PREFIX}{name}: its agent {role!r} has a model of its own, so there is nothing to train")
    if any(tool.config.url is None and tool.config.runtime.type != "subprocess" for tool in tools):
        raise ConfigError(f"{PREFIX}{name} has tools in a container; {_ONLY}")
    return "VerifiersTools" if tools else "VerifiersTurns"


def environment_config(name: str, config: str) -> tuple[Any, str, type]:
    """The configuration of a taskset's environment, the name of its agent, and its class.

    The agent talks, and does nothing else: it has no program, and its runtime is an empty folder.
    """
    _, loaders = _package()
    kind = loaders.env_config_type(name)
    (role,) = _agents(kind)
    talks = {"harness": {"id": "null"}, "runtime": {"type": "subprocess"}}
    given = {"taskset": {"id": name, **json.loads(config)}, role: talks}
    return kind.model_validate(given), role, loaders.environment_class(name)


def _agents(config: Any) -> dict[str, Any]:
    """By name, the agents that an environment's configuration declares."""
    from verifiers.v1 import AgentConfig

    declared = {name: field.default for name, field in config.model_fields.items()}
    return {name: default for name, default in declared.items() if isinstance(default, AgentConfig)}


@lru_cache(maxsize=256)
def find_task(column: str) -> Any:
    """The task that a row stands for. Raises `DataError` if the taskset now has another in its place."""
    item = json.loads(column)
    taskset = load_taskset(item["taskset"], json.dumps(item["config"], sort_keys=True))
    task = next(itertools.islice(taskset, item["index"], None), None)
    if task is None or task.key != item["key"]:
        raise DataError(
            f"{PREFIX}{item['taskset']} has another task number {item['index']} than when the data were read; its "
            "tasks must be the same each time"
        )
    return task


def messages(task: Any) -> list[dict[str, str]]:
    """The conversation that a task opens with, as text only."""
    data = task.data
    if data.prompt is None:
        raise ConfigError(f"{type(task).__name__} has no prompt, and no environment that opens the conversation")
    given = [{"role": "user", "content": data.prompt}] if isinstance(data.prompt, str) else []
    for message in [] if isinstance(data.prompt, str) else data.prompt:
        if not isinstance(message.content, str):
            raise ConfigError(f"{type(task).__name__}: its prompt holds more than text, such as images")
        given.append({"role": message.role, "content": message.content})
    return ([{"role": "system", "content": data.system_prompt}] if data.system_prompt else []) + given


def check_task(source: str, task: Any, turns: bool) -> None:
    """Raises `ConfigError` if a task needs more than an agent that talks.

    turns: whether it is answered in turns; then its environment may give the reward.
    """
    needs = None
    rewards = task.hooks("reward")
    if task.NEEDS_CONTAINER or (turns and task.data.image is not None):
        needs = "needs a container"
    elif task.plugged_judges():
        needs = "is graded by a model"
    elif not rewards and not turns:
        needs = "has no reward"
    else:
        runtime = [inspect.signature(function).parameters.get("runtime") for function in rewards]
        if any(parameter is not None and parameter.default is parameter.empty for parameter in runtime):
            needs = "has a reward that looks into its runtime"
    if needs is not None:
        raise ConfigError(f"{source}: {type(task).__name__} {needs}; {_ONLY}")


def _package() -> tuple[Any, Any]:
    """The package, and its module that finds tasksets by name. Raises `DependencyError`."""
    try:
        import verifiers.v1 as vf
        from verifiers.v1.utils import loaders
    except ModuleNotFoundError as error:
        raise DependencyError(
            f"{PREFIX}… needs the package {error.name!r}, verifiers 0.4 or newer: {_INSTALL}"
        ) from error
    return vf, loaders
