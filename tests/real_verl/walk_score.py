"""A reward function of verl's signature for number walks: validation calls it, and trees with `ibtpo.verifier=verl`."""

from typing import Any

from ibtpo.verify.walk import walk_reward


def compute_score(data_source: str, solution_str: str, ground_truth: str, extra_info: dict[str, Any]) -> float:
    """1.0 for a walk that ends at the target, 0.0 otherwise."""
    assert data_source == "walk"
    assert str(extra_info["target"]) == ground_truth
    columns = {name: [extra_info[name]] for name in ("start", "target", "moves")}
    return float(walk_reward([solution_str], **columns)[0] or 0.0)
