"""What IB-TPO needs of verl that can be said without it: options, an engine over its servers, rows and metrics.

Nothing here imports verl, so that all of it is tested without.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from ..._options import OPTIONS, option, pick
from ...credit import CreditOptions, find_advantage, path_advantages, token_advantages
from ...engines import Completion, Engine, Sampling
from ...engines.completions import bias
from ...engines.vllm import LOGITS_PROCESSOR, LOGPROBS_MODE
from ...errors import ConfigError, EngineError, unknown
from ...metrics import Record, summarise, tree_record
from ...score import ScoreOptions
from ...search import Budget, SearchOptions
from ...tree import ReasoningTree

MANAGER = "ibtpo.integrations.verl.plugin.TreeManager"
VERL_REWARD = "verl"  # stands among the verifiers for verl's own reward function


@dataclass(frozen=True)
class Settings:
    """The node `ibtpo` of verl's configuration. The options of trees are those of `IBTPOConfig`, by the same names.

    tree: B0,L,K,B, as text or four integers.
    verifier: a name, a dotted path `package.module:function`, or "verl" for the reward function that verl is
        configured with.
    seed: what the trees depend on besides step and question.
    """

    tree: str | tuple[int, ...] = option("tree")
    branching: str = option("branching")
    splitter: str = option("splitter")
    lookahead: int = option("lookahead")
    ib_beta: float = option("ib_beta")
    value: str = option("value")
    confidence: str = option("confidence")
    weight: str = option("weight")
    ratio_prior: float = option("ratio_prior")
    branch_beta: float | None = None
    branch_value: str | None = None
    advantage: str = option("advantage")
    lam: float = option("lam")
    ib_on_uniform_trees: bool = option("ib_on_uniform_trees")
    prefix_weight: str = option("prefix_weight")
    verifier: str = "math"
    verifier_timeout: float = option("verifier_timeout")
    verifier_workers: int = option("verifier_workers")
    thinking_tags: str = OPTIONS["thinking_tags"].default
    answer_tags: str = OPTIONS["answer_tags"].default
    seed: int = 0

    @classmethod
    def read(cls, node: Mapping[str, Any] | None) -> "Settings":
        """The settings of the node `ibtpo`, given as a plain dictionary.

        Raises `ConfigError` where the node is missing, and for an unknown option or one out of range.
        """
        if node is None:
            raise ConfigError(
                "verl's configuration has no node 'ibtpo'; add hydra.searchpath=[pkg://ibtpo.integrations.verl] "
                "+method=ibtpo to the command"
            )
        names = [f.name for f in fields(cls)]
        for name in node:
            if name not in names:
                raise unknown("option of the node ibtpo", name, names)
        given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in node.items()}
        settings = cls(**given)
        settings.search(Sampling(), 1, 0)  # both check what they are given
        if getattr(find_advantage(settings.credit.advantage), "batch_scale", None) is not None:
            raise ConfigError(
                f"ibtpo.advantage={settings.advantage!r} divides by a number of the whole batch, and an agent loop "
                "sees one tree; take another, such as ibtpo, grpo or treerl"
            )
        return settings

    @cached_property
    def budget(self) -> Budget:
        """How large a tree grows."""
        return Budget.parse(self.tree)

    @cached_property
    def credit(self) -> CreditOptions:
        """How rewards become step advantages."""
        return pick(CreditOptions, self, score=pick(ScoreOptions, self))

    def search(self, sampling: Sampling, max_completion_length: int, seed: int) -> SearchOptions:
        """The options of one tree's search. Raises `ConfigError` for one out of range."""
        branch_beta = self.ib_beta if self.branch_beta is None else self.branch_beta
        branch_value = self.value if self.branch_value is None else self.branch_value
        return pick(
            SearchOptions,
            self,
            budget=self.budget,
            sampling=sampling,
            score=pick(ScoreOptions, self, ib_beta=branch_beta, value=branch_value),
            max_completion_length=max_completion_length,
            seed=seed,
            max_in_flight=self.budget.trajectories,
        )


def check(config: Mapping[str, Any]) -> Settings:
    """Checks that a configuration of verl trains on trees as they are meant, and returns its settings.

    config: verl's whole configuration as plain dictionaries.

    Raises `ConfigError` for the first thing that does not fit, with what to set instead.
    """
    settings = Settings.read(config.get("ibtpo"))
    algorithm, trainer, reward = config["algorithm"], config["trainer"], config["reward"]
    rollout = config["actor_rollout_ref"]["rollout"]
    agent, groups = rollout["agent"], algorithm.get("filter_groups") or {}
    mode, estimator, metric = trainer["v1"]["trainer_mode"], algorithm["adv_estimator"], groups.get("metric")
    answers = settings.budget.trajectories
    refused = {
        "trainer.use_v1=false: trees need verl's V1 trainer; set it to true": not trainer["use_v1"],
        f"trainer.v1.trainer_mode={mode}: trees grow in the synchronous trainer; set it to ibtpo": (
            mode not in ("ibtpo", "sync")
        ),
        f"algorithm.adv_estimator={estimator} would take step advantages for rewards; set it to ibtpo": (
            estimator != "ibtpo"
        ),
        "algorithm.use_kl_in_reward=true would change the step advantages; set it to false, and "
        "actor_rollout_ref.actor.use_kl_loss to true": algorithm["use_kl_in_reward"],
        f"algorithm.filter_groups.metric={metric}: verl's rewards are step advantages here; filter by acc": (
            groups.get("enable") and metric != "acc"
        ),
        f"actor_rollout_ref.rollout.n={rollout['n']}, but ibtpo.tree={settings.tree} grows {answers} answers; "
        f"set it to {answers}": rollout["n"] != answers,
        f"actor_rollout_ref.rollout.agent.agent_loop_manager_class={agent['agent_loop_manager_class']}: set it to "
        f"{MANAGER}": agent["agent_loop_manager_class"] != MANAGER,
        "actor_rollout_ref.rollout.agent.default_agent_loop=ibtpo would validate on trees; leave it at "
        "single_turn_agent": agent["default_agent_loop"] == "ibtpo",
        "reward.reward_model.enable=true: a reward model's scores would replace the step advantages; call it in a "
        "function, and name that as ibtpo.verifier": reward["reward_model"]["enable"],
        "distillation.enabled=true: verl computes a teacher's log-probs for one answer of a tree only; set it to "
        "false": (config.get("distillation") or {}).get("enabled"),
        f"actor_rollout_ref.rollout.name={rollout['name']}: trees are grown over vllm only; set it to vllm": (
            rollout["name"] in ("sglang", "trtllm")
        ),
    }
    for message, wrong in refused.items():
        if wrong:
            raise ConfigError(message)
    kind = logprobs_kind(rollout)
    if kind == "unknown" or bias(kind, sampling_of(rollout)):
        raise ConfigError(
            f"actor_rollout_ref.rollout.logprobs_mode={rollout['logprobs_mode']}: these log-probs are not those of the "
            f"full softmax at the sampling temperature; set it to {LOGPROBS_MODE}, and engine_kwargs.vllm."
            f"logits_processors to [{LOGITS_PROCESSOR}]"
        )
    return settings


def sampling_of(params: Mapping[str, Any]) -> Sampling:
    """verl's `temperature`, `top_p` and `top_k` (−1: off) as ours. Raises `ConfigError` for one out of range."""
    return Sampling(float(params["temperature"]), float(params["top_p"]), max(int(params["top_k"]), 0))


def logprobs_kind(rollout: Mapping[str, Any]) -> str:
    """Which log-probs verl's servers report: "full", "processed", "raw" (see `completions.bias`) or "unknown".

    rollout: the node `actor_rollout_ref.rollout`. Servers that are not vLLM's are taken to report the full softmax.
    """
    if rollout["name"] != "vllm":
        return "full"
    engine = (rollout.get("engine_kwargs") or {}).get("vllm") or {}
    if rollout["logprobs_mode"] == LOGPROBS_MODE and LOGITS_PROCESSOR in (engine.get("logits_processors") or ()):
        return "full"
    return {"processed_logprobs": "processed", "raw_logprobs": "raw"}.get(rollout["logprobs_mode"], "unknown")


class RolloutEngine(Engine):
    """verl's rollout servers as an `Engine`, for one tree.

    client: verl's `LLMServerClient`.
    tree: the tree's name. Its requests share it as their id, for verl sends requests of one id to one replica, which
        then has the tree's prefixes in its cache.
    eos_token_id: the token that ends an answer. Servers may end it with others, too, and do not say why they stopped:
        an answer shorter than it may be was ended by the model.
    max_length: tokens of prompt and answer together that a server's context holds; None if it holds all that is asked.
    own_ids: whether each request needs an id of its own (verl's `full_determinism` gives it to vLLM as it is).

    `versions` holds the versions of the weights that its tokens were sampled with.
    """

    def __init__(
        self, client: Any, tree: str, *, eos_token_id: int | None, max_length: int | None = None, own_ids: bool = False
    ) -> None:
        self.client = client
        self.tree = tree
        self.eos_token_id = eos_token_id
        self.max_length = max_length
        self.own_ids = own_ids
        self.requests = 0
        self.versions: set[int] = set()

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, seed: int, max_new_tokens: int
    ) -> Completion:
        """See `Engine.generate`. Raises `EngineError` when verl's client fails or returns no answer."""
        room = max_new_tokens if self.max_length is None else min(max_new_tokens, self.max_length - len(prompt_ids))
        if room < 1:
            raise EngineError(f"{len(prompt_ids)} tokens fill the context of {self.max_length}; raise max_model_len")
        self.requests += 1
        params = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k or -1,
            "repetition_penalty": 1.0,
            "logprobs": True,
            "seed": seed % 2**31,
            "max_tokens": room,
        }
        try:
            output = await self.client.generate(
                request_id=f"{self.tree}-{self.requests}" if self.own_ids else self.tree,
                prompt_ids=list(prompt_ids),
                sampling_params=params,
            )
        except Exception as e:  # Ray hands on whatever a server raised
            raise EngineError(f"verl's server failed: {type(e).__name__}: {' '.join(str(e).split())[:400]}") from e
        ids = list(output.token_ids)
        if output.stop_reason == "aborted" or not ids:
            raise EngineError(f"verl's server returned {len(ids)} tokens with the stop reason {output.stop_reason!r}")
        if not output.log_probs:
            raise EngineError("verl's server returned no log-probs; trees need those of the sampled tokens")
        steps = (output.extra_fields.get(name) for name in ("min_global_steps", "max_global_steps", "global_steps"))
        self.versions.update(step for step in steps if step is not None)
        stop = "eos" if ids[-1] == self.eos_token_id or len(ids) < room else "length"
        return Completion(ids, list(output.log_probs), None, stop, output.extra_fields.get("num_cached_tokens") or 0)


@dataclass(frozen=True, slots=True)
class Row:
    """One answer of a tree as verl trains on it.

    ids: (T,) tokens, sampled and given ones.
    sampled: (T,) 1 for sampled tokens, 0 for given ones.
    logprobs: (T,) their log-probs; 0 for given tokens.
    credit: (T,) the advantage of each token's step; 0 for given tokens.
    reward: R(τ), NaN where the verifier gave none.
    correct: raw correctness, NaN where it is not known.
    """

    ids: list[int]
    sampled: list[int]
    logprobs: list[float]
    credit: list[float]
    reward: float
    correct: float


def rows(tree: ReasoningTree, credit: CreditOptions) -> list[Row]:
    """The (L,) answers of a tree, each whole: steps that answers share are in each of them."""
    advantages = token_advantages(tree, path_advantages(tree, credit))
    return [
        Row(
            tree.completion_ids(i),
            tree.completion_mask(i),
            tree.completion_logprobs(i),
            advantages[i].tolist(),
            math.nan if leaf.reward is None else float(leaf.reward),
            math.nan if leaf.correct is None else float(leaf.correct),
        )
        for i, leaf in enumerate(tree.leaves)
    ]


def extra_fields(tree: ReasoningTree, answers: Sequence[Row], score: ScoreOptions) -> list[dict[str, Any]]:
    """(L,) what is stored with each answer for `batch_metrics`: its reward, and with the first the tree's record."""
    record: Record = tree_record(tree, score)
    return [{"ibtpo_reward": row.reward, "ibtpo_record": record if i == 0 else None} for i, row in enumerate(answers)]


def batch_metrics(stored: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The metrics of a step: those of its trees as `ibtpo/…`, and the rewards of its answers.

    verl computes `critic/score` and `critic/rewards` from the field that carries step advantages here, so they are
    given anew, from the rewards.

    stored: the `extra_fields` of the step's answers, in any order.
    """
    records = [row["ibtpo_record"] for row in stored if row.get("ibtpo_record")]
    rewards = [row["ibtpo_reward"] for row in stored if not math.isnan(row["ibtpo_reward"])]
    out = {f"ibtpo/{name}": value for name, value in summarise(records).items()} if records else {}
    if rewards:
        statistics = {"mean": math.fsum(rewards) / len(rewards), "max": max(rewards), "min": min(rewards)}
        for name, value in statistics.items():
            out |= {f"ibtpo/reward/{name}": value, f"critic/score/{name}": value, f"critic/rewards/{name}": value}
    return {name: value for name, value in out.items() if not math.isnan(value)}
