"""The methods that can be trained and compared: each is a preset of branching rule, advantage and regulariser."""

from typing import Any

# A method sets these options of `IBTPOConfig`; all others stay as the user configured them.
METHODS: dict[str, dict[str, Any]] = {
    "ibtpo": {"branching": "ib", "advantage": "ibtpo", "regularizer": "none"},
    "grpo": {"branching": "independent", "advantage": "grpo", "regularizer": "none"},
    "grpo_clip_higher": {"branching": "independent", "advantage": "grpo", "regularizer": "clip_higher"},
    "grpo_entropy": {"branching": "independent", "advantage": "grpo", "regularizer": "entropy_bonus"},
    "ibro": {"branching": "independent", "advantage": "grpo", "regularizer": "ibro"},
    "treerl": {"branching": "entropy", "advantage": "treerl", "regularizer": "none"},
    "treepo": {"branching": "fixed_width", "advantage": "treepo", "regularizer": "clip_higher"},
}
