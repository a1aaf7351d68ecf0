"""Options that several verbs share, and what they become."""

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..engines import Sampling
    from ..score import ScoreOptions
    from ..search import SearchOptions


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
        "--engine", default="transformers",
        help="transformers, vllm, URL[,URL...] of servers, or package.module:factory (default: %(default)s)",
    )  # fmt: skip
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
