"""Where the trees of a page come from: tree files, run folders, and the folders that `ibtpo diagnose` writes.

A path gives one set of trees, or, if it is a diagnosis, one set for each checkpoint. Sets are what a page lays side by
side: the trees of one checkpoint, or of one method, matched with those of another by the ids of their problems.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from .._options import todays_names
from ..credit import CreditOptions, weigh_prefixes
from ..errors import ConfigError, DataError
from ..metrics import tree_scores
from ..score import ScoreOptions
from ..storage.tree_file import tree_files
from ..tree import ReasoningTree, read_trees

SCORE_OPTIONS = tuple(f.name for f in fields(ScoreOptions))


@dataclass(slots=True)
class Source:
    """A set of trees to look at.

    path: the file or folder it was named by.
    label: what the page calls the set; the labels of a page differ.
    files: the files of trees in order, each with its training step; the step is None for a file by itself.
    is_run: whether the files are those of a run's steps.
    lenient: whether a line that cannot be read is left out in place of raising; so in a folder, which a command may
        still be writing.
    notes: what could not be read and is left out; filled by `trees`.
    remarks: what is shown otherwise than it was trained, and why; filled by `scored`.
    """

    path: Path
    label: str
    files: Sequence[tuple[int | None, Path]]
    is_run: bool
    lenient: bool = False
    notes: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    _unusable: set[str] = field(default_factory=set)  # names of stored advantages that do not load or that fail here

    def trees(self) -> Iterator[tuple[int | None, ReasoningTree]]:
        """Yields all trees in order, each with its training step or None.

        A tree that cannot be read or scored becomes a note in a folder; in a file by itself it raises `DataError`.
        """
        note = (lambda error: self.notes.append(str(error))) if self.lenient else None
        for step, file in self.files:
            for tree in read_trees(file, note):
                try:
                    # Checks the stored options, except for the advantage: if that is a function which cannot be loaded
                    # here, the file is still right, and `scored` finds a way.
                    options_of(tree, {"advantage": "ibtpo"})
                except DataError as e:
                    error = DataError(f"{file}: {e}")
                    if note is None:
                        raise error from e
                    note(error)
                    continue
                yield step, tree

    def scored(
        self, tree: ReasoningTree, overrides: Mapping[str, Any] | None = None
    ) -> tuple[CreditOptions, dict[str, Any]]:
        """The options that a tree is shown with, and its `tree_scores`, with the advantages as the training used them.

        If the tree was trained with an advantage that is a function of the user's, and this does not load here or
        fails, IB-TPO's advantage takes its place, and a remark says so.

        tree: the tree.
        overrides: options that take the place of the stored ones; see `options_of`.

        Raises `ConfigError` for an override that is wrong.
        """
        given = {k: v for k, v in (overrides or {}).items() if v is not None}
        name = stored_advantage(tree)
        if name in self._unusable:
            given.setdefault("advantage", "ibtpo")
        try:
            options = options_of(tree, given)
            record = tree_scores(tree, options)
            if options.advantage == name:
                _as_trained(tree, options, record)
            return options, record
        except ConfigError as e:
            if "advantage" in given or name == "ibtpo":
                raise  # no stored function is at fault, so an override must be
            error = e
        options = options_of(tree, {**given, "advantage": "ibtpo"})  # raises if it is another option that is wrong
        record = tree_scores(tree, options)
        self._unusable.add(name)
        self.remarks.append(f"Trees that were trained with {name!r:.200} are shown with IB-TPO's advantages: {error}")
        return options, record


def open_sources(paths: Sequence[str | Path]) -> list[Source]:
    """Finds the sets of trees that paths stand for, in order, each with a label of its own.

    A path is a file of trees, a run folder, a folder of `step_*.jsonl.gz`, or one that `ibtpo diagnose --output` wrote,
    which gives a set for each checkpoint. A run of several processes has several files a step; all of them are taken.

    Raises `DataError` for a folder that holds no such files, and `ConfigError` for a path that is given twice.
    """
    found: list[Source] = []
    given = [Path(p) for p in paths]
    for i, path in enumerate(given):
        if path.resolve() in [p.resolve() for p in given[:i]]:
            raise ConfigError(f"{path} is given twice; name each run or file of trees once")
        found += _open(path)
    for source, label in zip(found, _labels([_parts(s) for s in found]), strict=True):
        source.label = label
    return found


def _open(path: Path) -> list[Source]:
    if not path.is_dir():
        return [Source(path, "", [(None, path)], is_run=False)]
    if files := tree_files(path / "trees") or tree_files(path):
        return [Source(path, "", files, is_run=True, lenient=True)]
    if checkpoints := _checkpoint_files(path):
        return [Source(path, "", [(None, file)], is_run=False, lenient=True) for file in checkpoints]
    raise DataError(
        f"{path} holds no trees: neither trees/step_*.jsonl.gz, which a run writes at its first step and then every "
        f"save_trees_every steps, nor the trees/*.jsonl of ibtpo diagnose --output"
    )


def _checkpoint_files(folder: Path) -> list[Path]:
    """The files of trees in a folder that `ibtpo diagnose` wrote, in the order of its summary, others after these.

    Where a checkpoint is not finished yet, what there is of it is taken.
    """
    trees = folder / "trees"
    found = {p.name.removesuffix(".partial"): p for p in sorted(trees.glob("*.jsonl.partial")) if p.stat().st_size}
    found |= {p.name: p for p in sorted(trees.glob("*.jsonl"))}
    try:
        rows = json.loads((folder / "summary.json").read_text("utf-8"))["checkpoints"]
        order = [f"{row['label']}.jsonl" for row in rows]
    except (OSError, ValueError, KeyError, TypeError):  # a diagnosis that was stopped early has none
        order = []
    return [found.pop(name) for name in order if name in found] + list(found.values())


def _parts(source: Source) -> tuple[str, ...]:
    """The parts of the name of a set, the shortest one last: those of its folder, or of its file without endings."""
    if source.is_run:
        return source.path.resolve().parts
    file = source.files[0][1]
    name = file.name
    for ending in (".partial", ".gz", ".jsonl"):
        name = name.removesuffix(ending)
    folder = source.path if source.path.is_dir() else file.parent  # "trees" tells no diagnosis from another
    return (*folder.resolve().parts, name)


def _labels(names: Sequence[tuple[str, ...]]) -> list[str]:
    """A label for each name: its last parts, as many as it takes to differ from the others."""

    def tail(parts: tuple[str, ...], n: int) -> str:
        return "/".join(p.strip("/") for p in parts[-n:])

    out = []
    for mine in names:
        n = 1
        while n < len(mine) and sum(tail(other, n) == tail(mine, n) for other in names) > 1:
            n += 1
        out.append(tail(mine, n))
    return out


def options_of(tree: ReasoningTree, overrides: Mapping[str, Any] | None = None) -> CreditOptions:
    """The options that a tree was trained with, else grown with, else the defaults, as its meta says.

    tree: the tree, whose meta is free-form.
    overrides: options that go before the stored ones: advantage, lam and the names of `SCORE_OPTIONS`. None is the
        same as leaving one out.

    Raises `ConfigError` for an override that is wrong and for a stored advantage that cannot be loaded here,
    `DataError` for other stored options that are wrong.
    """
    given = {k: v for k, v in (overrides or {}).items() if v is not None}
    credit, search = (m if isinstance(m := tree.meta.get(k), dict) else {} for k in ("credit", "search"))
    stored = credit.get("score") or search.get("score")
    stored = todays_names(stored) if isinstance(stored, dict) else {}
    try:
        score = ScoreOptions(**{k: stored[k] for k in SCORE_OPTIONS if k in stored})
        options = CreditOptions(
            lam=credit.get("lam", 0.1),
            score=score,
            ib_on_uniform_trees=credit.get("ib_on_uniform_trees") is not False,
            prefix_weight=credit.get("prefix_weight", "trajectories"),
            divisor=credit.get("divisor"),
        )
    except (TypeError, ValueError, AttributeError) as e:  # anybody may have written the meta
        raise DataError(f"tree {tree.id!r}: the options in its meta cannot be used: {e}") from e
    score = replace(options.score, **{k: v for k, v in given.items() if k in SCORE_OPTIONS})
    advantage = given.get("advantage", stored_advantage(tree))
    return replace(options, advantage=advantage, lam=given.get("lam", options.lam), score=score)


def stored_divisor(tree: ReasoningTree) -> float | None:
    """The number that the advantages of the tree's batch were divided by in training; None if its meta names none."""
    credit = tree.meta.get("credit")
    value = credit.get("batch_divisor") if isinstance(credit, dict) else None
    return value if isinstance(value, int | float) and 0 < value < math.inf else None


def _as_trained(tree: ReasoningTree, options: CreditOptions, record: dict[str, Any]) -> None:
    """Makes the advantages of a record those that the tokens of each step got in training.

    `tree_scores` gives them before the weight of shared tokens and before the division by the batch's scale.
    """
    divisor = stored_divisor(tree) or 1.0
    ones = [np.ones(len(tree.path(leaf.node))) for leaf in tree.leaves]
    weight: dict[int, float] = {}
    for leaf, weights in zip(tree.leaves, weigh_prefixes(tree, ones, options.prefix_weight), strict=True):
        weight.update(zip(tree.path(leaf.node), weights.tolist(), strict=True))
    for node, scores in enumerate(record["nodes"]):
        if scores["advantage"] is not None:
            scores["advantage"] *= weight.get(node, 1.0) / divisor


def stored_advantage(tree: ReasoningTree) -> str:
    """The name of the advantage that the tree was trained with; "ibtpo" if its meta names none."""
    credit = tree.meta.get("credit")
    name = credit.get("advantage") if isinstance(credit, dict) else None
    return name if isinstance(name, str) and name else "ibtpo"
