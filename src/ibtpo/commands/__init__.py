"""One module a verb: `add_arguments(parser)` without heavy imports, `run(args) -> exit code`.

What the verbs share is here: groups of options, how a model and problems become an engine and prompts, progress and
tables. Results go to stdout, progress and errors to stderr.
"""

import argparse
import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError

if TYPE_CHECKING:
    from ..engines import Sampling
    from ..score import ScoreOptions
    from ..search import Prompt, SearchOptions
    from ..tasks.data import Problem
    from ..verify.pool import VerifierPool

from .._text import without_nan

SMALL_MODEL = 10_000_000  # parameters; below, a second CPU thread gains nothing
ANSWER_VERIFIERS = ("math", "countdown", "choice", "walk")  # need a reference answer in every row


def add_data_options(
    parser: argparse.ArgumentParser, *, several_models: bool = False, benchmarks: bool = False
) -> None:
    """`--model`, `--data` and how to read and grade them.

    With `several_models` neither is required; with `benchmarks` there is `--benchmark`, in whose place `--data` may be.
    """
    group = parser.add_argument_group("model and problems")
    model = "nano, smollm2-135m, a folder, or a hub id"
    if several_models:
        group.add_argument("--model", nargs="+", metavar="NAME", help=f"{model}; or a trainer's output folder")
    else:
        group.add_argument("--model", required=True, help=model)
    group.add_argument(
        "--engine", default="transformers", help="transformers, vllm, or URL[,URL...] of servers (default: %(default)s)"
    )
    group.add_argument("--dtype", default="float32", help="float32, bfloat16 or float16 (default: %(default)s)")
    group.add_argument("--device", help="e.g. cpu, cuda:1 (default: the first GPU, else the CPU)")
    add_problem_options(group, required=not several_models and not benchmarks, benchmarks=benchmarks)
    group.add_argument("--system-prompt", help="put before the question")
    group.add_argument("--instruction", help=r"put after the question, e.g. 'Put your final answer in \boxed{}.'")
    group.add_argument("--no-chat-template", action="store_true", help="the bare question, even to a chat model")
    add_verifier_options(group, "by the data's columns, else math")


def add_problem_options(group: Any, *, required: bool, benchmarks: bool) -> None:
    """`--data` and its columns; with `benchmarks` also `--benchmark`."""
    if benchmarks:
        group.add_argument(
            "--benchmark", help="math500, gsm8k, …: problems, prompt, verifier and k; see ibtpo benchmarks"
        )
    group.add_argument("--data", required=required, help="a file (.jsonl, .parquet, …), walk[:test], or a dataset id")
    group.add_argument(
        "--split",
        help="of a dataset (default: train, or the benchmark's)" if benchmarks else "of a dataset (default: train)",
    )
    group.add_argument("--limit", type=int, help="the first N problems only")
    group.add_argument("--question-column", help="default: question, prompt or problem")
    group.add_argument("--answer-column", help="default: answer or solution")


def add_verifier_options(group: Any, default: str) -> None:
    """`--verifier` and its limits."""
    group.add_argument(
        "--verifier", help=f"math, countdown, choice, walk, ifeval or package.module:function (default: {default})"
    )
    group.add_argument("--verifier-workers", type=int, default=2, help="child processes (default: %(default)s)")
    group.add_argument("--verifier-timeout", type=float, default=10.0, help="seconds a row (default: %(default)s)")


def add_tree_options(parser: argparse.ArgumentParser) -> None:
    """How trees grow."""
    group = parser.add_argument_group("trees")
    group.add_argument("--tree", default="4,9,1,1", metavar="B0,L,K,B", help="B0 first rollouts, then L-1 rounds of K"
                       " places with B rollouts each (default: %(default)s)")  # fmt: skip
    group.add_argument("--tokens", type=int, metavar="BUDGET", help="stop a tree at this many tokens in place of L")
    group.add_argument(
        "--branching", default="ib", help="ib, entropy, fixed_width, random, independent or package.module:function"
    )
    group.add_argument(
        "--splitter", default="blank_line",
        help="blank_line, delimiter:TEXT, regex:PATTERN, tokens:COUNT, sentence or noisy:SHARE",
    )  # fmt: skip
    group.add_argument(
        "--lookahead", type=int, default=0, metavar="ROUNDS",
        help="start this many rounds before the running one has returned: faster with few problems (default: 0)",
    )  # fmt: skip


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    """How tokens are drawn and how many at once."""
    group = parser.add_argument_group("sampling")
    group.add_argument("--temperature", type=float, default=0.7, help="default: %(default)s")
    group.add_argument("--top-p", type=float, default=0.95, help="1 is off (default: %(default)s)")
    group.add_argument("--top-k", type=int, default=20, help="0 is off (default: %(default)s)")
    group.add_argument("--max-new-tokens", type=int, default=2048, help="an answer's limit (default: %(default)s)")
    group.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    group.add_argument("--max-in-flight", type=int, default=64, help="rollouts at once (default: %(default)s)")
    group.add_argument("--kv-memory-gb", type=float, help="for kept prefixes (default: 2; vLLM on a GPU: what is free)")
    group.add_argument(
        "--deterministic", action="store_true", help="the same batches in every run: bit-equal results, a little slower"
    )


def add_score_options(parser: argparse.ArgumentParser) -> None:
    """The options of `ScoreOptions`."""
    group = parser.add_argument_group("scores")
    group.add_argument("--beta", type=float, default=5.0, help="of the Information Bottleneck (default: %(default)s)")
    group.add_argument("--value", default="leaves", help="value of a node: leaves or draws (default: %(default)s)")
    group.add_argument(
        "--confidence", default="geomean", help="in a step: geomean, joint or head:k (default: %(default)s)"
    )
    group.add_argument("--weight", default="draws", help="of a child: draws or unique (default: %(default)s)")
    group.add_argument("--ratio-prior", type=float, default=0.0, help="smooths p-hat in ratios (default: off)")


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """`--json` and `--quiet`."""
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress")


def score_options(args: argparse.Namespace) -> "ScoreOptions":
    """The `ScoreOptions` of the command line."""
    from ..score import ScoreOptions

    return ScoreOptions(args.beta, args.value, args.confidence, args.weight, args.ratio_prior)


def sampling_options(args: argparse.Namespace) -> "Sampling":
    """The `Sampling` of the command line."""
    from ..engines import Sampling

    return Sampling(args.temperature, args.top_p, args.top_k)


def search_options(args: argparse.Namespace) -> "SearchOptions":
    """The `SearchOptions` of the command line."""
    from ..search import Budget, SearchOptions

    return SearchOptions(
        budget=Budget.parse(args.tree, args.tokens),
        sampling=sampling_options(args),
        score=score_options(args),
        branching=args.branching,
        splitter=args.splitter,
        max_new_tokens=args.max_new_tokens,
        seed=args.seed,
        lookahead=args.lookahead,
        max_in_flight=args.max_in_flight,
        deterministic=args.deterministic,
    )


def read_problems(args: argparse.Namespace) -> tuple[list["Problem"], str]:
    """The problems, and the name of the verifier that goes with them."""
    from ..tasks.data import load_problems, verifier_for
    from ..verify.pool import function_name

    if args.verifier is not None:
        function_name(args.verifier)  # a misspelt name is told before anything is read or loaded
    if getattr(args, "benchmark", None) is not None:
        return _read_benchmark(args)
    problems = load_problems(
        args.data,
        split=args.split or "train",
        limit=args.limit,
        question_column=args.question_column,
        answer_column=args.answer_column,
        require_answer=args.verifier is None or args.verifier in ANSWER_VERIFIERS,
        instruction=args.instruction,
    )
    return problems, args.verifier if args.verifier is not None else verifier_for(problems[0])


def _read_benchmark(args: argparse.Namespace) -> tuple[list["Problem"], str]:
    from ..tasks.benchmarks import find_benchmark, load_benchmark

    benchmark = find_benchmark(args.benchmark)
    problems = load_benchmark(
        benchmark,
        args.data,
        split=args.split,
        limit=args.limit,
        instruction=args.instruction,
        question_column=args.question_column,
        answer_column=args.answer_column,
    )
    if args.limit is None and benchmark.problems not in (None, len(problems)):
        print(f"note: {benchmark.name} has {benchmark.problems} problems, {args.data} {len(problems)}", file=sys.stderr)
    return problems, args.verifier or benchmark.verifier


def open_verifier(args: argparse.Namespace, name: str) -> "VerifierPool":
    """The verifier pool of the command line; a context manager."""
    from ..verify.pool import VerifierPool

    return VerifierPool(name, workers=args.verifier_workers, timeout=args.verifier_timeout)


def open_model(args: argparse.Namespace) -> tuple[Any, Any]:
    """The engine and the tokenizer."""
    from transformers.utils import logging as transformers_logging

    from ..engines.open import open_engine

    transformers_logging.disable_progress_bar()  # "Loading weights" would land between our own lines
    engine, tokenizer = open_engine(
        args.engine,
        args.model,
        dtype=args.dtype,
        device=args.device,
        max_in_flight=args.max_in_flight,
        kv_memory_gb=args.kv_memory_gb,
    )
    model: Any = getattr(engine, "model", None)
    if hasattr(model, "num_parameters") and model.num_parameters() < SMALL_MODEL:
        import torch

        # On a busy machine threads that wait for each other after every small product take a hundred times as long.
        torch.set_num_threads(1)
    return engine, tokenizer


def make_prompts(
    args: argparse.Namespace, problems: Sequence["Problem"], engine: Any, tokenizer: Any
) -> list["Prompt"]:
    """Prompts ready for the engine. Raises `DataError` naming a problem that does not fit the model's context."""
    from ..search import Prompt
    from ..tasks.data import check_prompt_length, encode_prompt

    prompts = []
    for problem in problems:
        text, ids = encode_prompt(
            problem,
            tokenizer,
            system_prompt=args.system_prompt,
            chat_template=False if args.no_chat_template else None,
        )
        if engine.max_length is not None:
            check_prompt_length(problem.id, len(ids), engine.max_length)
        prompts.append(Prompt(problem.id, tuple(ids), text, {**problem.columns, "answer": problem.answer}))
    return prompts


def decoder(tokenizer: Any) -> Any:
    """Token ids -> text, special tokens skipped, nothing tidied up."""

    def decode(ids: list[int]) -> str:
        return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    return decode


class Progress:
    """What is done of `total`: a bar where stderr is a terminal, else a line every few seconds, nothing when quiet."""

    EVERY = 10.0  # seconds between plain lines

    def __init__(self, what: str, total: int, done: int = 0, *, quiet: bool = False) -> None:
        self.what, self.total, self.done, self.quiet = what, total, done, quiet
        self.tokens = 0
        self._grades: list[float] = []
        self._start = self._last = time.monotonic()
        self._bar: Any = None

    def add(self, tokens: int, grades: Sequence[float]) -> None:
        """One more is done; it took `tokens`, its answers were graded `grades`."""
        self.done += 1
        self.tokens += tokens
        self._grades.extend(grades)
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, text=self._text(now))
        elif not self.quiet and (now - self._last >= self.EVERY or self.done == self.total):
            self._last = now
            print(f"{self.done}/{self.total} {self.what}, {self._text(now)}", file=sys.stderr, flush=True)

    def _text(self, now: float) -> str:
        mean = math.fsum(self._grades) / len(self._grades) if self._grades else math.nan
        rate = self.tokens / max(now - self._start, 1e-9)
        return f"reward {mean:.3f}, {self.tokens} tokens, {rate:.0f} tokens/s"

    @contextlib.contextmanager
    def shown(self) -> Iterator["Progress"]:
        """Draws the bar while the block runs."""
        if self.quiet or not sys.stderr.isatty():
            yield self
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = (
            TextColumn(self.what),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
        )
        with Bar(*columns, console=Console(stderr=True)) as bar:
            self._task = bar.add_task(self.what, total=self.total, completed=self.done, text="")
            self._bar = bar
            try:
                yield self
            finally:
                self._bar = None


def file_name(text: str) -> Path:
    """A path that names a file, for argparse."""
    if not Path(text).name:
        raise argparse.ArgumentTypeError(f"{text!r} names no file")
    return Path(text)


def make_folder_of(path: Path) -> None:
    """Makes the folder a file is to be written to. Raises `ConfigError` when that cannot be done."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise ConfigError(f"{path}: its folder cannot be made: {e.strerror}; name a file in another folder") from e
    if not os.access(path.parent, os.W_OK):
        raise ConfigError(f"{path}: its folder cannot be written to; name a file in another folder")


def check_free(paths: Sequence[Any], *, overwrite: bool, resume: bool = False, can_resume: bool = False) -> None:
    """Raises `ConfigError` if one of the files exists and neither switch says what to do with it."""
    if overwrite and resume:
        raise ConfigError("--resume keeps what is there and --overwrite drops it: give one of them")
    for path in paths:
        if path.is_dir():
            raise ConfigError(f"{path} is a folder; name a file")
        if path.exists() and not overwrite and not resume:
            fix = (
                "--resume to go on with it or --overwrite to start again" if can_resume else "--overwrite to replace it"
            )
            raise ConfigError(f"{path} exists already; give {fix}")


def print_json(value: Any) -> None:
    """One line of JSON on stdout, NaN as null."""
    print(json.dumps(without_nan(value), ensure_ascii=False, allow_nan=False))
