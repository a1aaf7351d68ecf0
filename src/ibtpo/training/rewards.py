"""TRL's reward contract in the trainer: reward models, and functions that compare answers.

A reward model is given as in TRL, as a module or by its path, and `RewardModel` makes a function of it. What a function
logs with `log_extra` comes back to TRL's table row by row, by `extra_columns`. `comparing_function` finds a function
whose value for an answer depends on the others in its call.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from trl.data_utils import apply_chat_template, is_conversational

from ..errors import ConfigError
from ..verify import Verdict
from ..verify.outcome import ARGUMENTS
from ..verify.pool import VerifierPool
from ..verify.rewards import RewardFunctions

# Why a function that compares answers cannot do so, and what to do.
AS_TREES_GROW = (
    "While a tree grows, answers are scored as they end, so the function cannot see them all. Let it judge each answer "
    "by itself (advantages compare the answers anyway), or choose branching random, fixed_width, entropy, "
    "eptree or independent, which need no rewards: there it is called once with all answers of the batch, as in TRL"
)
BY_NAME = (
    "A function that is given by name judges answer by answer, in child processes. Let it judge each answer by itself "
    "(advantages compare the answers anyway), or give the function itself to IBTPOTrainer and choose branching random, "
    "fixed_width, entropy, eptree or independent, which need no rewards: there it is called once with all answers of "
    "the batch, as in TRL"
)
TOLERANCE = 1e-3  # relative; a model that a function calls gives other last digits for another batch


def is_reward_model(reward: Any) -> bool:
    """Whether one of `reward_funcs` is a reward model: a module, or a string that is a folder or a hub id."""
    if isinstance(reward, str):
        return "/" in reward or Path(reward).is_dir()
    return isinstance(reward, torch.nn.Module)


class RewardModel:
    """A reward model as a reward function, which gives the values that TRL gives.

    trainer: the trainer, which has loaded the model and its tokenizer.
    index: the model's place among the trainer's rewards.
    """

    def __init__(self, trainer: Any, index: int) -> None:
        self.model = trainer.reward_funcs[index]
        self.tokenizer = trainer.reward_processing_classes[index]
        self.template_options = trainer.chat_template_kwargs
        self.device = trainer.accelerator.device
        self.__name__ = trainer.reward_func_names[index]

    def __call__(self, prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
        """The (R,) rewards of R answers, each a string or a list of messages."""
        if is_conversational({"prompt": prompts[0]}):
            chats = [{"messages": p + c} for p, c in zip(prompts, completions, strict=True)]
            texts = [apply_chat_template(chat, self.tokenizer, **self.template_options)["text"] for chat in chats]
        else:
            texts = [p + c for p, c in zip(prompts, completions, strict=True)]
        inputs = self.tokenizer(
            text=texts, return_tensors="pt", padding=True, padding_side="right", add_special_tokens=False
        ).to(self.device)
        with torch.inference_mode():
            rewards: list[float] = self.model(**inputs).logits[:, 0].float().tolist()
        return rewards


def trainer_rewards(trainer: Any, weights: Sequence[float] | None, timeout: float) -> RewardFunctions:
    """The verifier of a trainer whose rewards are models, or models and functions. TRL has loaded them by now.

    weights, timeout: see `RewardFunctions`.

    Raises `ConfigError` under ZeRO-3, where a model answers only if all processes ask at once.
    """
    plugin = getattr(trainer.accelerator.state, "deepspeed_plugin", None)
    if plugin is not None and plugin.zero_stage == 3:
        raise ConfigError(
            "a reward model cannot be asked under DeepSpeed ZeRO-3, because processes score their trees at different "
            "times; use ZeRO-2, or a function that asks a server"
        )
    return RewardFunctions(as_functions(trainer), weights=weights, timeout=timeout)


def as_functions(trainer: Any) -> list[Any]:
    """The rewards of a trainer, ours or TRL's, with each model as a `RewardModel`."""
    return [
        RewardModel(trainer, i) if isinstance(reward, torch.nn.Module) else reward
        for i, reward in enumerate(trainer.reward_funcs)
    ]


def without_argument_names(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of a data set without the columns that would collide with arguments of reward functions."""
    return [{k: v for k, v in row.items() if k not in ARGUMENTS} for row in rows]


def extra_columns(verdicts: Sequence[Sequence[Verdict]], group: int) -> dict[str, list[Any]]:
    """What functions logged with `log_extra`, for TRL's table: by column (B,) values, None where there is none.

    verdicts: for each tree, those of its answers.
    group: G, rows a tree.
    """
    rows = [v.logged for tree in verdicts for v in (*tree, *[Verdict(None, ())] * (group - len(tree)))]
    return {column: [row.get(column) for row in rows] for column in sorted({c for row in rows for c in row})}


def comparing_function(
    verifier: RewardFunctions | VerifierPool, rows: Sequence[dict[str, Any]], verdicts: Sequence[Verdict]
) -> tuple[str | None, bool]:
    """Looks for a function whose value for an answer depends on the other answers in its call.

    All answers are given to it in one call, and the values compared with those that it gave while the trees grew. A
    value that differs counts only if a second such call gives the same, since some functions are random, and if the
    answer alone gets another one, since a call may fail now and then.

    verifier: calls the functions.
    rows: (R,) what they got.
    verdicts: (R,) what they said.

    Returns the message for the user, or None, and whether the matter is settled: it is not while each function gives
    all answers the same value.
    """
    together = verifier.score_together(rows)
    settled = all(len({v.per_function[f] for v in together}) > 1 for f in range(len(verifier.names)))
    again: list[Verdict] = []
    for f, name in enumerate(verifier.names):
        values = [v.per_function[f] for v in together]
        grown = [v.per_function[f] for v in verdicts]
        i = next((i for i, (a, b) in enumerate(zip(values, grown, strict=True)) if not _alike(a, b)), None)
        if i is None:
            continue
        settled = True
        again = again or verifier.score_together(rows)
        if not all(_alike(a, v.per_function[f]) for a, v in zip(values, again, strict=True)):
            continue
        alone = verifier.score_together([rows[i]])[0].per_function[f]
        if not _alike(values[i], alone):
            how = BY_NAME if isinstance(verifier, VerifierPool) else AS_TREES_GROW
            return (
                f"reward function {name!r} compares answers: one of them gets {values[i]} in a call with all "
                f"{len(rows)}, and {alone} alone. {how}",
                True,
            )
    return None, settled


def _alike(a: float | None, b: float | None) -> bool:
    if a is None or b is None:
        return a is b
    return abs(a - b) <= TOLERANCE * max(1.0, abs(a), abs(b))
