"""What the tree viewer shows: the trees of a file or a run folder, scored, and packed for the page.

A page holds an index, with an entry for each tree, in one compressed chunk, and each tree in a chunk of its own, which
the browser unpacks only when the tree is opened.
"""

import base64
import gzip
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .._options import todays_names
from ..credit import CreditOptions, find_advantage
from ..errors import ConfigError, DataError
from ..metrics import COLUMNS, correctness, rescued, tree_scores
from ..score import ScoreOptions
from ..storage.tree_file import tree_files
from ..tree import ReasoningTree, read_trees

SCORE_OPTIONS = tuple(f.name for f in fields(ScoreOptions))
COLOURS = ("ib_score", "p_hat", "advantage")  # the numbers that can colour the steps of a tree
PROMPT_START = 120  # how many characters of a prompt the index holds


@dataclass(slots=True)
class Source:
    """A file or a folder of trees to look at.

    path: the file or folder.
    files: the files of trees in order, each with its training step; the step is None for a file by itself.
    is_run: whether `path` is a folder, whose broken lines are left out in place of raising.
    notes: what could not be read and is left out; filled by `trees`.
    remarks: what is shown otherwise than it was trained, and why; filled by `scored`.
    """

    path: Path
    files: Sequence[tuple[int | None, Path]]
    is_run: bool
    notes: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    _unusable: set[str] = field(default_factory=set)  # names of stored advantages that do not load or that fail here

    def trees(self) -> Iterator[tuple[int | None, ReasoningTree]]:
        """Yields all trees in order, each with its training step or None.

        A tree that cannot be read or scored becomes a note in a run folder; in a file by itself it raises `DataError`.
        """
        note = (lambda error: self.notes.append(str(error))) if self.is_run else None
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
        """The options that a tree is shown with, and its `tree_scores`.

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
            return options, tree_scores(tree, options)
        except ConfigError as e:
            if "advantage" in given or name == "ibtpo":
                raise  # no stored function is at fault, so an override must be
            error = e
        options = options_of(tree, {**given, "advantage": "ibtpo"})  # raises if it is another option that is wrong
        record = tree_scores(tree, options)
        self._unusable.add(name)
        self.remarks.append(f"Trees that were trained with {name!r:.200} are shown with IB-TPO's advantages: {error}")
        return options, record


def open_source(path: str | Path) -> Source:
    """Finds the trees of a path: a file of trees, a run folder, or a folder of `step_*.jsonl.gz`.

    A run of several processes has several files a step; all of them are taken.

    Raises `DataError` for a folder that holds no such files.
    """
    path = Path(path)
    if not path.is_dir():
        return Source(path, [(None, path)], is_run=False)
    files = tree_files(path / "trees") or tree_files(path)
    if not files:
        raise DataError(
            f"{path} holds no trees (trees/step_*.jsonl.gz); a run writes them at its first step and then every "
            f"save_trees_every steps"
        )
    return Source(path, files, is_run=True)


def tree_key(tree_id: str, step: int | None = None) -> str:
    """The key that names a tree in a link, as in `trees.html#tree=KEY`, escaped as a browser does it.

    tree_id: the id of the tree.
    step: its training step, for a tree of a run folder, which may hold trees with the same id at many steps.
    """
    return quote(tree_id if step is None else f"{step}:{tree_id}", safe="!'()*~")  # as encodeURIComponent


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


def stored_advantage(tree: ReasoningTree) -> str:
    """The name of the advantage that the tree was trained with; "ibtpo" if its meta names none."""
    credit = tree.meta.get("credit")
    name = credit.get("advantage") if isinstance(credit, dict) else None
    return name if isinstance(name, str) and name else "ibtpo"


def about_advantage(options: CreditOptions) -> str:
    """Says in words what the column "advantage" of `tree_scores` holds, for the legend of the page."""
    words = "A_GL + λ·A_IB" if options.advantage == "ibtpo" else "mean over the answers through the step"
    left_out = []
    if options.prefix_weight != "trajectories":
        left_out.append(f"shared tokens are weighed down ({options.prefix_weight})")
    if getattr(find_advantage(options.advantage), "batch_scale", None) is not None:
        left_out.append("the batch is divided by its scale")
    return words + (f", before {' and '.join(left_out)}" if left_out else "")


def index_entry(tree: ReasoningTree, step: int | None, record: Mapping[str, Any]) -> dict[str, Any]:
    """A tree's entry in the index, its prompt not cut yet. `kind` is "right" or "wrong" if all answers are, else "".

    tree: the tree.
    step: its training step, or None.
    record: its `tree_scores`.
    """
    correct = correctness(tree)
    uniform = bool(correct) and not record["effective"]
    kind = "right" if uniform and correct[0] >= 1 else "wrong" if uniform and correct[0] <= 0 else ""
    return {
        "id": tree.id,
        "step": step,
        "prompt": tree.prompt,
        "answers": len(tree.leaves),
        "reward": compact(record["avg_reward"]),
        "effective": int(record["effective"]),
        "uniform": int(uniform),
        "rescued": int(rescued(tree)),
        "kind": kind,
        "ib": compact(record["ib_score"]),
        "cov": compact(record["cov_eta"]),
    }


def pack_index(entries: list[dict[str, Any]]) -> tuple[dict[str, list[Any]], int]:
    """Turns the entries into columns with short prompts, for the page.

    Lines that all prompts begin with, such as a chat template's system message, are left out: they tell no tree from
    another. So is what is too long.

    entries: what `index_entry` returned for each tree, at least one.

    Returns the columns, and how many characters of the beginning were left out, counted as JavaScript counts them
    (UTF-16 code units).
    """
    prompts = [e["prompt"] for e in entries]
    shared = _common_start(min(prompts), max(prompts)) if len(set(prompts)) > 1 else ""
    shared = shared[: shared.rfind("\n") + 1]
    columns = {key: [e[key] for e in entries] for key in entries[0]}
    columns["prompt"] = [" ".join(p[len(shared) :][: 8 * PROMPT_START].split())[:PROMPT_START] for p in prompts]
    return columns, len(shared.encode("utf-16-le", "surrogatepass")) // 2


def _common_start(a: str, b: str) -> str:
    return a[: next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))]


def tree_chunk(
    tree: ReasoningTree, step: int | None, record: Mapping[str, Any], options: CreditOptions
) -> dict[str, Any]:
    """Everything that the page shows of one tree; lists run over its nodes, the root first, but for that of given ones.

    tree: the tree.
    step: its training step, or None.
    record: its `tree_scores`.
    options: the options that these were computed with.
    """
    nodes = tree.nodes
    return {
        "id": tree.id,
        "step": step,
        "answer": tree.answer,
        "parent": [n.parent for n in nodes],
        "draws": [n.draws for n in nodes],
        "given": [n.id for n in nodes if n.step.given],
        "text": [n.step.text for n in nodes],
        "tokens": [[], *(n.step.token_ids for n in nodes[1:])],
        "logprobs": [[round(v, 3) for v in n.step.logprobs] for n in nodes],
        "entropies": [n.step.entropies and [round(v, 3) for v in n.step.entropies] for n in nodes],
        **{name: [compact(node[name]) for node in record["nodes"]] for name in COLUMNS},
        "leaves": [[f.node, f.reward, f.stop] for f in tree.leaves],
        "correct": tree.correct if any(f.correct != f.reward for f in tree.leaves) else None,
        "rollouts": [[r.at, r.tokens, r.round, compact(r.score)] for r in tree.rollouts],
        "avg_reward": compact(record["avg_reward"]),
        "policy_rate": compact(record["policy_rate"]),
        "tree_ib": compact(record["ib_score"]),
        "cov_eta": compact(record["cov_eta"]),
        "effective": record["effective"],
        "rescued": rescued(tree),
        "method": options.advantage[:500],
        "about": about_advantage(options),
        "made": _made(tree, options),
    }


def _made(tree: ReasoningTree, options: CreditOptions) -> dict[str, str]:
    """How the tree was made and scored, as far as its meta says, in texts to show."""
    search, credit = (m if isinstance(m := tree.meta.get(k), dict) else {} for k in ("search", "credit"))
    budget = b if isinstance(b := search.get("budget"), dict) else {}
    s = options.score
    scored = f"β {s.ib_beta:g}, λ {options.lam:g}, value {s.value}, confidence {s.confidence}, weight {s.weight}"
    made = {
        "model": tree.meta.get("model"),
        "branching": search.get("branching"),
        "budget": ", ".join(f"{k} {v}" for k, v in budget.items() if v is not None),
        "stopped": tree.meta.get("stopped"),
        "seed": search.get("seed"),
        "trained with": credit.get("advantage"),
        "scores": scored + (f", ratio prior {s.ratio_prior:g}" if s.ratio_prior else ""),
    }
    return {k: str(v)[:500] for k, v in made.items() if v not in (None, "")}


def compact(value: float | None) -> float | int | None:
    """The value rounded, so that JSON needs few characters for it; None for NaN and infinities.

    Values below 1e-5 keep four digits, values from 100 on twelve, and those between ten decimals.
    """
    if value is None or not math.isfinite(value):
        return None
    if abs(value) < 1e-5:
        value = float(f"{value:.4g}")
    else:
        value = float(f"{value:.12g}") if abs(value) >= 100 else round(value, 10)
    return int(value) if value == int(value) and abs(value) < 1e15 else value


def pack(value: Any) -> str:
    """A JSON value as base64 of gzip, a text in which nothing can be taken for markup.

    The same value always gives the same text.
    """
    data = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # A lone surrogate could come from a file's name or a foreign meta; it has no UTF-8.
    return base64.b64encode(gzip.compress(data.encode("utf-8", "replace"), 6, mtime=0)).decode()
