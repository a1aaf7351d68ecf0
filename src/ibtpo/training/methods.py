"""The methods that can be trained and compared: each is a preset of branching rule, advantage, regulariser and loss.

IB-TPO is arXiv 2605.28109; docs/method.md tells how each of the others departs from its paper.
"""

from typing import Any

# By the name of a method, the options of `IBTPOConfig` that it sets; all others stay as the user configured them, but
# that `settings.resolve` also gives a method without branches its group size.
METHODS: dict[str, dict[str, Any]] = {
    "ibtpo": {"branching": "ib", "advantage": "ibtpo", "regularizer": "none"},
    "grpo": {"branching": "independent", "advantage": "grpo", "regularizer": "none"},
    "grpo_clip_higher": {"branching": "independent", "advantage": "grpo", "regularizer": "clip_higher"},
    "grpo_entropy": {"branching": "independent", "advantage": "grpo", "regularizer": "entropy_bonus"},
    "ibro": {"branching": "independent", "advantage": "grpo", "regularizer": "ibro"},
    "treerl": {"branching": "eptree", "advantage": "treerl", "regularizer": "none"},
    "treepo": {
        "branching": "fixed_width",
        "advantage": "treepo",
        "regularizer": "clip_higher",
        "loss_type": "dapo",
        "delta": 10.0,
        "beta": 0.0,  # the mean over tokens, DAPO's dual clip, no KL term
    },
}
