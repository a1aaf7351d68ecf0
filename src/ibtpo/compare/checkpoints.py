"""Measures a series of checkpoints: numbers with their intervals over problems, and what changed from first to last.

From every checkpoint trees of the same problems are grown with the same seeds. What the numbers mean is in `metrics`.

Legend: P problems, the same and in the same order at every checkpoint. Intervals are 95 % bootstrap intervals over the
problems. A change is judged on the P differences of the same problems, not on two intervals: how problems differ among
themselves then cancels.
"""

import gc
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import EngineError, IBTPOError
from ..evaluation.statistics import Measured, measured_mean
from ..evaluation.stored_trees import grow_stored, made_by
from ..metrics import TOTALS, Record, tree_record
from ..search import Prompt, SearchOptions, TreeSearch
from ..storage.shards import Shard
from ..storage.tree_file import TreeFile, check_same
from ..tree import ReasoningTree

# A context in which trees grow; it gives a function to call with each tree and whether it was grown now.
Progress = AbstractContextManager[Callable[[ReasoningTree, bool], None]]


class BrokenError(IBTPOError):
    """Raised for a checkpoint that cannot be measured, which does not keep the others from being measured."""


@dataclass(slots=True)
class Curve:
    """What was measured of the checkpoints so far.

    rows: a row for each checkpoint: its model, label and step, and what `measure` returned or, if it could not be
        measured, its `error`.
    records: the P records of each checkpoint that could be measured.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    records: list[list[Record]] = field(default_factory=list)

    def changes(self) -> list[str]:
        """What changed from the first measured checkpoint to the last, as `what_changed` says it; empty without any."""
        return what_changed(self.records[0], self.records[-1]) if self.records else []


def measure_curve(
    names: Sequence[str],
    ids: Sequence[str],
    options: SearchOptions,
    verifier_name: str,
    open_search: Callable[[str], tuple[TreeSearch, list[Prompt]]],
    *,
    environment: str | None = None,
    folder: Path | None = None,
    resume: bool = False,
    shard: Shard | None = None,
    progress: Callable[[str], Progress],
    on_row: Callable[[Curve], None],
) -> Curve:
    """Grows trees of the same problems with the same seeds from every checkpoint and measures them.

    names: the checkpoints' names or folders.
    ids: the ids of the P problems, in order.
    options: the search options that stored trees must have been grown with.
    verifier_name: the verifier that they must have been graded by.
    open_search: given a checkpoint's name, loads its model and returns its search and the prompts. It is called only
        for a checkpoint whose trees are not all stored, and may raise `BrokenError`.
    environment: the dotted path of what answers turns, if anything does, which they must have been grown with.
    folder: where each checkpoint's trees are kept, in a file named after its label; None keeps none.
    resume: whether to go on with the trees that are there.
    shard: the shard that these problems are, whose trees are kept in files of its own.
    progress: given a checkpoint's label, returns the context that shows the progress of its trees.
    on_row: called after each checkpoint with the curve so far.

    Raises `EngineError` when no checkpoint could be measured.
    """
    curve = Curve()
    for name, label in zip(names, labels(names), strict=True):
        row: dict[str, Any] = {"model": name, "label": label, "step": step_of(Path(name))}
        store = None
        if folder is not None:
            file = folder / f"{label}.jsonl"
            store = TreeFile(file if shard is None else shard.file(file))
        meta = made_by(name, verifier_name, environment)
        began = time.monotonic()
        try:
            records = _finished_records(store, ids, options, meta) if store and resume else None
            if records is None:
                records = _grown_records(name, open_search, store, meta, resume, progress(label))
        except BrokenError as e:
            row["error"] = str(e)
        else:
            curve.records.append(records)
            row |= {"problems": len(records), **measure(records), "seconds": round(time.monotonic() - began, 3)}
        gc.collect()  # engines are in reference cycles, and the next model needs the memory
        curve.rows.append(row)
        on_row(curve)
    if not curve.records:
        raise EngineError(f"no checkpoint could be measured; the first: {curve.rows[0]['error']}")
    return curve


def _finished_records(
    store: TreeFile, ids: Sequence[str], options: SearchOptions, meta: dict[str, Any]
) -> list[Record] | None:
    """The P records of a checkpoint whose trees are all on disk; None if some are missing."""
    if not store.path.exists() or store.part.exists():
        return None
    records: dict[str, Record] = {}
    for tree in store.open(resume=True):
        # No model is loaded for a finished checkpoint, so there is no tokenizer to make its prompts with: their token
        # ids are taken from the tree and not compared.
        check_same(tree, [Prompt(id, tree.prompt_ids, tree.prompt) for id in ids], options, meta, store.path)
        records[tree.id] = tree_record(tree, options.score)
    if len(records) < len(ids):
        return None
    store.finish(ids)
    return [records[id] for id in ids]


def _grown_records(
    name: str,
    open_search: Callable[[str], tuple[TreeSearch, list[Prompt]]],
    store: TreeFile | None,
    meta: dict[str, Any],
    resume: bool,
    progress: Progress,
) -> list[Record]:
    """The P records of a checkpoint, whose missing trees are grown. Raises `BrokenError` if its engine fails."""
    search, prompts = open_search(name)
    records: dict[str, Record] = {}
    with progress as show:

        def keep(tree: ReasoningTree, grown: bool) -> None:
            records[tree.id] = tree_record(tree, search.options.score)
            show(tree, grown)

        try:
            grow_stored(search, prompts, store, meta=meta, resume=resume, on_tree=keep)
        except EngineError as e:
            raise BrokenError(f"{name}: {e}") from e
    return [records[p.id] for p in prompts]


def measure(records: Sequence[Record]) -> dict[str, Any]:
    """The P records of a checkpoint as numbers of its row: means as {"mean", "low", "high"}, totals as integers."""
    return {
        name: int(sum(r[name] for r in records)) if name in TOTALS else asdict(measured_mean(_column(records, name)))
        for name in records[0]
    }


def what_changed(first: Sequence[Record], last: Sequence[Record]) -> list[str]:
    """Says what Cov(η1, η2), Eff-Rate and Avg-Rate did between two checkpoints, each in a sentence with its numbers.

    first: the P records of the earlier checkpoint.
    last: those of the later one, of the same problems in the same order.
    """
    changes = {name: _Change.of(first, last, name) for name in ("cov_eta", "eff_rate", "avg_rate")}
    return [
        f"Cov(η1,η2) {changes['cov_eta']}: {_about_confidence(changes['cov_eta'])}",
        f"Eff-Rate {changes['eff_rate']}: {_about_signal(changes['eff_rate'])}",
        f"Avg-Rate {changes['avg_rate']}",
    ]


@dataclass(frozen=True, slots=True)
class _Change:
    """How one number changed.

    first: its mean and interval at the earlier checkpoint.
    last: the same at the later one.
    by: mean and interval of the differences of the problems that have the number at both.
    problems: how many these are.
    """

    first: Measured
    last: Measured
    by: Measured
    problems: int

    @classmethod
    def of(cls, first: Sequence[Record], last: Sequence[Record], name: str) -> "_Change":
        a, b = _column(first, name), _column(last, name)
        both = ~np.isnan(a) & ~np.isnan(b)
        return cls(measured_mean(a), measured_mean(b), measured_mean((b - a)[both]), int(both.sum()))

    @property
    def direction(self) -> str:
        """ "fell" or "rose", or "" where the interval of the difference holds 0 or is not known."""
        return "fell" if self.by.high < 0 else "rose" if self.by.low > 0 else ""

    def __str__(self) -> str:
        if self.first == self.last:
            return f"is {self.last}"
        if self.direction or math.isnan(self.by.mean):
            return f"{self.direction or 'went'} from {self.first} to {self.last}"
        return (
            f"did not clearly change ({self.first} to {self.last}, a difference of {self.by} over {self.problems} "
            f"problems)"
        )


def _about_confidence(c: _Change) -> str:
    if math.isnan(c.last.mean):
        return "no tree has siblings, so nothing can be said about confidence"
    if c.last.low > 0:
        return "confidence follows correctness" + (", though less than before" if c.direction == "fell" else "")
    if c.last.high < 0:
        return "the model is confident in the wrong branches"
    if c.direction == "fell" and c.first.low > 0:
        return "confidence no longer follows correctness"
    return "it cannot be told from 0, where confidence does not follow correctness"


def _about_signal(c: _Change) -> str:
    if math.isnan(c.last.mean):
        return "nothing was graded"
    if c.last.mean == 0:
        return "no group carries a signal"
    return {
        "fell": "fewer groups carry a signal",
        "rose": "more groups carry a signal",
        "": f"{100 * c.last.mean:.0f} % of the groups carry a signal",
    }[c.direction]


def _column(records: Sequence[Record], name: str) -> np.ndarray:
    return np.array([r[name] for r in records], dtype=float)


def find_checkpoints(models: Sequence[str]) -> list[str]:
    """Replaces each folder that holds checkpoint-* folders by these, in order of step, and checks the other names.

    models: names of models, their folders, or output folders of trainers, with checkpoints inside or in `checkpoints`.

    Returns the names, each once. Raises `ConfigError` for a name that stands for nothing, so that it is found before
    the others are measured.
    """
    from ..engines.models import NAMED, resolve_model

    found: list[str] = []
    for name in models:
        inside = [p for folder in (Path(name), Path(name) / "checkpoints") for p in folder.glob("checkpoint-*")]
        steps = sorted((p for p in inside if p.is_dir() and step_of(p) is not None), key=lambda p: step_of(p) or 0)
        if not steps and name not in NAMED:
            resolve_model(name)
        found += [str(p) for p in steps] or [name]
    return list(dict.fromkeys(found))


def step_of(path: Path) -> int | None:
    """The training step N of a folder named checkpoint-N; None for a folder of any other name."""
    kind, _, number = path.name.rpartition("-")
    return int(number) if kind == "checkpoint" and number.isdecimal() else None


def labels(names: Sequence[str]) -> list[str]:
    """A short label for each name: the last parts of its path, as many as it takes to differ from the others."""
    parts = [Path(name).parts for name in names]

    def short(i: int, n: int) -> str:
        return "_".join(p.strip("/\\") for p in parts[i][-n:])

    out = []
    for i in range(len(names)):
        n = 1
        while n < len(parts[i]) and sum(short(j, n) == short(i, n) for j in range(len(names))) > 1:
            n += 1
        out.append(short(i, n))
    return out
