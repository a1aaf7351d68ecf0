r"""The benchmarks of `ibtpo eval --benchmark NAME`: where their problems come from, how they are asked and graded.

    problems = load_benchmark(BENCHMARKS["math500"], "math500.jsonl")

The problems are not part of the package: they come from a file of yours or from a Hugging Face dataset.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError, DataError, unknown
from .gpqa import load_gpqa
from .ifeval import ifeval_row
from .problems import ANSWER_VERIFIERS, Problem, check_limit, load_problems

MATH = r"Please reason step by step, and put your final answer within \boxed{}."
CHOICE = r"Please reason step by step, and put the letter of the right choice within \boxed{}."

HELDOUT_ONE_IN = 48  # one in so many of DAPO-Math's questions is held out of training: 341 of 17243
# Questions of MATH-500 and AMC 2023 that are in DAPO-Math too, as `question_key`s: neither held out nor for training.
DAPO_OVERLAP = frozenset(
    [
        "d05d31c90f0b8c8d",
        "04d8476e5694bdc6",
        "6fcba36e2db66e3a",
        "30fa238805116ba2",
        "71b107583f4d52c8",
        "7ca51aabdf6d3ce3",
        "6dd4e5a41d54e0e5",
        "4c7f821d7d84e0da",
        "efe6ddf48131a5cd",
        "8fb7e98015fc63ac",
        "f9f71ef4ba176ba6",
        "2900f64cc2dc2c2b",
        "7cd78bf451bacbef",
        "1e6b0631848c0e98",
    ]
)


@dataclass(frozen=True)
class Benchmark:
    """One benchmark: a row of the table `BENCHMARKS`.

    name: what `ibtpo eval --benchmark` calls it.
    hub: Hugging Face dataset, `:configuration` included, that is read where no file is named; None if a file must be.
    split: which split of that dataset.
    problems: how many there are; None where the data decide.
    instruction: what follows each question; None for nothing.
    verifier: what grades the answers: a name that `VerifierPool` knows.
    reference: where the benchmark comes from.
    k: answers that are sampled for each problem.
    gpqa_csv: whether the source is GPQA's own CSV file, which `load_gpqa` reads.
    held_out_only: whether only the source's questions count that `is_held_out` names.
    prepare: what reads a row of the source in its own way, see `load_problems`; None for nothing.
    """

    name: str
    hub: str | None
    split: str
    problems: int | None
    instruction: str | None
    verifier: str
    reference: str
    k: int = 32
    gpqa_csv: bool = False
    held_out_only: bool = False
    prepare: Callable[[str, Any], Any] | None = None


BENCHMARKS = {
    b.name: b
    for b in (
        Benchmark("math500", "HuggingFaceH4/MATH-500", "test", 500, MATH, "math", "arXiv 2305.20050, 2103.03874"),
        Benchmark("aime2024", "HuggingFaceH4/aime_2024", "train", 30, MATH, "math", "MAA, AIME I and II 2024"),
        Benchmark("aime2025", "math-ai/aime25", "test", 30, MATH, "math", "MAA, AIME I and II 2025"),
        Benchmark("amc2023", "math-ai/amc23", "test", 40, MATH, "math", "MAA, AMC 12A and 12B 2023"),
        Benchmark("amc2024", None, "train", 22, CHOICE, "choice", "MAA, AMC 10A and 12A 2024"),
        Benchmark("gsm8k", "openai/gsm8k:main", "test", 1319, MATH, "math", "arXiv 2110.14168"),
        Benchmark("gpqa_diamond", None, "train", 198, CHOICE, "choice", "arXiv 2311.12022", gpqa_csv=True),
        Benchmark("ifeval", "google/IFEval", "train", 541, None, "ifeval", "arXiv 2311.07911", prepare=ifeval_row),
        Benchmark(
            "dapo_heldout", "open-r1/DAPO-Math-17k-Processed:all", "train", None, MATH, "math", "arXiv 2503.14476",
            held_out_only=True,
        ),
    )
}  # fmt: skip


def find_benchmark(name: str) -> Benchmark:
    """The benchmark of that name. Raises `ConfigError`, which suggests the nearest one, where there is none."""
    if name not in BENCHMARKS:
        raise unknown("benchmark", name, BENCHMARKS)
    return BENCHMARKS[name]


def load_benchmark(
    benchmark: Benchmark,
    source: str | Path | None = None,
    *,
    split: str | None = None,
    limit: int | None = None,
    instruction: str | None = None,
    question_column: str | None = None,
    answer_column: str | None = None,
) -> list[Problem]:
    """The problems of a benchmark, with its instruction after each question.

    benchmark: one of `BENCHMARKS`.
    source: a file or a dataset id; by default the benchmark's own dataset.
    split: read in place of the benchmark's; GPQA's file has none.
    limit: read this many problems at most.
    instruction: used in place of the benchmark's.
    question_column, answer_column: see `load_problems`; GPQA's columns are fixed.

    Raises `DataError` for anything wrong in the source, and `ConfigError` where a source must be named or the limit is
    below 1.
    """
    source = source or benchmark.hub
    if source is None:
        raise ConfigError(f"{benchmark.name} comes from a file of yours: name it with --data")
    instruction = benchmark.instruction if instruction is None else instruction
    if benchmark.gpqa_csv:
        return load_gpqa(source, limit=limit, instruction=instruction)
    check_limit(limit)
    problems = load_problems(
        source,
        split=split or benchmark.split,
        limit=None if benchmark.held_out_only else limit,
        question_column=question_column,
        answer_column=answer_column,
        require_answer=benchmark.verifier in ANSWER_VERIFIERS,
        instruction=instruction,
        prepare=benchmark.prepare,
    )
    if benchmark.held_out_only:
        problems = [p for p in problems if is_held_out(_bare(p, instruction))][:limit]
        if not problems:
            raise DataError(f"{source}: none of its questions is held out; name the whole of DAPO-Math")
    return problems


def split_dapo(source: str | Path) -> tuple[list[Problem], list[Problem]]:
    """The problems in a copy of DAPO-Math as two lists: those held out, and those for training.

    Questions that are in MATH-500 or AMC 2023 too are in neither.
    """
    problems = [p for p in load_problems(source) if question_key(_bare(p)) not in DAPO_OVERLAP]
    held_out = [p for p in problems if is_held_out(_bare(p))]
    return held_out, [p for p in problems if not is_held_out(_bare(p))]


def is_held_out(question: str) -> bool:
    """Whether a question of DAPO-Math belongs to the benchmark `dapo_heldout`.

    Its text alone decides that, so that the order of the rows does not matter, nor which copy is read.
    """
    key = question_key(question)
    return int(key[:8], 16) % HELDOUT_ONE_IN == 0 and key not in DAPO_OVERLAP


def question_key(question: str) -> str:
    """A key that two questions share if they differ in spacing, case or punctuation only.

    Signs of operations count: with a minus in place of a plus it is another question. Returns 16 hexadecimal digits.
    """
    text = re.sub(r"[^a-z0-9+\-*/=<>^\u4e00-\u9fff]", "", question.casefold())
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _bare(problem: Problem, instruction: str | None = None) -> str:
    """A problem's question without the instruction that follows it."""
    prompt = problem.prompt if isinstance(problem.prompt, str) else problem.prompt[-1]["content"]
    return prompt if instruction is None else prompt.removesuffix(f"\n\n{instruction}")
