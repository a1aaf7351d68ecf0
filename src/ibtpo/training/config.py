"""`IBTPOConfig`: TRL's `GRPOConfig` with options for trees, scores and credit, checked as a whole when it is made.

docs/method.md, "What the paper leaves open", lists the options behind which a choice of this implementation stands.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from trl import GRPOConfig

from .._extras import load_object
from .._options import OPTIONS, option, pick
from ..credit import CreditOptions, takes_confidence
from ..engines import Sampling
from ..engines.open import is_dotted_path
from ..errors import ConfigError, unknown
from ..score import ScoreOptions
from ..search import Budget, SearchOptions
from .processes import process_count
from .regularizers import CLIP_HIGHER_EPSILON, DEFAULT_COEFFICIENT, check_regularizer

# The least value of each number, TRL's and our own: TRL checks these late or not at all.
_LEAST: dict[str, float] = {
    **dict.fromkeys(("max_completion_length", "max_generated_tokens", "max_in_flight", "verifier_workers"), 1),
    **dict.fromkeys(("max_environments", "max_tool_calling_iterations"), 1),
    **dict.fromkeys(("num_iterations", "steps_per_generation", "generation_batch_size"), 1),
    **dict.fromkeys(("kv_memory_gb", "lookahead", "packed_tokens", "save_trees_every"), 0),
    **dict.fromkeys(("learning_rate", "beta", "epsilon", "epsilon_high", "seed"), 0),
}
SCALED = ("ibtpo", "grpo")  # the advantages that TRL's `scale_rewards` applies to
LOSS_TYPES = ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo")


def check_least(options: Any, least: Mapping[str, float]) -> None:
    """Checks numbers that have a least value.

    options: the object whose attributes are checked; None passes, for an option that was left out.
    least: the least value by the name of the attribute.

    Raises `ConfigError` for a value below it, and for one that is no finite number.
    """
    for name, low in least.items():
        value = getattr(options, name)
        if value is not None and not (isinstance(value, int | float) and low <= value < math.inf):
            raise ConfigError(f"{name} must be a number and at least {low}, got {value!r}")


def check_engine(engine: str, use_vllm: bool) -> None:
    """Checks that an engine can sample in training, before any model is loaded.

    engine: "transformers", or the dotted path of a factory, which is imported here.
    use_vllm: TRL's option; only "transformers", the default, goes with it.

    Raises `ConfigError` for any other engine, for a path that cannot be imported, and for a path beside `use_vllm`.
    """
    if engine == "transformers":
        return
    if not is_dotted_path(engine):
        raise ConfigError(
            f"engine must be transformers or package.module:factory, got {engine!r}; vLLM trains with use_vllm"
        )
    if use_vllm:
        raise ConfigError(f"use_vllm and engine {engine!r} both say what samples; give one of them")
    load_object(engine, "engine")


def _own(default: Any, help: str) -> Any:
    """A field that only the trainer has; one that other options objects have, too, is an `option` of the one table."""
    return field(default=default, metadata={"help": help})


@dataclass
class IBTPOConfig(GRPOConfig):
    """Configuration of [`IBTPOTrainer`]: a `trl.GRPOConfig`, of which only what is new or differs is declared here.

    Each field says what it means in its `help`, which `ibtpo train --options` prints. Fields that are new:

    - `tree` to `lookahead`: how trees grow, are scored and turned into advantages.
    - `regularizer`, `regularizer_coef`: see `regularizers`.
    - `engine` to `answer_tags`: how answers are sampled and verified.
    - `max_generated_tokens` ends a run after so many tokens; `packed_tokens` bounds the shared-prefix update;
      `save_trees_every` and `run_dir` say which trees are stored, and where.

    Defaults that differ from TRL's: temperature 0.7, top_p 0.95, top_k 20, max_completion_length 2048, beta (the KL
    weight) 0.001 with plain k3, loss_type "grpo", learning_rate 1e-6, logging_steps 1. bf16 is off on a machine without
    an accelerator. `num_generations` (G) follows from `tree` if that is given; else it is 12 where 12 divides the
    generation batch, and otherwise TRL's 8.

    A tree stays in one process, so the rows of a process, per_device_train_batch_size x steps_per_generation, must be a
    multiple of G.

    Raises `ConfigError` for a value that is wrong, for values that do not fit each other, and for options of TRL that
    do not work with trees.
    """

    tree: str | None = option("tree", default=None, help=f"{OPTIONS['tree'].help}; default: from num_generations")
    branching: str = option("branching")
    advantage: str = option("advantage")
    lam: float = option("lam")
    ib_beta: float = option("ib_beta", help=f"{OPTIONS['ib_beta'].help} (`beta` is TRL's KL weight)")
    branch_beta: float | None = _own(None, "beta of the IB-Score that chooses where to branch; default: ib_beta")
    value: str = option("value")
    branch_value: str | None = _own(None, "value of a node where branches are chosen: leaves or draws; default: value")
    confidence: str = option("confidence")
    weight: str = option("weight")
    ratio_prior: float = option("ratio_prior")
    ib_policy: str = _own("old", "policy whose confidence weighs the IB advantage: old (sampling) or ref")
    ib_on_uniform_trees: bool = option("ib_on_uniform_trees")
    prefix_weight: str = option("prefix_weight")
    splitter: str = option("splitter")
    lookahead: int = option("lookahead")
    regularizer: str = _own("none", "none, clip_higher, entropy_bonus or ibro")
    regularizer_coef: float | None = _own(None, "coefficient of entropy_bonus (0.001) or ibro (0.005)")
    max_generated_tokens: int | None = _own(None, "stop after this many generated tokens, over all processes")
    packed_tokens: int = _own(
        8192, "most tokens of one update forward over the distinct tokens of trees; 0 trains every trajectory by itself"
    )
    engine: str = _own("transformers", "what samples: transformers, or package.module:factory; vLLM is TRL's use_vllm")
    environment: str | None = option("environment")
    environment_timeout: float = option("environment_timeout")
    max_environments: int | None = option("max_environments")
    max_tool_calling_iterations: int | None = option("max_tool_calling_iterations")
    max_in_flight: int = option("max_in_flight")
    kv_memory_gb: float = _own(2.0, "memory for kept keys and values of finished rollouts")
    deterministic_rollouts: bool | None = _own(None, "wait for each verdict; default: on without an accelerator")
    verifier_timeout: float = option("verifier_timeout")
    verifier_workers: int = option("verifier_workers")
    thinking_tags: str = option("thinking_tags")
    answer_tags: str = option("answer_tags")
    paper_defaults: bool = _own(True, "the paper's values where nothing is given; False keeps TRL's")
    save_trees_every: int = _own(10, "write the trees of every n-th step to trees/ in the output folder; 0 is never")
    run_dir: str | None = _own(None, "folder for trees/; default: output_dir")

    num_generations: int | None = _own(None, "G, trajectories a question")
    temperature: float = option("temperature")
    top_p: float = option("top_p")
    top_k: int = option("top_k")
    max_completion_length: int | None = option("max_completion_length")
    beta: float = _own(0.001, "weight of the KL divergence to the reference model")
    use_bias_correction_kl: bool = _own(False, "TRL's importance weighting of the KL term")
    loss_type: str = _own("grpo", "TRL's loss type")
    learning_rate: float = _own(1e-6, "initial learning rate")
    bf16: bool | None = _own(None, "mixed precision in bfloat16; default: on with an accelerator")
    epsilon_high: float | None = _own(None, "upper clip range; default: epsilon")
    logging_steps: float = _own(1, "log every n optimiser steps")

    def __new__(cls, *args: Any, **kwargs: Any) -> "IBTPOConfig":
        """Remembers which options are given, for `paper_defaults` and `departures`."""
        self = super().__new__(cls)
        names = [f.name for f in fields(cls) if f.init]
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        if len(given) == len(names):  # a parser of command lines gives every option its default
            given = {f.name: given[f.name] for f in fields(cls) if f.init and given[f.name] != f.default}
        self._given = frozenset(given)
        return self

    def __post_init__(self) -> None:
        # TRL's own `__post_init__` runs in the middle: what it would turn into defaults of its own comes before it.
        if not self.paper_defaults:
            for name, value in TRL_DEFAULTS.items():
                if name not in self._given and not (name == "num_generations" and self.tree is not None):
                    setattr(self, name, value)
        if self.bf16 is None and not self.fp16 and not torch.accelerator.is_available():
            self.bf16 = False
        for name, kind in IBTPOConfig.__annotations__.items():
            if kind is str and not isinstance(getattr(self, name), str):
                raise ConfigError(f"{name} must be a name, got {getattr(self, name)!r}")
        check_least(self, _LEAST)
        for name in ("save_steps", "num_train_epochs"):  # TRL would divide by one and train nothing with the other
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be > 0, got {getattr(self, name)}")
        if self.loss_type not in LOSS_TYPES:
            raise unknown("loss_type", str(self.loss_type), LOSS_TYPES)
        if self.num_generations is not None and self.num_generations < 2:
            raise ConfigError(
                f"num_generations must be at least 2, got {self.num_generations}: an advantage compares answers"
            )
        check_regularizer(self.regularizer)
        if self.regularizer == "clip_higher" and self.epsilon_high is None:
            self.epsilon_high = CLIP_HIGHER_EPSILON
        if self.regularizer in DEFAULT_COEFFICIENT and self.regularizer_coef is None:
            self.regularizer_coef = DEFAULT_COEFFICIENT[self.regularizer]
        if self.regularizer == "entropy_bonus":
            self.entropy_coef = self.regularizer_coef
        if self.num_generations is None:
            self.num_generations = self._default_num_generations()
        super().__post_init__()
        self._refuse_untested()
        rows = self.per_device_train_batch_size * self.steps_per_generation
        if rows % self.num_generations:
            raise ConfigError(
                f"a tree stays in one process: per_device_train_batch_size x steps_per_generation "
                f"({self.per_device_train_batch_size} x {self.steps_per_generation} = {rows}) must be a multiple of "
                f"num_generations ({self.num_generations}). Raise gradient_accumulation_steps or the batch size."
            )
        # `ScoreOptions` would refuse both, too, but by the names they have there, ib_beta and value.
        if self.branch_beta is not None and not self.branch_beta > 0:
            raise ConfigError(f"branch_beta must be > 0, got {self.branch_beta}")
        if self.branch_value is not None and self.branch_value not in OPTIONS["value"].choices:
            raise unknown("branch_value", self.branch_value, OPTIONS["value"].choices)
        if self.ib_policy not in ("old", "ref"):
            raise ConfigError(f"ib_policy must be 'old' or 'ref', got {self.ib_policy!r}")
        if self.ib_policy == "ref" and self.beta == 0:
            raise ConfigError("ib_policy='ref' needs the reference model: set beta > 0")
        if not 0 < self.verifier_timeout < math.inf:
            raise ConfigError(f"verifier_timeout must be > 0 seconds, got {self.verifier_timeout}")
        shared = self.use_vllm and self.vllm_mode == "colocate" and self.vllm_tensor_parallel_size > 1
        if self.deterministic_rollouts is None:
            self.deterministic_rollouts = shared or not torch.accelerator.is_available()
        if shared and not self.deterministic_rollouts:
            raise ConfigError(
                "processes that share a vLLM (vllm_tensor_parallel_size > 1) must all make the same requests; leave "
                "out deterministic_rollouts=False"
            )
        check_engine(self.engine, self.use_vllm)
        if self.environment is not None:
            load_object(self.environment, "environment")
        if not 0 < self.environment_timeout < math.inf:
            raise ConfigError(f"environment_timeout must be > 0 seconds, got {self.environment_timeout}")
        self.search_options()  # made only for their checks, which raise `ConfigError`
        self.credit_options()
        if self.ib_policy == "ref" and not takes_confidence(self.advantage):
            raise ConfigError(
                f"ib_policy='ref' gives the reference model's confidence to an advantage that takes it; "
                f"{self.advantage!r} does not: leave ib_policy out, or give its function a keyword `confidence`"
            )

    def _default_num_generations(self) -> int:
        """G where none is given; see the class. TRL has not filled in its own defaults yet."""
        if self.tree is not None:
            return Budget.parse(self.tree).trajectories
        steps = self.steps_per_generation or self.gradient_accumulation_steps
        rows = self.per_device_train_batch_size * steps
        if self.generation_batch_size:  # that of all processes together
            rows = self.generation_batch_size // process_count()
        return 12 if rows % 12 == 0 else 8

    def _refuse_untested(self) -> None:
        """Refuses options of TRL that do not go with trees, or with one advantage a token, with the reasons."""
        summed = self.multi_objective_aggregation == "sum_then_normalize"
        sampling = "branches and importance ratios need the probabilities that temperature, top_p and top_k sample from"
        refused = {
            "use_liger_kernel": (self.use_liger_kernel, "its fused loss does not share prefixes"),
            "off_policy_mask_threshold": (
                self.off_policy_mask_threshold is not None,
                "it keeps or drops an answer by the sign of its advantage, and the steps of one have different signs",
            ),
            "vllm_structured_outputs_regex": (self.vllm_structured_outputs_regex is not None, sampling),
            "use_transformers_continuous_batching": (
                self.use_transformers_continuous_batching, "the engine of the trees batches by itself",
            ),
            "scale_rewards other than 'group'": (
                self.scale_rewards != "group" and self.advantage not in SCALED,
                f"advantage {self.advantage!r} has a divisor of its own; {' and '.join(SCALED)} take it",
            ),
            "multi_objective_aggregation='normalize_then_sum'": (
                not summed and self.advantage != "grpo",
                "it gives whole answers an advantage, and a step has none; advantage 'grpo' takes it",
            ),
            "repetition_penalty": (self.repetition_penalty != 1.0, sampling),
            "min_p": (bool(self.min_p), sampling),
            "generation_kwargs": (bool(self.generation_kwargs), sampling),
        }  # fmt: skip
        found = [f"{name} ({reason})" for name, (on, reason) in refused.items() if on]
        if found:
            raise ConfigError(f"IB-TPO does not support {', '.join(found)}; remove it or use trl.GRPOTrainer")

    def departures(self) -> dict[str, tuple[Any, Any]]:
        """The options of TRL whose values the same `GRPOConfig` would not have: by name, the value here and TRL's."""
        trl = {**TRL_DEFAULTS, "bf16": TRL_DEFAULTS["bf16"] if self.fp16 else True}
        values = {name: (getattr(self, name), trl[name]) for name in trl if name not in self._given}
        return {name: (ours, theirs) for name, (ours, theirs) in values.items() if ours != theirs}

    def budget(self) -> Budget:
        """The tree's budget.

        Without `tree`, a third of the G rollouts start at the root, at least 2, and the others are one branch a round;
        with branching "independent" all G start at the root.

        Raises `ConfigError` if `tree` grows another number of trajectories than `num_generations`.
        """
        assert self.num_generations is not None
        if self.tree is None and self.branching == "independent":
            return Budget(self.num_generations, 1)
        if self.tree is None:
            b0 = max(2, round(self.num_generations / 3))
            return Budget(b0, self.num_generations - b0 + 1)
        budget = Budget.parse(self.tree)
        if budget.trajectories != self.num_generations:
            raise ConfigError(
                f"tree={self.tree} grows B0+(L-1)*K*B = {budget.trajectories} trajectories but num_generations is "
                f"{self.num_generations}; make them equal or leave one out"
            )
        return budget

    def score_options(self) -> ScoreOptions:
        """How nodes are scored for the credit: β, value, confidence, weight and ratio prior."""
        return pick(ScoreOptions, self)

    def credit_options(self) -> CreditOptions:
        """How rewards become an advantage for each step."""
        return pick(CreditOptions, self, score=self.score_options())

    def search_options(self, seed: int = 0) -> SearchOptions:
        """How trees grow. Their scores have `branch_beta` as their β and `branch_value` as their value, if given.

        seed: the seed of one generation batch.
        """
        branch_beta = self.ib_beta if self.branch_beta is None else self.branch_beta
        branch_value = self.value if self.branch_value is None else self.branch_value
        return pick(
            SearchOptions,
            self,
            budget=self.budget(),
            sampling=pick(Sampling, self),
            score=pick(ScoreOptions, self, ib_beta=branch_beta, value=branch_value),
            max_completion_length=self.max_completion_length or OPTIONS["max_completion_length"].default,
            seed=seed,
            deterministic=bool(self.deterministic_rollouts),
        )


# TRL's defaults of the options that have another one here.
TRL_DEFAULTS: dict[str, Any] = {f.name: f.default for f in fields(GRPOConfig) if f.name in IBTPOConfig.__annotations__}
