"""Grow reasoning trees for a set of problems and store them, one a line.

A tree is on disk as soon as it is grown: a run that was stopped goes on with --resume.
"""

import argparse
import asyncio
import gzip
import json
import os
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._text import table
from .._version import __version__
from ..engines.models import decoder
from ..errors import ConfigError, DataError, IBTPOError
from .inputs import make_prompts, open_model, open_verifier, read_problems
from .options import (
    add_data_options,
    add_output_options,
    add_sampling_options,
    add_score_options,
    add_tree_options,
    search_options,
)
from .output import Progress, check_free, file_name, make_folder_of, print_json

if TYPE_CHECKING:
    from ..search import Prompt, SearchOptions
    from ..tasks.problems import Problem
    from ..tree import ReasoningTree
    from ..verify.pool import VerifierPool

HARMLESS = ("max_in_flight", "retries", "deterministic")  # may change between a run and its --resume


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ibtpo sample`."""
    parser.usage = "ibtpo sample --model M --data D --output trees.jsonl [options]"
    parser.add_argument("--output", required=True, type=file_name, metavar="FILE", help="trees.jsonl or trees.jsonl.gz")
    parser.add_argument("--resume", action="store_true", help="keep the trees that are there, grow the others")
    parser.add_argument("--overwrite", action="store_true", help="drop what is there")
    add_output_options(parser)
    add_data_options(parser)
    add_tree_options(parser)
    add_sampling_options(parser)
    add_score_options(parser)


def run(args: argparse.Namespace) -> int:
    """Grows the trees that are missing, writes the file in input order, prints a summary."""
    options = search_options(args)
    store = TreeFile(args.output)
    check_free([store.path, store.part], overwrite=args.overwrite, resume=args.resume, can_resume=True)
    make_folder_of(store.path)
    problems, verifier_name = read_problems(args)
    with open_verifier(args, verifier_name) as verifier:  # its children start while the model is loaded
        return _sample(args, options, store, problems, verifier_name, verifier)


def _sample(
    args: argparse.Namespace,
    options: "SearchOptions",
    store: "TreeFile",
    problems: list["Problem"],
    verifier_name: str,
    verifier: "VerifierPool",
) -> int:
    from ..engines.completions import bias
    from ..metrics import summarise, tree_record
    from ..search import TreeSearch

    made_by = {"ibtpo": __version__, "model": args.model, "verifier": verifier_name}
    engine, tokenizer = open_model(args)
    if biased := bias(getattr(engine, "logprobs", "full"), options.sampling):
        made_by["logprobs"] = biased  # trees whose scores cannot be trusted say so
    prompts = make_prompts(args, problems, engine, tokenizer)
    records = {}
    for tree in store.open(resume=args.resume):
        check_same(tree, prompts, options, made_by, store.path)
        records[tree.id] = tree_record(tree, options.score)
    missing = [p for p in prompts if p.id not in records]
    progress = Progress("trees", len(prompts), len(records), quiet=args.quiet)
    began = time.monotonic()

    def keep(tree: "ReasoningTree") -> None:
        tree.meta.update(made_by)
        store.append(tree)
        records[tree.id] = tree_record(tree, options.score)
        progress.add(tree.generated_tokens, [r for r in (leaf.reward for leaf in tree.leaves) if r is not None])
        # The search holds all trees until the last one; this one's log-probabilities are on disk.
        del tree.nodes[1:], tree.leaves[:], tree.rollouts[:]

    with progress.shown():
        search = TreeSearch(engine, verifier, decoder(tokenizer), options)
        try:
            asyncio.run(search.grow_all(missing, on_tree=keep))
        except IBTPOError as e:
            if not records:
                store.part.unlink()  # empty: nothing to go on with
                raise
            raise type(e)(f"{e}; {len(records)} of {len(prompts)} trees are kept, go on with --resume") from e
    store.finish([p.id for p in prompts])
    means = summarise([records[p.id] for p in prompts])
    counts = {key: int(means[key]) for key in ("trajectories", "generated_tokens", "verifier_errors")}
    summary = {
        "output": str(args.output),
        "trees": len(prompts),
        **means,
        **counts,
        "seconds": round(time.monotonic() - began, 3),
    }
    if args.json:
        print_json(summary)
    else:
        print(table(list(summary.items())))
    return 0


def check_same(
    tree: "ReasoningTree",
    prompts: Sequence["Prompt"],
    options: "SearchOptions",
    made_by: dict[str, Any],
    path: Path,
) -> None:
    """Raises `ConfigError` unless this run would grow `tree` too: trees of different options must not be mixed."""
    prompt = next((p for p in prompts if p.id == tree.id), None)
    advice = f"give the options {path} was started with, or another --output"
    if prompt is None:
        raise ConfigError(f"--resume: {path} holds a tree of {tree.id!r}, which --data and --limit leave out; {advice}")
    if prompt.ids != tree.prompt_ids:
        raise ConfigError(f"--resume: the prompt of {tree.id!r} is not the one in {path}; {advice}")
    now = json.loads(json.dumps({**asdict(options), **made_by}))
    then = {**tree.meta.get("search", {}), **{key: tree.meta.get(key) for key in made_by}}
    for key, value in _flat(now).items():
        if key not in HARMLESS and _flat(then).get(key) != value:
            raise ConfigError(f"--resume: {key} is {value!r}, but {_flat(then).get(key)!r} in {path}; {advice}")


def _flat(nested: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in nested.items():
        out.update({f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value})
    return out


class TreeFile:
    """A tree file in the making: `part`, in the order trees are finished, becomes `path`, in input order."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.part = path.with_name(path.name + ".partial")
        self._place: dict[str, tuple[int, int]] = {}  # id -> (offset, length) of its line in `part`

    def open(self, *, resume: bool) -> Iterator["ReasoningTree"]:
        """Starts afresh, or gives the trees that are there one by one. Run it to its end before `append`."""
        if not resume:
            self.part.write_bytes(b"")
        elif not self.part.exists():
            lines: Iterable[bytes] = ()
            if self.path.exists():
                opener: Any = gzip.open if self.path.suffix == ".gz" else open
                try:
                    with opener(self.path, "rb") as f:
                        lines = f.readlines()
                except (EOFError, zlib.error, gzip.BadGzipFile) as e:
                    raise DataError(
                        f"{self.path}: broken gzip data ({e}); copy the file again or start again with --overwrite"
                    ) from e
            new = self.part.with_name(self.part.name + ".new")
            new.write_bytes(b"".join(lines))
            os.replace(new, self.part)
        yield from self._read()

    def _read(self) -> Iterator["ReasoningTree"]:
        from ..tree import ReasoningTree

        offset = 0
        with self.part.open("r+b") as f:
            for number, line in enumerate(f, 1):
                if not line.endswith(b"\n"):  # the run was stopped while it wrote this line
                    break
                try:
                    tree = ReasoningTree.from_dict(json.loads(line))
                except (ValueError, RecursionError) as e:
                    raise DataError(f"{self.part}:{number}: {e}; mend the line or start again with --overwrite") from e
                self._place[tree.id] = (offset, len(line))
                offset += len(line)
                yield tree
            f.truncate(offset)

    def append(self, tree: "ReasoningTree") -> None:
        """Puts a finished tree on disk."""
        line = (json.dumps(tree.to_dict(), ensure_ascii=False, allow_nan=False) + "\n").encode()
        with self.part.open("ab") as f:
            self._place[tree.id] = (f.tell(), len(line))
            f.write(line)

    def finish(self, ids: Sequence[str]) -> None:
        """Writes `path`, whole or not at all, and removes `part`."""
        new = self.path.with_name(self.path.name + ".new")
        opener: Any = gzip.open if self.path.suffix == ".gz" else open
        with self.part.open("rb") as source, opener(new, "wb") as target:
            for id in ids:
                offset, length = self._place[id]
                source.seek(offset)
                target.write(source.read(length))
        os.replace(new, self.path)
        self.part.unlink()
