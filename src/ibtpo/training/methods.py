"""The methods of the comparison, as the options each one changes."""

from typing import Any

# What a method of the comparison changes; everything else stays as configured.
METHODS: dict[str, dict[str, Any]] = {
    "ibtpo": {"branching": "ib", "advantage": "ibtpo", "regularizer": "none"},
    "grpo": {"branching": "independent", "advantage": "grpo", "regularizer": "none"},
    "grpo_clip_higher": {"branching": "independent", "advantage": "grpo", "regularizer": "clip_higher"},
    "grpo_entropy": {"branching": "independent", "advantage": "grpo", "regularizer": "entropy_bonus"},
    "ibro": {"branching": "independent", "advantage": "grpo", "regularizer": "ibro"},
    "treerl": {"branching": "entropy", "advantage": "treerl", "regularizer": "none"},
    "treepo": {"branching": "fixed_width", "advantage": "treepo", "regularizer": "clip_higher"},
}
