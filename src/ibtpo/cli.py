"""The command line, `ibtpo VERB …`: finds the verb, reads its options, and turns errors into one line.

Nothing heavy is imported here, so that a help text appears at once: a verb's module is imported when the verb is
named, and imports numpy or torch when it runs. Exit codes: 0 done, 1 a check failed, 2 an error (one line on stderr),
130 interrupted, 141 the reader of the output has gone.
"""

import argparse
import contextlib
import importlib
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from ._extras import find_modules_here, missing_package
from ._files import FULL
from .errors import ConfigError, IBTPOError, unknown
from .storage.recipes import TRAIN_SWITCHES

VERBS = {
    "train": "train a model with IB-TPO or a baseline; without arguments the embedded model on the embedded task",
    "sample": "grow reasoning trees for a set of problems and store them",
    "merge": "join what shards of sample, eval, diagnose or compare branching stored",
    "score": "p-hat, IB-Score and step advantages of stored trees",
    "view": "trees as one offline HTML page to explore, or in the terminal",
    "eval": "avg@k and pass@k of a model on a set of problems, with confidence intervals",
    "regrade": "grade the answers that eval stored again, without sampling",
    "benchmarks": "list the benchmarks of eval; split DAPO-Math into held-out and training problems",
    "diagnose": "IB-Score, Cov(eta1, eta2) and Eff-Rate over checkpoints; what a flat GRPO log can say",
    "compare": "branching rules, or training methods, side by side at the same number of generated tokens",
    "report": "one offline page: what a run did, or how several runs compare",
    "check-data": "do the reference answers of a data file score 1.0 through the verifier?",
    "env": "versions and hardware, for bug reports",
    "recipes": "list, print or copy the shipped training recipes",
}

COMPARISONS = {
    "branching": "ways to grow a group of answers: Eff-Rate, pass@G, tokens, IB-Score, with intervals",
    "training": "methods and parts of IB-TPO trained at equal tokens: held-out accuracy over seeds, with intervals",
}

TRAIN_HELP = """usage: ibtpo train [RECIPE] [options] [--KEY VALUE ...]

{summary}

RECIPE is a YAML file or the name of a shipped recipe (`ibtpo recipes`); it comes first.

options:
  --method M        ibtpo, grpo, treerl, ... (the same as `--KEY VALUE` with KEY method)
  --output DIR      run folder; an existing one is an error unless --resume or --overwrite
  --resume [DIR]    go on with the run in DIR (default: the one in --output)
  --overwrite       start again in an existing run folder
  --dry-run         print the resolved configuration and the memory that each GPU needs, then stop; with
                    --accelerate FILE for what accelerate launch --config_file FILE does (fsdp2 and zero3 are shipped),
                    with --gpu-memory-gb N for other GPUs than this machine's, or than 80
  --quiet           no progress
  --json            the result as JSON
  --options         list every option of ours with its default and meaning, then stop
  --KEY VALUE       any other option of the recipe, e.g. --learning_rate 1e-6 --seed 3; dashes and underscores are
                    the same, VALUE is read as YAML, without VALUE it is true
"""

_OPTION = re.compile(r"--?[A-Za-z]")


class Parser(argparse.ArgumentParser):
    """An argparse parser for one verb. Its errors are `ConfigError`s; see `read` for dashes and underscores."""

    def error(self, message: str) -> NoReturn:
        """Raises `ConfigError` where argparse would print its usage and end the process."""
        raise ConfigError(f"{message}; see {self.prog} --help")

    def read(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parses the words after the verb.

        argv: the words; an option may be written with underscores in place of dashes.

        Raises `ConfigError` for words that do not fit; an unknown option is named with the most similar known one.
        """
        known = [name for action in self._actions for name in action.option_strings]
        shown = [n for action in self._actions if action.help != argparse.SUPPRESS for n in action.option_strings]
        words = list(argv)
        # Names are checked before argparse sees them: of a misspelt --model it would say that --model is missing.
        for i, word in enumerate(words):
            if word == "--":
                break
            if not _OPTION.match(word):
                continue
            name, equals, value = word.partition("=")
            name = name.replace("_", "-")
            if name not in known:
                raise unknown("option", name, shown)
            words[i] = name + equals + value
        return self.parse_args(words)


def make_parser(verb: str, module: Any) -> Parser:
    """Makes the parser of a verb.

    verb: its name, for messages and the usage line.
    module: its module in `commands`: the docstring is the help text, and `add_arguments` declares the options.
    """
    parser = Parser(prog=f"ibtpo {verb}", description=module.__doc__, allow_abbrev=False, formatter_class=_Help)
    module.add_arguments(parser)
    return parser


class _Help(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=110)

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        names: dict[object, str] = {int: "N", float: "X", Path: "FILE"}
        return names.get(action.type, "NAME")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code. Errors become one line on stderr; only unforeseen ones are raised.

    argv: the words after `ibtpo`; None when this is the installed `ibtpo` command, which takes them from `sys.argv`
        and, as `python -m ibtpo` does, finds the user's modules in the current folder.
    """
    if argv is None:
        argv = sys.argv[1:]
        find_modules_here()
    if sys.stdout is None:  # closed by the shell (`>&-`)
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    try:
        return _run(list(argv))
    except BrokenPipeError:
        # The reader of the output has gone, `| head` for instance. Python flushes once more at its exit, which would
        # fail again: let it go nowhere.
        _discard_output()
        return 128 + 13  # as a shell reports a program that SIGPIPE has ended


def _run(argv: list[str]) -> int:
    try:
        code = _dispatch(argv)
        sys.stdout.flush()
        return code
    except SystemExit as e:  # from argparse, after it printed a help text
        return e.code if isinstance(e.code, int) else 0
    except ModuleNotFoundError as e:
        error = missing_package(e, "this")
        if error is None:
            raise
        return _fail(error)
    except IBTPOError as e:
        return _fail(e)
    except KeyboardInterrupt:
        print(f"\ninterrupted{_how_to_go_on(argv)}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        raise
    except UnicodeEncodeError as e:
        letter = ascii(e.object[e.start])
        return _fail(ConfigError(f"the output's encoding, {e.encoding}, has no {letter}; set PYTHONIOENCODING=utf-8"))
    except OSError as e:
        if e.filename is None and e.errno in FULL:  # what is written to files is named by `_files.naming`
            _discard_output()
            e.filename = "standard output"
        named = f"{e.filename}: {e.strerror}" if e.filename is not None and e.strerror else str(e)
        return _fail(IBTPOError(named + (_how_to_go_on(argv) if e.errno in FULL else "")))


def _flushes(stream: Any) -> bool:
    """Whether what was printed so far can be written."""
    try:
        stream.flush()
    except OSError:
        return False
    return True


def _discard_output() -> None:
    """Lets what is still printed, or waits to be, go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not _flushes(stream):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(nowhere, stream.fileno())


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        width = max(map(len, VERBS))
        print("usage: ibtpo VERB [options]\n\nTree reinforcement learning for LLM reasoning (IB-TPO).\n")
        print("\n".join(f"  {verb:<{width}}  {summary}" for verb, summary in VERBS.items()))
        print("\n`ibtpo VERB --help` lists a verb's options; `ibtpo --version` prints the version.")
        return 0
    verb, rest = argv[0], argv[1:]
    if verb == "--version":
        from ._version import __version__

        print(f"ibtpo {__version__}")
        return 0
    if verb.startswith("-"):
        raise unknown("option", verb, ("--help", "--version"))
    if verb not in VERBS:
        raise unknown("command", verb, VERBS)
    if verb == "train":
        return _train(rest)
    if verb == "compare":
        return _compare(rest)
    module = importlib.import_module(f".commands.{verb.replace('-', '_')}", __package__)
    return module.run(make_parser(verb, module).read(rest))


def _compare(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: ibtpo compare WHAT [options]\n")
        width = max(map(len, COMPARISONS))
        print("\n".join(f"  {what:<{width}}  {summary}" for what, summary in COMPARISONS.items()))
        return 0
    if argv[0] not in COMPARISONS:
        raise unknown("comparison", argv[0], COMPARISONS)
    module = importlib.import_module(f".commands.compare_{argv[0]}", __package__)
    return module.run(make_parser(f"compare {argv[0]}", module).read(argv[1:]))


def _train(argv: list[str]) -> int:
    if "-h" in argv or "--help" in argv:
        print(TRAIN_HELP.format(summary=VERBS["train"][0].upper() + VERBS["train"][1:] + "."), end="")
        return 0
    recipe, options = parse_train(argv)
    output, resume = options.pop("output", None), options.pop("resume", None)
    accelerate, gpu_memory_gb = options.pop("accelerate", None), options.pop("gpu_memory_gb", None)
    if resume is not None and not isinstance(resume, str | bool):
        resume = str(resume)
    switches = {name: options.pop(name, False) for name in TRAIN_SWITCHES}
    if output is True:
        raise ConfigError("--output needs a folder, e.g. --output runs/first")
    if not switches["dry_run"] and (accelerate, gpu_memory_gb) != (None, None):
        raise ConfigError("--accelerate and --gpu-memory-gb belong to --dry-run; a run is spread by accelerate launch")
    command = importlib.import_module(".commands.train", __package__)
    if switches["options"]:
        return command.list_options()
    return command.run(
        recipe,
        options,
        output=None if output is None else str(output),
        resume=resume,
        overwrite=switches["overwrite"],
        dry_run=switches["dry_run"],
        accelerate=accelerate,
        gpu_memory_gb=gpu_memory_gb,
        quiet=switches["quiet"],
        as_json=switches["json"],
    )


def parse_train(argv: Sequence[str]) -> tuple[str | None, dict[str, Any]]:
    """Reads the words after `ibtpo train`, whose options are all those of a recipe, too many for argparse.

    argv: the words: a recipe, if any, and options as --KEY VALUE, --KEY=VALUE or --KEY for true.

    Returns the recipe or None, and the options by name, with underscores; values are read as YAML, those of --output
    and --resume as text. Of two equal options the last one counts. Raises `ConfigError` for words that do not fit;
    whether an option exists is checked later, by `training.settings`.
    """
    from .storage.yaml_file import yaml_value

    recipe: str | None = None
    options: dict[str, Any] = {}
    words = list(argv)
    while words:
        word = words.pop(0)
        if word.startswith("-") and not re.match("--[A-Za-z]", word):
            raise ConfigError(f"what is {word!r}? Options are written --KEY VALUE")
        if not word.startswith("-"):
            if recipe is not None:
                raise ConfigError(f"{word!r} is one word too many: the recipe is {recipe!r}; options are --KEY VALUE")
            recipe = word
            continue
        name, equals, text = word[2:].partition("=")
        key = name.replace("-", "_")
        if key in TRAIN_SWITCHES:
            if equals:
                raise ConfigError(f"--{name} takes no value, got {text!r}")
            options[key] = True
        elif equals:
            options[key] = text if key in ("output", "resume") else yaml_value(text)
        elif words and not words[0].startswith("--"):
            text = words.pop(0)
            options[key] = text if key in ("output", "resume") else yaml_value(text)
        else:
            options[key] = True
    return recipe, options


def _fail(error: IBTPOError) -> int:
    """Prints an error as one line, without characters that would command the terminal; returns the exit code 2."""
    text = " ".join(str(error).split("\n"))
    # A message may quote a file, and a file may hold escape sequences.
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    print(f"error: {text}", file=sys.stderr)
    return 2


def _how_to_go_on(argv: list[str]) -> str:
    """The command that goes on with an interrupted one, in words; empty where nothing is kept."""
    if not argv or argv[0] not in ("train", "sample", "diagnose", "compare"):
        return ""
    if argv[0] == "diagnose" and not any(w.split("=")[0] == "--output" for w in argv):
        return ""
    words = [w for w in argv if w != "--overwrite"]
    if not any(w.split("=")[0] == "--resume" for w in words):
        words.append("--resume")
    return f"; what is finished is kept, go on with: ibtpo {shlex.join(words)}"
