"""Options that several verbs share, and the options objects that are made of them once they are parsed."""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .._options import DOTTED, OPTIONS, RENAMED, pick
from ..errors import ConfigError
from ..verify import BUILTIN

if TYPE_CHECKING:
    from ..engines import Sampling
    from ..score import ScoreOptions
    from ..search import SearchOptions

SCORE = ("ib_beta", "value", "confidence", "weight", "ratio_prior")


def add_data_options(
    parser: argparse.ArgumentParser, *, several_models: bool = False, benchmarks: bool = False
) -> None:
    """Declares `--model`, `--data` and how to read and grade them.

    parser: the verb's parser, which gets a group.
    several_models: whether `--model` takes several names; neither `--model` nor `--data` is required then.
    benchmarks: whether there is `--benchmark`; `--data` is not required then.
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
    group.add_argument(
        "--chat-template-kwargs", type=_mapping, metavar="{KEY: VALUE}",
        help="variables of the chat template, e.g. '{enable_thinking: false}'",
    )  # fmt: skip
    add_verifier_options(group, "by the data's columns, else math")


def add_problem_options(group: Any, *, required: bool, benchmarks: bool) -> None:
    """Declares `--data` and how its columns are read.

    group: the parser or the group that gets the options.
    required: whether `--data` is.
    benchmarks: whether there is `--benchmark`, too.
    """
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
    """Declares `--verifier`, its limits, and the tags that built-in verifiers know.

    group: the parser or the group that gets the options.
    default: what the help text says is taken without `--verifier`.
    """
    group.add_argument("--verifier", help=f"{', '.join(BUILTIN)} or {DOTTED} (default: {default})")
    add_option(group, "verifier_workers")
    add_option(group, "verifier_timeout")
    add_option(group, "thinking_tags")
    add_option(group, "answer_tags")


def add_search_options(parser: argparse.ArgumentParser, *, several_models: bool = False) -> None:
    """Declares all that a verb needs to grow trees.

    parser: the verb's parser.
    several_models: see `add_data_options`.
    """
    add_shard_option(parser)
    add_output_options(parser)
    add_data_options(parser, several_models=several_models)
    _add_tree_options(parser)
    add_environment_options(parser)
    add_sampling_options(parser)
    add_score_options(parser)


def _add_tree_options(parser: argparse.ArgumentParser) -> None:
    """Declares the options of how trees grow."""
    group = parser.add_argument_group("trees")
    add_option(group, "tree", metavar="B0,L,K,B")
    group.add_argument("--tokens", type=int, metavar="BUDGET", help="stop a tree at this many tokens in place of L")
    add_option(group, "branching")
    add_option(group, "splitter")
    add_option(group, "lookahead", metavar="ROUNDS")


def add_environment_options(parser: argparse.ArgumentParser) -> None:
    """Declares the options of what answers the model between turns."""
    group = parser.add_argument_group("turns")
    group.add_argument("--environment", help=OPTIONS["environment"].help)
    add_option(group, "environment_timeout", metavar="SECONDS")
    for name in ("max_environments", "max_tool_calling_iterations"):
        group.add_argument(spelt(name), type=int, metavar="N", help=OPTIONS[name].help)


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    """Declares the options of how tokens are drawn, and how many rollouts run at once."""
    group = parser.add_argument_group("sampling")
    for name in ("temperature", "top_p", "top_k", "max_completion_length"):
        add_option(group, name)
    group.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    add_option(group, "max_in_flight")
    group.add_argument("--kv-memory-gb", type=float, help="for kept prefixes (default: 2; vLLM on a GPU: what is free)")
    group.add_argument(
        "--deterministic", action="store_true", help="the same batches in every run: bit-equal results, a little slower"
    )


def add_shard_option(parser: argparse.ArgumentParser) -> None:
    """Declares `--shard`."""
    parser.add_argument(
        "--shard", type=_shard, metavar="I/N", help="only every N-th problem; join them all with ibtpo merge OUTPUT"
    )


def add_score_options(parser: argparse.ArgumentParser) -> None:
    """Declares the options of how trees are scored, those of `ScoreOptions`."""
    group = parser.add_argument_group("scores")
    for name in SCORE:
        add_option(group, name)


def add_option(group: Any, name: str, *, stored: bool = False, **how: Any) -> None:
    """Declares an option of the one table, `_options.OPTIONS`; if it had another name once, that still works, unlisted.

    group: the parser or the group that gets the option.
    name: its name in the table.
    stored: whether the default is None, which stands for what a file says, in place of the table's default.
    how: further arguments of argparse, such as a metavar.
    """
    row = OPTIONS[name]
    default = None if stored else row.default
    text = row.text if stored else f"{row.text} (default: %(default)s)"
    group.add_argument(spelt(name), type=type(row.default), default=default, help=text, **how)
    for old, new in RENAMED.items():
        if new == name:
            group.add_argument(spelt(old), type=type(row.default), dest=name, default=default, action=_FormerName)


def _shard(text: str) -> Any:
    """An argparse type: a `Shard`."""
    from ..storage.shards import Shard

    try:
        return Shard.parse(text)
    except ConfigError as e:
        raise argparse.ArgumentTypeError(str(e)) from e


def _mapping(text: str) -> dict[str, Any]:
    """An argparse type: a mapping written as YAML, as on the command line of `ibtpo train`."""
    from ..storage.yaml_file import yaml_value

    value = yaml_value(text)
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise argparse.ArgumentTypeError(f"{text!r} is no mapping such as {{enable_thinking: false}}")
    return value


class _FormerName(argparse.Action):
    """An option's former name: works, is in no help text, and says on stderr what to write from now on."""

    def __init__(self, option_strings: Sequence[str], dest: str, **how: Any) -> None:
        super().__init__(option_strings, dest, help=argparse.SUPPRESS, **how)

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        print(f"warning: {option_string} is called {spelt(self.dest)} now", file=sys.stderr)
        setattr(namespace, self.dest, values)


def spelt(name: str) -> str:
    """An option as it is written on the command line: `--top-p`."""
    return f"--{name.replace('_', '-')}"


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """Declares `--json` and `--quiet`."""
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress")


def score_options(args: argparse.Namespace) -> "ScoreOptions":
    """The `ScoreOptions` that the parsed options give."""
    from ..score import ScoreOptions

    return pick(ScoreOptions, args)


def sampling_options(args: argparse.Namespace) -> "Sampling":
    """The `Sampling` that the parsed options give."""
    from ..engines import Sampling

    return pick(Sampling, args)


def search_options(args: argparse.Namespace) -> "SearchOptions":
    """The `SearchOptions` that the parsed options give, their budget, sampling and scores included."""
    from ..search import Budget, SearchOptions

    budget = Budget.parse(args.tree, args.tokens)
    return pick(SearchOptions, args, budget=budget, sampling=sampling_options(args), score=score_options(args))
