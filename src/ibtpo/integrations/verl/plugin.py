"""What verl calls: an agent loop that grows a tree, an advantage estimator, a manager and a trainer.

verl imports this module in each of its processes, since `+method=ibtpo` names it in VERL_USE_EXTERNAL_MODULES.
docs/verl.md says what is supported and what has been run.
"""

import functools
import inspect
import time
from collections.abc import Callable
from typing import Any

import torch
import transfer_queue as tq
from omegaconf import OmegaConf
from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopMetrics, AgentLoopOutput, register
from verl.trainer.ppo.core_algos import register_adv_est
from verl.trainer.ppo.reward import get_custom_reward_fn
from verl.trainer.ppo.v1 import AgentLoopManagerTQ, PPOTrainerSync, register_trainer
from verl.utils import tensordict_utils
from verl.utils.reward_score import default_compute_score

from ..._seeds import stable_hash
from ...errors import ConfigError
from ...search import Prompt, TreeSearch
from ...verify import Verifier, completion_text
from ...verify.pool import VerifierPool
from ...verify.rewards import RewardFunctions
from .trees import VERL_REWARD, RolloutEngine, Settings, batch_metrics, check, extra_fields, rows, sampling_of


def plain(config: Any) -> dict[str, Any]:
    """verl's configuration, or a part of it, as plain dictionaries."""
    return OmegaConf.to_container(config, resolve=True)


@register_adv_est("ibtpo")
def step_advantages(
    token_level_rewards: torch.Tensor, response_mask: torch.Tensor, **_: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Passes on the advantages that the agent loop stored where verl expects the reward of each token.

    token_level_rewards, response_mask: (answers, T).

    Returns advantages and returns, which are the same: (answers, T).
    """
    advantages = token_level_rewards * response_mask
    return advantages, advantages


class TreeOutput(AgentLoopOutput):
    """One answer of a tree. Every token has a number of its own, which goes where verl keeps rewards.

    credit: (T,) the advantage of each token's step.
    correct: raw correctness, under the name `acc` for `algorithm.filter_groups`.
    """

    credit: list[float]
    correct: float

    def as_dict(self) -> dict[str, Any]:
        """The fields that verl stores of the answer."""
        fields = super().as_dict()
        fields["rm_scores"] = torch.tensor(fields.pop("credit"), dtype=torch.float32)
        # Of several outputs of one loop, verl gives all the reward of the last; here each is an answer of its own.
        fields["extra_fields"]["reward_extra_info"] = {"acc": fields.pop("correct")}
        return fields


@register("ibtpo")
class TreeAgentLoop(AgentLoopBase):
    """Grows the tree of one question, and returns its answers. Its options are verl's node `ibtpo`."""

    async def run(self, sampling_params: dict[str, Any], **row: Any) -> list[AgentLoopOutput]:
        """See verl's `AgentLoopBase.run`.

        sampling_params: verl's.
        row: the columns of a row of the data set.

        Returns an output for each answer, in the order in which they were sampled.

        Raises `ConfigError` for a question with images, videos or sound, and `EngineError` when an answer could not be
        sampled; verl then trains without the question.
        """
        settings = Settings.read(plain(self.config.ibtpo))
        messages = list(row["raw_prompt"])
        if await self.process_multi_modal_info(messages):
            raise ConfigError("trees are grown for text only; leave images, videos and sound out of the prompts")
        prompt_ids = await self.ct_build_initial_tokens(messages)
        began = time.monotonic()
        engine = RolloutEngine(
            self.server_manager,
            str(row["uid"]),
            eos_token_id=self.tokenizer.eos_token_id,
            max_length=self.rollout_config.max_model_len,
            own_ids=bool(self.rollout_config.full_determinism),
        )
        index: Any = row.get("index")
        name = str(index.item() if hasattr(index, "item") else index)  # it may come as a tensor
        # Not by `uid`, which verl draws anew in each run.
        seed = stable_hash(settings.seed, int(row.get("global_steps") or 0), name, prompt_ids)
        options = settings.search(sampling_of(sampling_params), self.rollout_config.response_length, seed)
        prompt = Prompt(name, tuple(prompt_ids), self.tokenizer.decode(prompt_ids), columns(row, messages), True)
        tree = await TreeSearch(engine, verifier(settings, self.config), self._decode, options).grow(prompt)
        answers = rows(tree, settings.credit)
        stored = extra_fields(tree, answers, settings.credit.score)
        versions = {
            "min_global_steps": min(engine.versions, default=None),
            "max_global_steps": max(engine.versions, default=None),
        }
        return [
            TreeOutput(
                prompt_ids=prompt_ids,
                response_ids=answer.ids,
                response_mask=answer.sampled,
                response_logprobs=answer.logprobs,
                credit=answer.credit,
                correct=answer.correct,
                reward_score=0.0,  # any number: without one, verl would compute a reward of its own
                num_turns=2,
                metrics=AgentLoopMetrics(generate_sequences=time.monotonic() - began),
                extra_fields={**extra, **versions, "reward_extra_info": {}, "turn_scores": [], "tool_rewards": []},
            )
            for answer, extra in zip(answers, stored, strict=True)
        ]

    def _decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def columns(row: dict[str, Any], messages: list[Any]) -> dict[str, Any]:
    """What the verifier gets of a row besides the answer: the fields of `extra_info`, and verl's own.

    The reference answer, `ground_truth` at verl, is also `answer`, as verifiers here call it.
    """
    info = dict(row.get("extra_info") or {})
    out = {**info, "extra_info": info, "data_source": row.get("data_source"), "prompt": messages}
    reference = (row.get("reward_model") or {}).get("ground_truth")
    return out if reference is None else {**out, "ground_truth": reference, "answer": reference}


_verifiers: dict[Settings, Verifier] = {}  # one for each worker process; agent loops come and go


def verifier(settings: Settings, config: Any) -> Verifier:
    """The verifier that the settings name, made once in a process.

    config: verl's configuration, for its reward function.
    """
    if settings not in _verifiers:
        if settings.verifier == VERL_REWARD:
            compute = get_custom_reward_fn(config) or default_compute_score
            _verifiers[settings] = RewardFunctions(verl_reward(compute), timeout=settings.verifier_timeout)
        else:
            _verifiers[settings] = VerifierPool(
                settings.verifier,
                workers=settings.verifier_workers,
                timeout=settings.verifier_timeout,
                thinking_tags=settings.thinking_tags,
                answer_tags=settings.answer_tags,
            )
    return _verifiers[settings]


def verl_reward(compute: Callable[..., Any]) -> Callable[..., Any]:
    """A reward function of verl's signature as one of TRL's.

    compute: `compute(data_source=…, solution_str=…, ground_truth=…, extra_info=…)`, plain or async, which returns a
        number, or a dictionary with one under "score".
    """

    def arguments(completions: list[Any], table: dict[str, Any]) -> list[dict[str, Any]]:
        names = ("data_source", "ground_truth", "extra_info")
        return [
            {"solution_str": completion_text(c), **{name: table[name][i] for name in names}}
            for i, c in enumerate(completions)
        ]

    def score(result: Any) -> float:
        return float(result["score"] if isinstance(result, dict) else result)

    if inspect.iscoroutinefunction(compute.func if isinstance(compute, functools.partial) else compute):

        async def reward_async(completions: list[Any], **table: Any) -> list[float]:
            return [score(await compute(**one)) for one in arguments(completions, table)]

        return reward_async

    def reward(completions: list[Any], **table: Any) -> list[float]:
        return [score(compute(**one)) for one in arguments(completions, table)]

    return reward


class TreeManager(AgentLoopManagerTQ):
    """verl's manager of agent loops: training questions go to `TreeAgentLoop`, those of validation where they would.

    `rollout.n` is the number of answers of a tree, from which verl computes its batch sizes, but one loop grows them.

    Raises `ConfigError` as `trees.check` does.
    """

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        check(plain(config))
        super().__init__(config, *args, **kwargs)

    def generate_sequences(self, prompts: Any) -> None:
        """See verl's class."""
        if "validate" not in prompts:
            tensordict_utils.assign_non_tensor_data(prompts, "agent_name", "ibtpo")
            tensordict_utils.assign_non_tensor_data(prompts, "__rollout_n__", 1)
        super().generate_sequences(prompts)


@register_trainer("ibtpo")
class TreeTrainer(PPOTrainerSync):
    """verl's synchronous trainer, which also logs the metrics of trees, and true rewards in place of their credit.

    Raises `ConfigError` as `trees.check` does, before any model is loaded.
    """

    def __init__(self, config: Any) -> None:
        check(plain(config))
        config.trainer.v1.trainer_mode = "sync"  # by this name verl's other classes know what is theirs to do
        super().__init__(config)

    def _compute_metrics(self, batch: Any, metrics: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        super()._compute_metrics(batch, metrics, *args, **kwargs)
        # Rows that fill up a batch are copies of a first row, its extra fields included.
        keys = [key for key, tag in zip(batch.keys, batch.tags, strict=True) if not tag.get("is_padding", False)]
        stored = tq.kv_batch_get(keys=keys, partition_id=batch.partition_id, select_fields=["extra_fields"])
        # The list's class depends on TransferQueue's storage.
        metrics.update(batch_metrics([getattr(row, "data", row) for row in stored["extra_fields"]]))
