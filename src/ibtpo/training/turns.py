"""TRL's `tools` and `environment_factory` in trees, and environments that answer turns themselves.

TRL resets one environment a row, generates, and runs its loop of tool calls. Here the trees do that (`environments/`,
`rollout`), so TRL meets stand-ins while it trains: their `reset` says what the question's own environment said, and the
loop of tool calls hands back what the trees hold. TRL's evaluation stays TRL's, with TRL's environments.

An environment with a method `respond` is unknown to TRL, and TRL is not told of it.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from accelerate.utils import gather_object
from trl.data_utils import is_conversational

from .._extras import load_object
from ..environments import OWN_METHODS
from ..environments.formats import ChatFormat, Format, TextFormat, encoder, open_format, parser
from ..environments.pool import Environments, Kind, Opening
from ..environments.questions import begin, begin_problems, with_text
from ..errors import ConfigError
from ..search import run_async
from ..tasks.problems import Problem
from ..tree import ReasoningTree
from ..verify.rewards import RewardFunctions
from .config import IBTPOConfig
from .rewards import as_functions

NO_ROLLOUT_FUNC = (
    "rollout_func returns whole answers, and a tree must sample them itself to branch inside them; give the "
    "environment as environment_factory, or use trl.GRPOTrainer"
)


class Turns:
    """What answers the turns of a trainer's trees; nothing where neither tools nor environments are given.

    args: the trainer's configuration.
    tools: TRL's `tools`.
    factory: TRL's `environment_factory`, one or several by name.
    evaluates: whether TRL evaluates while it trains.

    The attribute `environments` is None where answers have one turn; `for_trl` holds the arguments for TRL's trainer.

    Raises `ConfigError` for environments of both kinds, for a factory that fails, and for TRL's evaluation with
    environments that it cannot run.
    """

    def __init__(self, args: IBTPOConfig, tools: Any, factory: Any, evaluates: bool) -> None:
        if args.environment is not None:
            if factory is not None:
                raise ConfigError("args.environment and environment_factory both name an environment; give one of them")
            factory = load_object(args.environment, "environment")
        self.environments: Environments | None = None
        self.for_trl: dict[str, Any] = {}
        self.own: list[Kind] = []  # the environments that give rewards, one a class
        self.responds = False
        self._shows_tools = False  # which environments that answer turns call themselves
        self._schemas: list[Any] = []  # of these, in the present batch
        self._own_weight = 1.0
        if factory is None and not tools:
            return
        if args.use_vllm and args.vllm_mode == "colocate" and args.vllm_tensor_parallel_size > 1:
            raise ConfigError(
                "processes that share a vLLM (vllm_tensor_parallel_size > 1) must all make the same requests, but each "
                "has environments of its own; set it to 1"
            )
        self.environments = Environments(
            factory,
            tools=tools or [],
            format=TextFormat(lambda text: [], lambda ids: ""),  # until the first batch shows what prompts are like
            timeout=args.environment_timeout,
            max_live=args.max_environments,
            max_turns=args.max_tool_calling_iterations,
        )
        kinds = run_async(self.environments.kinds())
        self.own = [kind for kind in {k.made: k for k in kinds.values()}.values() if kind.rewards]
        self.responds = any(kind.responds for kind in kinds.values())
        self._shows_tools = any(kind.shows_tools for kind in kinds.values())
        if self.responds and not all(kind.responds for kind in kinds.values()):
            raise ConfigError(
                "a method respond, and methods that are tools, do not go together; give environments of one kind"
            )
        if self._shows_tools and tools:
            raise ConfigError("functions as tools and an environment with tool_schemas do not go together; give one")
        if self.responds and evaluates:
            raise ConfigError(
                "TRL's evaluation does not know environments with a method respond; leave out eval_dataset, or give "
                "the environment tools as methods"
            )
        self.environments.reads_cut_turns = not self.responds  # as TRL's loop does
        self.for_trl = {"tools": tools, "environment_factory": None if self.responds else factory}

    def without_own(self, rewards: Sequence[Any], weights: list[float] | None) -> tuple[list[Any], list[float] | None]:
        """The rewards and their weights without the environment's own, which comes by itself, whether named or not.

        rewards: (F,) functions, models and names. Where `"environment"` is among them, its weight is that of the
            environment's own reward, else that is 1, as in TRL.
        weights: (F,), or None.

        Raises `ConfigError` where it is named and there is none.
        """
        own = [isinstance(reward, str) and reward == "environment" for reward in rewards]
        if any(own) and not self.own:
            raise ConfigError("reward 'environment' is what get_reward of an environment says, and there is none")
        left = [reward for reward, is_own in zip(rewards, own, strict=True) if not is_own]
        if left == [None] and self.own:
            left = []
        if weights is None or len(weights) != len(rewards):
            return left, weights  # a wrong number of weights is TRL's to refuse
        self._own_weight = next((w for w, is_own in zip(weights, own, strict=True) if is_own), 1.0)
        return left, [w for w, is_own in zip(weights, own, strict=True) if not is_own] or None

    def rewards_for_trl(self, given: list[Any]) -> list[Any]:
        """The reward functions that TRL's trainer is made with: TRL takes the environment's own only from its kind."""
        return given or [own_reward(kind) for kind in self.own if self.responds]

    def attach(self, trainer: Any, given: int) -> RewardFunctions | None:
        """Ends what TRL's trainer was made with, when it is there.

        given: how many rewards it was made with that are not of an environment.

        Returns the verifier where environments give rewards, else None.
        """
        if self.environments is None:
            return None
        _close_probes(trainer)
        if not self.own:
            return None
        if self.responds and given:
            for kind in self.own:
                trainer.reward_funcs.append(own_reward(kind))
                trainer.reward_func_names.append(kind.title)
                trainer.reward_processing_classes.append(None)
            trainer.reward_weights = torch.cat([trainer.reward_weights, torch.ones(len(self.own))])
        trainer.reward_weights[given:] = self._own_weight
        functions = [*as_functions(trainer)[:given], *(own_reward(kind) for kind in self.own)]
        weights = trainer.reward_weights.tolist()
        return RewardFunctions(functions, weights=weights, timeout=trainer.args.verifier_timeout)

    def open(self, trainer: Any, rows: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[Opening | None]]:
        """Begins the questions of a batch.

        rows: B rows, each question's `num_generations` times.

        Returns the rows with what the environment said at the end of their prompts, and the B openings.
        """
        if self.environments is None:
            return list(rows), [None] * len(rows)
        environments, group = self.environments, trainer.num_generations
        rows = as_message_rows(rows) if environments.stateful and not self.responds else list(rows)
        environments.format = self._format(trainer, is_conversational(rows[0]))

        openings = [opening for opening in run_async(begin(environments, rows[::group])) for _ in range(group)]
        self._schemas = list(openings[0].tool_schemas)
        if any(list(opening.tool_schemas) != self._schemas for opening in openings):
            raise ConfigError("the environments of a batch show different tools; train on questions with the same ones")
        said = [
            {**row, "prompt": with_text(row["prompt"], opening.text)}
            for row, opening in zip(rows, openings, strict=True)
        ]
        return said, list(openings)

    def begin(self, trainer: Any, problems: Sequence[Problem]) -> list[tuple[Problem, Opening | None, dict[str, Any]]]:
        """Begins problems outside of training, see `begin_problems`."""
        if self.environments is not None:
            self.environments.format = self._format(trainer, trainer._tokenizer.chat_template is not None)
            rendering = {"tools": trainer.tools, "chat_template": trainer.chat_template}
            self.environments.rendering = {name: value for name, value in rendering.items() if value}
        return run_async(begin_problems(self.environments, problems))

    @contextmanager
    def shown(self, trainer: Any) -> Iterator[None]:
        """Lets TRL's trainer show the tools of the present batch in the prompts that it renders inside the block."""
        if not self._schemas:
            yield
            return
        before, trainer.tools = trainer.tools, self._schemas
        try:
            yield
        finally:
            trainer.tools = before

    def _format(self, trainer: Any, conversational: bool) -> Format:
        """Between the tokens of a trainer's tokenizer and messages. conversational: what prompts are like."""
        tokenizer, options = trainer._tokenizer, trainer.chat_template_kwargs
        if not conversational:
            if self._shows_tools or not self.responds:
                raise ConfigError("tools need prompts that are conversations: give each row a list of messages")
            return TextFormat(encoder(tokenizer), trainer._decode)
        if self.responds and not trainer.tools:  # TRL does not know of the turns, and has not looked at the template
            format, trainer.chat_template = open_format(
                tokenizer, trainer._decode, chat=True, tools=self._shows_tools, options=options
            )
            return format
        return ChatFormat(tokenizer, parser(tokenizer), chat_template=trainer.chat_template, options=options)

    @contextmanager
    def stand_ins(self, trainer: Any) -> Iterator[None]:
        """Lets TRL's trainer meet stand-ins inside the block, whose `reset` says nothing: the rows have it already."""
        if trainer.environment_factories is None:
            yield
            return
        before = trainer.environment_factories, trainer._environment_pool
        trainer.environment_factories = dict.fromkeys(before[0], _StandIn)
        trainer._environment_pool = {name: [] for name in before[0]}
        try:
            yield
        finally:
            trainer.environment_factories, trainer._environment_pool = before
            trainer.environments = None

    def log(self, trainer: Any) -> None:
        """Logs how many calls an answer took, and which share of them failed, where TRL does not know of them."""
        if not self.responds or trainer.tools:
            return
        counts = gather_object([self.counts(trainer.trees)])
        answers = sum(gather_object([len(tree.leaves) for tree in trainer.trees]))
        calls, failures = (sum(column) for column in zip(*counts, strict=True))
        trainer._metrics["train"]["tools/call_frequency"].append(calls / answers)
        trainer._metrics["train"]["tools/failure_frequency"].append(failures / calls if calls else 0.0)

    def counts(self, trees: Sequence[ReasoningTree]) -> tuple[int, int]:
        """How many calls of tools and environments there were for some trees, and how many of them failed."""
        said = [tree.meta["environment"] for tree in trees]
        return sum(s["calls"] for s in said), sum(s["failures"] for s in said)

    def close(self) -> None:
        """Closes all environments."""
        if self.environments is not None:
            run_async(self.environments.close())


@contextmanager
def with_weights(args: IBTPOConfig, weights: list[float] | None) -> Iterator[None]:
    """Lets a configuration have other `reward_weights` inside the block."""
    before, args.reward_weights = args.reward_weights, weights
    try:
        yield
    finally:
        args.reward_weights = before


class _StandIn:
    """What TRL resets in place of an environment."""

    def reset(self, **row: Any) -> None:
        return None


def own_reward(kind: Kind) -> Any:
    """The reward that environments of a class give, as a reward function of the class's name."""

    def reward(environment_reward: Any = None, environments: Any = None, **columns: Any) -> list[Any]:
        if environments is None:
            raise ConfigError(f"{kind.title}.get_reward needs the environment of the answer, which is not there")
        values = environment_reward or [None] * len(environments)
        return [value if type(e) is kind.made else None for value, e in zip(values, environments, strict=True)]

    reward.__name__ = kind.title
    return reward


def as_message_rows(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with the prompt that TRL gives to those without one, since their environment says it."""
    return [{"prompt": [{"role": "user", "content": ""}], **row} for row in rows]


def conversations(
    trees: Sequence[ReasoningTree], rows: Mapping[str, Sequence[Mapping[str, Any]]], group: int
) -> list[Any]:
    """The B completions as TRL logs them: text, or a list of messages with the tools' among them."""
    completions = []
    for tree in trees:
        of_tree = [row["completion"] for row in rows[tree.id]]
        absent: Any = "" if isinstance(of_tree[0], str) else [{"role": "assistant", "content": ""}]
        completions += of_tree + [absent] * (group - len(of_tree))
    return completions


def _close_probes(trainer: Any) -> None:
    """Closes the environments that TRL has made to look at them, and takes methods that are ours from its tools."""
    if trainer.environment_factories is None:
        return
    for pool in trainer._environment_pool.values():
        for environment in pool:
            with suppress(Exception):
                getattr(environment, "close", lambda: None)()
        pool.clear()  # TRL makes others if it evaluates

    def ours(tool: Any) -> bool:
        return getattr(tool, "__self__", None) is not None and tool.__name__ in OWN_METHODS

    trainer._env_tools = {name: [t for t in tools if not ours(t)] for name, tools in trainer._env_tools.items()}
    trainer.tools = [tool for tool in trainer.tools if not ours(tool)]
