"""How a verb shows what it does: its progress, the files it may write, and JSON."""

import argparse
import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._text import without_nan
from ..errors import ConfigError

if TYPE_CHECKING:
    from ..tree import ReasoningTree


class Progress:
    """Shows on stderr how much is done: a bar where stderr is a terminal, else a line every few seconds.

    what: what is counted, in the plural.
    total: how many there are.
    done: how many are done from the start.
    quiet: whether nothing is shown.
    """

    EVERY = 10.0  # seconds between plain lines

    def __init__(self, what: str, total: int, done: int = 0, *, quiet: bool = False) -> None:
        self.what, self.total, self.done, self.quiet = what, total, done, quiet
        self.tokens = 0
        self._grades: list[float] = []
        self._start = self._last = time.monotonic()
        self._bar: Any = None

    def add(self, tokens: int, grades: Sequence[float]) -> None:
        """Counts one more as done.

        tokens: how many tokens were generated for it.
        grades: its known grades; their mean over all that is done is shown.
        """
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
        """Draws the bar while the block runs, if there is one."""
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


@contextlib.contextmanager
def tree_progress(what: str, total: int, *, quiet: bool) -> Iterator["Callable[[ReasoningTree, bool], None]"]:
    """Shows the progress over trees, and gives the block a function to call with each of them.

    That function takes the tree and whether it was grown now; one that was read counts as done, without its tokens.

    what: what the trees are called.
    total: how many there are.
    quiet: whether nothing is shown.
    """
    progress = Progress(what, total, quiet=quiet)

    def add(tree: "ReasoningTree", grown: bool) -> None:
        if grown:
            progress.add(tree.generated_tokens, [leaf.reward for leaf in tree.leaves if leaf.reward is not None])
        else:
            progress.done += 1

    with progress.shown():
        yield add


def file_name(text: str) -> Path:
    """An argparse type: a path whose last part is a name, so not "" or "/"."""
    if not Path(text).name:
        raise argparse.ArgumentTypeError(f"{text!r} names no file")
    return Path(text)


def make_folder_of(path: Path) -> None:
    """Makes the folder that a file is to be written to.

    Raises `ConfigError` if it cannot be made, or nothing can be written to it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise ConfigError(f"{path}: its folder cannot be made: {e.strerror}; name a file in another folder") from e
    if not os.access(path.parent, os.W_OK):
        raise ConfigError(f"{path}: its folder cannot be written to; name a file in another folder")


def check_free(paths: Sequence[Any], *, overwrite: bool, resume: bool = False, can_resume: bool = False) -> None:
    """Raises `ConfigError` if one of the files exists and no switch says what to do with it, or if one is a folder.

    paths: the files that will be written.
    overwrite: the switch `--overwrite`.
    resume: the switch `--resume`, with which `overwrite` is an error.
    can_resume: whether the verb has `--resume`, so that the message may name it.
    """
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


def say_shard_is_done(args: argparse.Namespace) -> None:
    """Says on stderr that a shard is done, and how all are joined; nothing with `--quiet`."""
    if not args.quiet:
        text = f"shard {args.shard} is done; when all are, join them with: ibtpo merge {args.output}"
        print(text, file=sys.stderr)


def print_json(value: Any) -> None:
    """Prints a value as one line of JSON, with null for NaN."""
    print(json.dumps(without_nan(value), ensure_ascii=False, allow_nan=False))


def warn_if_all_failed(answers: int, failed: int, error: str | None) -> None:
    """Says on stderr that the verifier failed for every answer, so that a run without a reward is noticed.

    answers: how many answers were verified.
    failed: for how many of them the verifier failed.
    error: what it said of one of them.
    """
    if failed == answers:
        text = f"the verifier failed for all {answers} answers, so none has a reward; the first error: {error}"
        print(f"warning: {text}", file=sys.stderr)
