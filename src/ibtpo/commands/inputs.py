"""Opens what a verb works on, as its options say: problems, verifier, model and prompts.

In all functions `args` are the parsed options that `options` declares.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from ..tasks.problems import ANSWER_VERIFIERS

if TYPE_CHECKING:
    from ..engines import Engine
    from ..environments.pool import Environments
    from ..search import Prompt
    from ..tasks.problems import Problem
    from ..verify.pool import VerifierPool


def read_problems(args: argparse.Namespace) -> tuple[list["Problem"], str]:
    """The problems of `--benchmark` or `--data`, and the name of the verifier: `--verifier`, else the one they go with.

    With `--shard` these are the problems of the shard. Where their source brings an environment, `args.environment` is
    set to it, unless another is named.

    Raises `ConfigError` or `DataError` if they cannot be read.
    """
    from ..tasks.problems import environment_for, load_problems, verifier_for
    from ..verify.pool import function_name

    if args.verifier is None and getattr(args, "environment", None) is not None:
        from .._extras import load_object
        from ..environments.questions import gives_reward

        if gives_reward(load_object(args.environment, "environment")):
            args.verifier = "environment"
    if args.verifier is not None:
        function_name(args.verifier)  # so that a misspelt name raises before anything is read or loaded
    if getattr(args, "benchmark", None) is not None:
        problems, name = _read_benchmark(args)
        return _of_shard(args, problems), name
    problems = load_problems(
        args.data,
        split=args.split or "train",
        limit=args.limit,
        question_column=args.question_column,
        answer_column=args.answer_column,
        require_answer=args.verifier is None or args.verifier in ANSWER_VERIFIERS,
        instruction=args.instruction,
    )
    name, environment = verifier_for(problems[0]), environment_for(problems[0])
    if environment is not None and not hasattr(args, "environment"):
        raise ConfigError(f"{args.data} is answered in turns, and its environment gives the reward, which is not here")
    if environment is not None and args.environment is None:
        args.environment, name = environment, "environment"
    return _of_shard(args, problems), args.verifier if args.verifier is not None else name


def _of_shard(args: argparse.Namespace, problems: list["Problem"]) -> list["Problem"]:
    shard = getattr(args, "shard", None)
    return problems if shard is None else shard.of(problems)


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
    """The pool of child processes that verifies answers; leaving its `with` block ends them.

    name: the verifier's name or dotted path.
    """
    from ..verify.pool import VerifierPool

    return VerifierPool(
        name,
        workers=args.verifier_workers,
        timeout=args.verifier_timeout,
        thinking_tags=args.thinking_tags,
        answer_tags=args.answer_tags,
    )


def open_model(args: argparse.Namespace) -> tuple["Engine", Any]:
    """Opens the engine of `--engine` for the model of `--model`, and returns it with the tokenizer."""
    from transformers.utils import logging as transformers_logging

    from ..engines.open import open_engine

    transformers_logging.disable_progress_bar()  # "Loading weights" would land between our own lines
    return open_engine(
        args.engine,
        args.model,
        dtype=args.dtype,
        device=args.device,
        max_in_flight=args.max_in_flight,
        kv_memory_gb=args.kv_memory_gb,
    )


@contextmanager
def open_environments(args: argparse.Namespace, tokenizer: Any) -> Iterator["Environments | None"]:
    """The environments of `--environment`, for the block, if any; they are closed after it, however it ends."""
    if args.environment is None:
        yield None
        return
    from .._extras import load_object
    from ..engines.models import decoder
    from ..environments import questions
    from ..search import run_async

    chat = getattr(tokenizer, "chat_template", None) is not None and not args.no_chat_template
    environments = run_async(
        questions.open_environments(
            load_object(args.environment, "environment"),
            tokenizer,
            decoder(tokenizer),
            chat=chat,
            options=args.chat_template_kwargs,
            timeout=args.environment_timeout,
            max_live=args.max_environments,
            max_turns=args.max_tool_calling_iterations,
        )
    )
    try:
        yield environments
    finally:
        run_async(environments.close())


def make_prompts(
    args: argparse.Namespace,
    problems: Sequence["Problem"],
    engine: "Engine",
    tokenizer: Any,
    environments: "Environments | None",
) -> list["Prompt"]:
    """The problems as prompts ready for the engine, in their order.

    problems: what `read_problems` returned.
    engine: the engine, for the length of the model's context.
    tokenizer: the model's tokenizer.
    environments: what `open_environments` gave.

    Raises `DataError`, naming the problem, if one does not fit the model's context.
    """
    from ..environments.questions import begin_problems
    from ..search import Prompt, run_async
    from ..tasks.prompts import check_prompt_length, encode_prompt

    prompts = []
    for problem, opening, rendering in run_async(begin_problems(environments, problems)):
        text, ids = encode_prompt(
            problem,
            tokenizer,
            system_prompt=args.system_prompt,
            chat_template=False if args.no_chat_template else None,
            chat_template_kwargs=args.chat_template_kwargs,
            rendering=rendering,
        )
        if engine.max_length is not None:
            check_prompt_length(problem.id, len(ids), engine.max_length)
        columns = {**problem.columns, "answer": problem.answer}
        # Conversations come back as messages where there may be several; verifiers of text read the last turn.
        conversational = environments is not None and environments.is_chat
        prompts.append(Prompt(problem.id, tuple(ids), text, columns, conversational, opening))
    return prompts
