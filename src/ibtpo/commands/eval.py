"""avg@k and pass@k of a model on a set of problems, with 95 % intervals over the problems."""

import argparse
import asyncio
import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from .._files import append, write_whole
from .._text import table
from ..engines.models import decoder
from ..errors import ConfigError, IBTPOError
from .inputs import make_prompts, open_environments, open_model, open_verifier, read_problems
from .options import (
    add_data_options,
    add_environment_options,
    add_output_options,
    add_sampling_options,
    add_shard_option,
    sampling_options,
)
from .output import Progress, check_free, file_name, make_folder_of, print_json, warn_if_all_failed

if TYPE_CHECKING:
    from ..engines import Sampling
    from ..evaluation.evaluate import Answer, EvalResult
    from ..tasks.problems import Problem
    from ..verify.pool import VerifierPool

STATED = (
    "benchmark",
    "data",
    "chat_template_kwargs",
    "environment",
)  # options that the result names where they are given


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `ibtpo eval`."""
    parser.usage = "ibtpo eval --model M (--benchmark B [--data D] | --data D) [options]"
    parser.add_argument("--k", type=int, help="answers a problem (default: 32 for a benchmark, else 8)")
    parser.add_argument(
        "--output", type=file_name, metavar="FILE", help="eval.json; every answer goes to eval.answers.jsonl next to it"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")
    add_shard_option(parser)
    add_output_options(parser)
    add_data_options(parser, benchmarks=True)
    add_sampling_options(parser)
    add_environment_options(parser)


def run(args: argparse.Namespace) -> int:
    """Samples and grades the answers, prints the result and stores it with every answer."""
    from ..search import Budget, SearchOptions

    sampling = sampling_options(args)
    if args.benchmark is not None:
        from ..tasks.benchmarks import find_benchmark

        args.k = find_benchmark(args.benchmark).k if args.k is None else args.k
    elif args.data is None:
        raise ConfigError("give --benchmark, or --data with problems of yours; see ibtpo eval --help")
    args.k = 8 if args.k is None else args.k
    if args.k < 1:
        raise ConfigError(f"--k must be at least 1, got {args.k}")
    # Made only for its checks, which `evaluate` would make, too, but not before the model is loaded.
    SearchOptions(Budget(args.k, 1), sampling, max_completion_length=args.max_completion_length,
                  max_in_flight=args.max_in_flight)  # fmt: skip
    if args.shard is not None:
        if args.output is None:
            raise ConfigError("--shard needs --output: without it there is nothing to join")
        args.output = args.shard.file(args.output)
    answers_file: Path | None = args.output and args.output.with_suffix(".answers.jsonl")
    if args.output is not None and answers_file is not None:
        check_free([args.output, answers_file], overwrite=args.overwrite)
        make_folder_of(args.output)
    problems, verifier_name = read_problems(args)
    with open_verifier(args, verifier_name) as verifier:  # its children start while the model is loaded
        return _evaluate(args, sampling, problems, verifier_name, verifier, answers_file)


def _evaluate(
    args: argparse.Namespace,
    sampling: "Sampling",
    problems: list["Problem"],
    verifier_name: str,
    verifier: "VerifierPool",
    answers_file: Path | None,
) -> int:
    from ..evaluation.evaluate import evaluate
    from ..evaluation.stored_answers import answer_lines

    if verifier_name in ("ifeval", "code"):  # before the model is loaded and the first answer sampled
        from ..verify.worker import load

        load(verifier_name)
    engine, tokenizer = open_model(args)
    with open_environments(args, tokenizer) as environments:
        prompts = make_prompts(args, problems, engine, tokenizer, environments)
        if answers_file is not None:
            answers_file.write_bytes(b"")
        progress = Progress("problems", len(prompts), quiet=args.quiet)
        began = time.monotonic()

        def keep(answers: list["Answer"]) -> None:
            progress.add(sum(a.tokens for a in answers), [a.grade for a in answers if a.grade is not None])
            if answers_file is not None:
                append(answers_file, answer_lines(answers))

        job = evaluate(
            engine,
            verifier,
            prompts,
            decode=decoder(tokenizer),
            k=args.k,
            sampling=sampling,
            max_completion_length=args.max_completion_length,
            seed=args.seed,
            max_in_flight=args.max_in_flight,
            deterministic=args.deterministic,
            on_answers=keep,
            environments=environments,
        )
        with progress.shown():
            try:
                result = asyncio.run(job)
            except IBTPOError as e:
                if answers_file is None:
                    raise
                if not progress.done:
                    answers_file.unlink()
                    raise
                raise type(e)(f"{e}; the answers to {progress.done} problems are kept in {answers_file}") from e
    how = {
        "model": args.model,
        **{key: getattr(args, key) for key in STATED if getattr(args, key) is not None},
        "verifier": verifier_name,
        "sampling": sampling.to_json(),
        "max_completion_length": args.max_completion_length,
        "seed": args.seed,
        "seconds": round(time.monotonic() - began, 3),
    }
    finish(args, result, problems, how)
    if not args.quiet:
        warn_if_all_failed(len(result.answers), result.verifier_errors, result.first_error)
    return 0


def finish(
    args: argparse.Namespace, result: "EvalResult", problems: Sequence["Problem"], how: Mapping[str, Any]
) -> dict[str, Any]:
    """Stores a result and its answers, prints it, and returns the record that is stored.

    args: the parsed options: `output`, `json`, and the limits of the verifier.
    result: what `evaluate` or `summarise_answers` returned; its answers are stored in its order.
    problems: the problems; IFEval's accuracies are computed from them.
    how: what the result came from, for the record; `verifier` must be in it.
    """
    levels = {}
    if how["verifier"] == "ifeval":
        from ..evaluation.stored_answers import ifeval_accuracies

        workers, timeout, thinking = args.verifier_workers, args.verifier_timeout, args.thinking_tags
        levels = ifeval_accuracies(result.answers, problems, workers=workers, timeout=timeout, thinking_tags=thinking)
    record = {**result.to_json(), **({"levels": levels} if levels else {}), **how}
    if args.output is not None:
        from ..evaluation.stored_answers import answer_lines

        write_whole(args.output.with_suffix(".answers.jsonl"), answer_lines(result.answers))
        write_whole(args.output, json.dumps(record, ensure_ascii=False, indent=2, allow_nan=False) + "\n")
    if args.json:
        print_json(record)
    else:
        print(report(result, levels))
    return record


def report(result: "EvalResult", levels: Mapping[str, Mapping[str, Any]] = MappingProxyType({})) -> str:
    """The result as a small table.

    result: what is shown.
    levels: IFEval's accuracies by their names, each with its interval; empty for other benchmarks.
    """
    rows: list[list[object]] = [[f"avg@{result.k}", *_percent(result.avg, result.avg_ci)]]
    for k, value in result.pass_at.items():
        interval = result.pass_ci if k == result.k else (math.nan, math.nan)
        rows.append([f"pass@{k}", *_percent(value, interval)])
    for level, found in levels.items():
        rows.append([level.replace("_", ", "), *_percent(found["accuracy"], found["ci"])])
    rows += [["problems", result.n, ""], ["generated tokens", result.tokens, ""]]
    rows.append(["truncated answers", f"{100 * result.truncated:.1f} %", ""])
    rows.append(["verifier errors", result.verifier_errors, "(left out)" if result.verifier_errors else ""])
    if result.ungraded:
        rows.append(["problems without a grade", result.ungraded, "(left out)"])
    return table(rows)


def _percent(value: float | None, interval: Sequence[float] | None) -> tuple[str, str]:
    """Two cells of the table: a share in percent, and its interval, empty where there is none."""
    if value is None or interval is None or math.isnan(value):
        return "-", ""
    low, high = interval
    return f"{100 * value:.1f} %", "" if math.isnan(low) else f"[{100 * low:.1f}, {100 * high:.1f}]"
