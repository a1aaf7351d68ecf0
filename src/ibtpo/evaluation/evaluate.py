"""avg@k and pass@k of a model on a set of problems, with bootstrap intervals over the problems.

    result = asyncio.run(evaluate(engine, verifier, prompts, decode=decode, k=8))

The answers to a problem are a tree whose K rollouts all start at the root, so sampling, seeds and verifying are those
of `search`.

Legend: P problems, K draws a problem. A draw whose verifier failed has no grade (None, NaN in arrays): it does not
count as wrong, but is left out of the averages and counted apart. A problem without any grade is left out whole, and
counted, too.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .._options import OPTIONS
from ..engines import Engine, Sampling
from ..environments.pool import Environments
from ..errors import ConfigError, DataError
from ..search import Budget, Prompt, SearchOptions, TreeSearch
from ..tree import ReasoningTree
from ..verify import Verifier
from .statistics import FULL_MARKS, avg_at_k, bootstrap_interval, pass_at_k


@dataclass(frozen=True, slots=True)
class Answer:
    """One draw, as the file of answers stores it.

    id: the id of its problem.
    draw: its number among the draws of the problem, from 0.
    completion: the answer's text.
    grade: the value of the first reward function, before weights; None where the verifier failed.
    stop: how it ended; see `tree.Leaf`.
    tokens: its length in tokens.
    """

    id: str
    draw: int
    completion: str
    grade: float | None
    stop: str
    tokens: int


@dataclass(frozen=True, slots=True)
class EvalResult:
    """What an evaluation found.

    avg: avg@k, the mean over the problems of each problem's mean grade; NaN if nothing was graded.
    avg_ci: its 95 % bootstrap interval over the problems.
    pass_at: pass@j by j, for j = 1, 2, 4, … and k; `pass_at[k]` is the one to report.
    pass_ci: the 95 % interval of `pass_at[k]`.
    k: draws a problem.
    n: how many problems have a grade.
    ungraded: how many problems have none.
    verifier_errors: how many draws have no grade.
    truncated: the share of draws that were cut at the length limit.
    tokens: how many tokens were generated.
    answers: every draw, the problems in input order.
    first_error: what the verifier said of the first draw without a grade; None if there is none, or if the answers were
        read from a file.
    """

    avg: float
    avg_ci: tuple[float, float]
    pass_at: dict[int, float]
    pass_ci: tuple[float, float]
    k: int
    n: int
    ungraded: int
    verifier_errors: int
    truncated: float
    tokens: int
    answers: list[Answer] = field(default_factory=list, repr=False)
    first_error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The result without the answers, as `eval.json` holds it, with None for what cannot be known."""
        none = {"avg": self.avg, "pass": self.pass_at[self.k]}
        return {
            **{key: None if math.isnan(value) else value for key, value in none.items()},
            "k": self.k,
            "n": self.n,
            "avg_ci": None if math.isnan(self.avg) else list(self.avg_ci),
            "pass_ci": None if math.isnan(self.avg) else list(self.pass_ci),
            "pass_at": {str(k): None if math.isnan(v) else v for k, v in self.pass_at.items()},
            "ungraded": self.ungraded,
            "verifier_errors": self.verifier_errors,
            "truncated": self.truncated,
            "tokens": self.tokens,
        }


async def evaluate(
    engine: Engine,
    verifier: Verifier,
    prompts: Sequence[Prompt],
    *,
    decode: Callable[[list[int]], str],
    k: int = 8,
    sampling: Sampling | None = None,
    max_completion_length: int = OPTIONS["max_completion_length"].default,
    seed: int = 0,
    max_in_flight: int = OPTIONS["max_in_flight"].default,
    deterministic: bool = False,
    on_answers: Callable[[list[Answer]], None] | None = None,
    environments: Environments | None = None,
) -> EvalResult:
    """Samples k independent answers to every problem, grades them, and summarises the grades.

    engine: what samples.
    verifier: what grades; the first of its reward functions counts.
    prompts: the P problems, at least one.
    decode: turns token ids into text, without special tokens.
    k: answers a problem, at least 1.
    sampling: how tokens are drawn.
    max_completion_length: the most tokens of an answer.
    seed: the run's seed. The seed of a draw comes from (seed, problem id, draw), so the answers to a problem do not
        depend on the other problems.
    max_in_flight: rollouts at the engine at once.
    deterministic: whether the engine's batches are the same in every run; see `search.SearchOptions`.
    on_answers: called with the k answers to a problem as soon as they are graded, in the order problems are finished.
    environments: what answers turns; see `TreeSearch`.

    Raises `ConfigError` for k < 1, `DataError` without problems, and `EngineError` when a rollout failed for good.
    """
    if k < 1:
        raise ConfigError(f"k must be >= 1, got {k}")
    if not prompts:
        raise DataError("nothing to evaluate: there are 0 problems")
    options = SearchOptions(
        budget=Budget(b0=k, rounds=1),
        sampling=sampling or Sampling(),
        branching="independent",
        max_completion_length=max_completion_length,
        seed=seed,
        max_in_flight=max_in_flight,
        deterministic=deterministic,
    )
    found: dict[str, list[Answer]] = {}
    errors: list[str] = []

    def collect(tree: ReasoningTree) -> None:
        found[tree.id] = answers = _answers(tree)
        errors.extend(tree.meta.get("verifier_errors", [])[:1])
        if on_answers:
            on_answers(answers)

    search = TreeSearch(engine, verifier, decode, options, environments=environments)
    await search.grow_each(prompts, collect)  # no tree is kept: the log-probs of a whole benchmark would be gigabytes
    result = summarise_answers([found[p.id] for p in prompts], k, seed=seed)
    return replace(result, first_error=errors[0] if errors else None)


def summarise_answers(answers: Sequence[Sequence[Answer]], k: int, *, seed: int = 0) -> EvalResult:
    """Averages the grades of stored or fresh answers.

    answers: for each of the P problems its answers, at least one; usually K, but some problems may have fewer.
    k: K, for pass@k.
    seed: the seed of the bootstrap.
    """
    grades = np.full((len(answers), max(map(len, answers))), math.nan)
    for row, given in zip(grades, answers, strict=True):
        row[: len(given)] = [math.nan if a.grade is None else a.grade for a in given]
    graded = (~np.isnan(grades)).sum(axis=1)
    solved = (np.nan_to_num(grades, nan=0.0) >= FULL_MARKS).sum(axis=1)
    avg = avg_at_k(grades)
    passes = {j: pass_at_k(graded, solved, j) for j in _powers_of_two(k)}
    flat = [a for row in answers for a in row]
    known = graded > 0
    return EvalResult(
        avg=float(avg[known].mean()) if known.any() else math.nan,
        avg_ci=bootstrap_interval(avg, seed=seed),
        pass_at={j: float(p[known].mean()) if known.any() else math.nan for j, p in passes.items()},
        pass_ci=bootstrap_interval(passes[k], seed=seed),
        k=k,
        n=int(known.sum()),
        ungraded=int((~known).sum()),
        verifier_errors=sum(a.grade is None for a in flat),
        truncated=sum(a.stop == "length" for a in flat) / len(flat),
        tokens=sum(a.tokens for a in flat),
        answers=flat,
    )


def _answers(tree: ReasoningTree) -> list[Answer]:
    return [
        Answer(tree.id, i, tree.completion_text(i), leaf.correct, leaf.stop, tree.sampled_length(leaf.node))
        for i, leaf in enumerate(tree.leaves)
    ]


def _powers_of_two(k: int) -> list[int]:
    """1, 2, 4, … up to k, and k itself."""
    return sorted({2**i for i in range(k.bit_length()) if 2**i <= k} | {k})
