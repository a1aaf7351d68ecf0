"""Number walks as verl's data sets hold them."""

from typing import Any

from ibtpo.tasks.problems import Problem, load_problems


def walks(count: int) -> list[Problem]:
    """The first problems of the embedded task."""
    return load_problems("walk:train", limit=count)


def row_of(problem: Problem, index: int) -> dict[str, Any]:
    """A problem as a row of verl's data sets."""
    return {
        "data_source": "walk",
        "prompt": [{"role": "user", "content": problem.prompt}],
        "reward_model": {"style": "rule", "ground_truth": str(problem.columns["answer"])},
        "extra_info": {**problem.columns, "index": index},
    }
