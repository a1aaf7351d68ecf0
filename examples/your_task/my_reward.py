"""A reward: 1 for an answer whose last value is the target, 0 for any other."""

import re


def reward(completions, answer, **columns):
    """TRL's reward signature: one number an answer, or None for "cannot say".

    completions: (R,) texts; with a chat model, lists of messages of which the last one is the answer.
    answer: (R,) the column `answer` of the problems. Every other column arrives in `columns`, a list each.
    """
    rewards = []
    for completion, target in zip(completions, answer, strict=True):
        text = completion if isinstance(completion, str) else completion[-1]["content"]
        values = re.findall(r"= (\d+)\.", text)
        rewards.append(1.0 if values and values[-1] == str(target) else 0.0)
    return rewards
