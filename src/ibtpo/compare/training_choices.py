"""What a comparison chooses for each arm before its final runs: the questions a step, and the learning rate.

Both come from short runs in the comparison's folder, and from nothing else: a comparison that was stopped chooses the
same when it goes on.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..storage.read_run import read_run

WIDENINGS = 3  # how often a grid of learning rates grows at each of its two ends, at most

Accuracies = dict[float, list[float | None]]  # the pilots' accuracies by learning rate, None for one not finished


def tried_rates(grid: Sequence[float], accuracies: Callable[[float], list[float | None]], widenings: int) -> Accuracies:
    """The learning rates of an arm: those of the grid, and those it is widened by while the best is at an end of it.

    A new rate is as far from the end as the end is from its neighbour, as a ratio. It is known only when the pilots of
    all rates before it are finished.

    grid: at least two rates.
    accuracies: gives those of the pilots at a rate, None for a pilot that is not finished.
    widenings: how often the grid may grow at each end.

    Returns the accuracies of all rates so far.
    """
    tried = {rate: accuracies(rate) for rate in sorted(grid)}
    left = {False: widenings, True: widenings}  # by whether it is the upper end
    while all(a is not None for row in tried.values() for a in row):
        rates = sorted(tried)
        best = choose_rate(tried)["learning_rate"]  # type: ignore[arg-type]
        upper = best == rates[-1]
        if best not in (rates[0], rates[-1]) or not left[upper]:
            break
        left[upper] -= 1
        rate = float(f"{best * best / rates[-2 if upper else 1]:.6g}")
        tried[rate] = accuracies(rate)
    return dict(sorted(tried.items()))


def choose_rate(accuracies: Mapping[float, Sequence[float]]) -> dict[str, Any]:
    """Chooses the learning rate with the best mean accuracy over the pilots' seeds; of equal ones, the smallest.

    A rate with an accuracy of NaN comes last.

    accuracies: for each rate that was tried, the accuracy of each pilot.

    Returns the rate as `learning_rate`; as `at_edge` whether it is the lowest or highest that was tried, so that a rate
    beyond might be better; and as `validation` the accuracies.
    """
    means = {
        rate: -math.inf if any(map(math.isnan, row)) else math.fsum(row) / len(row) for rate, row in accuracies.items()
    }
    best = min(means, key=lambda rate: (-means[rate], rate))
    return {
        "learning_rate": best,
        "at_edge": best in (min(means), max(means)),
        "validation": {f"{rate:g}": list(row) for rate, row in sorted(accuracies.items())},
    }


def tokens_a_question(folder: Path) -> tuple[float, int]:
    """What a sizing run found: the tokens that an arm generates for a question, and the questions a step it had.

    folder: the run folder of a finished run.
    """
    run = read_run(folder)
    questions = int(run.config["prompts_per_step"])
    return float(run.curves.tokens[-1]) / (int(run.curves.steps[-1]) * questions), questions


def nearest_questions(settings: dict[str, Any], wanted: float, most: int) -> int:
    """The questions a step nearest to `wanted` that a run with these settings takes.

    Its answers must fill whole forward passes, for example, if the recipe sets `rows_per_forward`.

    settings: the settings of the arm.
    wanted: how many questions a step would match exactly.
    most: how many problems there are to train on.

    Raises `ConfigError` if it takes none from 1 to twice as many as wanted.
    """
    from ..training import settings as st

    run, trainer = st.split(settings)
    numbers = range(1, min(most, max(run.prompts_per_step, math.ceil(2 * wanted))) + 1)
    for questions in sorted(numbers, key=lambda n: abs(n - wanted)):
        try:
            st.make_config(replace(run, prompts_per_step=questions), trainer, Path("unused"))
        except ConfigError:
            continue
        return questions
    raise ConfigError(f"no prompts_per_step near {wanted:.1f} fits the other settings; give --no-match-steps")
