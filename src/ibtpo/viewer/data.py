"""What the tree viewer shows: the trees of its sets, scored, and packed for the page.

A page holds an index, with an entry for each tree, in one compressed chunk, and each tree in a chunk of its own, which
the browser unpacks only when the tree is opened.
"""

import base64
import gzip
import json
import math
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from ..credit import CreditOptions, find_advantage
from ..metrics import COLUMNS, correctness, rescued
from ..tree import ReasoningTree
from .sources import stored_advantage, stored_divisor

COLOURS = ("ib_score", "p_hat", "advantage")  # the numbers that can colour the steps of a tree
PROMPT_START = 120  # how many characters of a prompt the index holds


def tree_key(tree_id: str, step: int | None = None, label: str | None = None) -> str:
    """The key that names a tree in a link, as in `trees.html#tree=KEY`, escaped as a browser does it.

    tree_id: the id of the tree.
    step: its training step, for a tree of a run folder, which may hold trees with the same id at many steps.
    label: the label of its set, on a page of several sets.
    """
    parts = [str(p) for p in (label, step, tree_id) if p is not None]
    return quote(":".join(parts), safe="!'()*~")  # as encodeURIComponent


def about_advantage(tree: ReasoningTree, options: CreditOptions) -> str:
    """Says in words what the column "advantage" of a tree holds, for the legend of the page.

    tree: the tree.
    options: the options it is shown with; see `Source.scored`.
    """
    words = ["A_GL + λ·A_IB" if options.advantage == "ibtpo" else "mean over the answers through the step"]
    trained = options.advantage == stored_advantage(tree)
    if options.prefix_weight != "trajectories":
        words.append(("times " if trained else "before ") + f"the weight of shared tokens ({options.prefix_weight})")
    if getattr(find_advantage(options.advantage), "batch_scale", None) is not None:
        divisor = stored_divisor(tree) if trained else None
        words.append(
            "before the batch is divided by its scale"
            if divisor is None
            else f"divided by {divisor:.3g}, the batch's scale"
        )
    return ", ".join(words)


def index_entry(tree: ReasoningTree, place: int, step: int | None, record: Mapping[str, Any]) -> dict[str, Any]:
    """A tree's entry in the index, its prompt not cut yet. `kind` is "right" or "wrong" if all answers are, else "".
    `success` is the share of right answers among those that were judged, whatever the reward adds to it.

    tree: the tree.
    place: that of its set among the sets of the page.
    step: its training step, or None.
    record: its `tree_scores`.
    """
    correct = correctness(tree)
    uniform = bool(correct) and not record["effective"]
    kind = "right" if uniform and correct[0] >= 1 else "wrong" if uniform and correct[0] <= 0 else ""
    return {
        "id": tree.id,
        "set": place,
        "step": step,
        "prompt": tree.prompt,
        "answers": len(tree.leaves),
        "success": compact(sum(correct) / len(correct)) if correct else None,
        "policy": compact(record["policy_rate"]),
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
        "about": about_advantage(tree, options),
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


def to_json(value: Any) -> str:
    """A value as JSON on one line."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def pack(text: str) -> str:
    """A text as base64 of gzip, in which nothing can be taken for markup.

    The same text always gives the same.
    """
    # A lone surrogate could come from a file's name or a foreign meta; it has no UTF-8.
    return base64.b64encode(gzip.compress(text.encode("utf-8", "replace"), 6, mtime=0)).decode()
