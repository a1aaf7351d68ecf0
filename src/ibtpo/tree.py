"""The reasoning tree of IB-TPO (arXiv 2605.28109): one question, its sampled answers, and the steps they share.

A tree is a flat list of nodes, each with the index of its parent. The root holds the prompt; every other node holds one
step of an answer, and only the tokens of that step. A step is sampled by the model, or *given*: written by the
environment, such as a tool's result with the chat template's tokens around it. A given step is an *observation*.

One law holds for every leaf: the `token_ids` from the root down to the leaf, put one after the other, are exactly the
tokens that the model was conditioned on and then sampled. Nothing is ever tokenised a second time.

Shapes, here and in every file that works on trees: N nodes, the root included; L leaves, one a trajectory; T tokens of
a step or of a completion.
"""

import gzip
import json
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import EllipsisType
from typing import Any

from ._files import whole_file
from ._text import half_character
from .errors import DataError

SCHEMA = "ibtpo.tree/1"
SCHEMA_GIVEN = "ibtpo.tree/2"  # of trees with given steps, which readers of the first would take for sampled ones
ROOT = 0
NO_PARENT = -1
MOST_DRAWS = 2**31  # counts in a file must be below this: draws of a node, tokens and round of a rollout
MOST_REWARD = 1e18  # the square of a reward, and a sum of many squares, must still fit a 32-bit float
LOGPROB_TOLERANCE = 0.01  # log-probabilities are at most 0; up to this much above is rounding, more is an error
STOPS = ("eos", "length", "verifier_error", "engine_error")


@dataclass(slots=True)
class Step:
    """The tokens of one step, as they were sampled, or as the environment gave them.

    token_ids: (T,) ids, at least one.
    text: what they decode to, special tokens left out; for the root, the prompt's text.
    logprobs: (T,) natural-log probabilities under the policy that sampled them. The root and given steps have none: ()
        there.
    entropies: (T,) entropies, in nats, of the distributions they were drawn from, or None where the engine gives none.
        A given step has none.
    given: whether the environment wrote the tokens. No step has tokens of both kinds.
    """

    token_ids: tuple[int, ...]
    text: str
    logprobs: tuple[float, ...]
    entropies: tuple[float, ...] | None = None
    given: bool = False


@dataclass(slots=True)
class Node:
    """A step in its place in the tree. The root's step is the prompt.

    id: the node's index in `ReasoningTree.nodes`.
    parent: the id of the node whose step comes before, `NO_PARENT` for the root.
    step: the tokens.
    draws: how often the step was sampled from its parent, or given after it. Equal siblings are one node, so this can
        be more than 1.
    children: ids of the steps that came right after this one.
    """

    id: int
    parent: int
    step: Step
    draws: int = 1
    children: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Leaf:
    """The end of one trajectory.

    node: the id of its last step, or of the root for an empty answer.
    reward: R(τ) as the verifier gave it, or None where there is none. A verifier error is never a silent zero.
    stop: why the trajectory ended, one of `STOPS`.
    correct: raw correctness, that is, the first reward function's own value, or None where it gave none. With a single
        reward function it is the reward; with several it differs, for example by a length penalty.
    """

    node: int
    reward: float | None
    stop: str
    correct: float | None


@dataclass(slots=True)
class Rollout:
    """How one trajectory came about. Rollout i of a tree ends in leaf i.

    at: the id of the node after whose step it started.
    tokens: how many tokens were sampled for it; given ones do not count.
    round: 0 for the first B0 rollouts, then 1, 2, … for the rounds of branches.
    score: the score for which the branching rule chose `at`, such as its IB-Score; None where the rule gave none.
    """

    at: int
    tokens: int
    round: int = 0
    score: float | None = None


class ReasoningTree:
    """All trajectories of one question.

    id: the prompt's id.
    prompt_ids: the prompt's token ids.
    prompt: the prompt's text.
    answer: the reference answer, or None.
    meta: how the tree was made, as JSON values: `search` holds the options it was grown with.

    `nodes` (N,) starts with the root, and a parent's id is always below its children's. `leaves` (L,) and `rollouts`
    are in the order in which trajectories were added. A tree from a file may have no rollouts.
    """

    def __init__(
        self,
        id: str,
        prompt_ids: Sequence[int],
        prompt: str = "",
        answer: str | None = None,
        meta: dict[str, Any] | None = None,
    ) -> None:
        self.id = id
        self.answer = answer
        self.meta: dict[str, Any] = dict(meta or {})
        self.nodes = [Node(ROOT, NO_PARENT, Step(tuple(prompt_ids), prompt, ()))]
        self.leaves: list[Leaf] = []
        self.rollouts: list[Rollout] = []
        self.cuts = 0  # calls of `split` so far; each gave some nodes new ids, so ids kept elsewhere are out of date

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """The token ids of the prompt."""
        return self.nodes[ROOT].step.token_ids

    @property
    def prompt(self) -> str:
        """The text of the prompt."""
        return self.nodes[ROOT].step.text

    # --- reading -----------------------------------------------------------------------------------------------

    def path(self, node: int) -> list[int]:
        """The ids of the nodes from an answer's first step down to `node`, the root left out."""
        ids = []
        while node != ROOT:
            ids.append(node)
            node = self.nodes[node].parent
        return ids[::-1]

    def prefix_ids(self, node: int) -> list[int]:
        """The prompt's tokens and all tokens down to the end of `node`'s step: what a branch there continues."""
        ids = list(self.prompt_ids)
        for n in self.path(node):
            ids.extend(self.nodes[n].step.token_ids)
        return ids

    def completion_ids(self, leaf: int) -> list[int]:
        """The (T,) tokens of the trajectory with index `leaf` in `leaves`, sampled and given ones."""
        return [t for n in self.path(self.leaves[leaf].node) for t in self.nodes[n].step.token_ids]

    def completion_logprobs(self, leaf: int) -> list[float]:
        """The (T,) sampling log-probabilities of the trajectory with index `leaf`; 0 for given tokens, as in TRL."""
        steps = [self.nodes[n].step for n in self.path(self.leaves[leaf].node)]
        return [p for s in steps for p in (s.logprobs if not s.given else (0.0,) * len(s.token_ids))]

    def completion_mask(self, leaf: int) -> list[int]:
        """(T,) which tokens of the trajectory with index `leaf` the model sampled: 1 for these, 0 for given ones."""
        steps = [self.nodes[n].step for n in self.path(self.leaves[leaf].node)]
        return [int(not s.given) for s in steps for _ in s.token_ids]

    def completion_text(self, leaf: int) -> str:
        """The text of the trajectory with index `leaf` in `leaves`, special tokens left out."""
        return "".join(self.nodes[n].step.text for n in self.path(self.leaves[leaf].node))

    def sampled_path(self, node: int) -> list[int]:
        """Those ids of `path` whose steps were sampled: as many as `node` is deep, since given steps are no depth."""
        return [n for n in self.path(node) if not self.nodes[n].step.given]

    def sampled_length(self, node: int) -> int:
        """How many tokens were sampled from the prompt down to the end of `node`'s step."""
        return sum(len(self.nodes[n].step.token_ids) for n in self.sampled_path(node))

    def is_answered(self, node: int) -> bool:
        """Whether a given step follows `node`: the environment speaks there, and would only answer the same again."""
        return any(self.nodes[c].step.given for c in self.nodes[node].children)

    def branchable(self) -> list[int]:
        """The ids of the nodes after which the model went on sampling, in ascending order, the root among them."""
        return [n.id for n in self.nodes if n.children and not self.is_answered(n.id)]

    @property
    def correct(self) -> list[float | None]:
        """The (L,) raw correctness of the leaves, see `Leaf.correct`."""
        return [leaf.correct for leaf in self.leaves]

    @property
    def generated_tokens(self) -> int:
        """The number of tokens sampled to grow the tree; a step that was sampled twice counts twice.

        A tree from a file without rollouts cannot tell, and gives `unique_tokens`.
        """
        if self.rollouts:
            return sum(r.tokens for r in self.rollouts)
        return self.unique_tokens

    @property
    def unique_tokens(self) -> int:
        """The number of sampled tokens that the nodes hold; a shared step counts once."""
        return sum(len(n.step.token_ids) for n in self.nodes[1:] if not n.step.given)

    @property
    def given_tokens(self) -> int:
        """The number of tokens that the environment wrote; a step that it gave twice counts twice."""
        return sum(n.draws * len(n.step.token_ids) for n in self.nodes[1:] if n.step.given)

    # --- growing -----------------------------------------------------------------------------------------------

    def add(
        self,
        at: int,
        steps: Sequence[Step],
        reward: float | None,
        stop: str,
        *,
        correct: float | EllipsisType | None = ...,
        round: int = 0,
        score: float | None = None,
    ) -> int:
        """Adds a trajectory that began right after the step of node `at`, and returns its index in `leaves`.

        A step that equals an existing sibling, token for token, is merged into it and raises its `draws`. What was
        sampled and what was given are never merged.

        at: the id of the node; `ROOT` for a whole answer.
        steps: what was sampled and given, in order; may be empty.
        reward: see `Leaf.reward`.
        stop: see `Leaf.stop`.
        correct: see `Leaf.correct`; where it is left out, it is the reward.
        round: see `Rollout.round`.
        score: see `Rollout.score`.

        Raises `DataError` for an unknown `stop`, for a given step that has log-probabilities, entropies or no tokens,
        and for one right after the prompt.
        """
        if stop not in STOPS:
            raise DataError(f"stop must be one of {', '.join(STOPS)}, got {stop!r}")
        for i, step in enumerate(steps):
            if step.given:
                _check_given(step, f"steps[{i}]", at == ROOT and i == 0)
        node = self.nodes[at]
        for step in steps:
            twin = next((c for c in node.children if _same(self.nodes[c].step, step)), None)
            if twin is None:
                child = Node(len(self.nodes), node.id, step)
                self._append(child)
            else:
                child = self.nodes[twin]
                child.draws += 1
            node = child
        self.leaves.append(Leaf(node.id, reward, stop, reward if correct is ... else correct))
        self.rollouts.append(Rollout(at, sum(len(s.token_ids) for s in steps if not s.given), round, score))
        return len(self.leaves) - 1

    def split(self, node: int, offset: int, texts: tuple[str, str]) -> None:
        """Cuts a step in two: `node` keeps its first tokens, and a new child with the id `node + 1` gets the rest.

        The new node takes over the children of `node` and the trajectories that end or start there. All ids above
        `node` grow by one, so that parents stay before their children. It is for rules that branch inside a step.

        node: the id of the step to cut; not the root, nor a given step.
        offset: how many tokens the first part keeps, above 0 and below the step's number of tokens.
        texts: the texts of the two parts.

        Raises `ValueError` for the root, for a given step, and for an offset that leaves one part empty.
        """
        if node == ROOT:
            raise ValueError("the root is the prompt and cannot be cut; give the id of a step")
        upper = self.nodes[node]
        s = upper.step
        if s.given:
            raise ValueError(f"node {node} is given and cannot be cut: the model chose none of its tokens")
        if not 0 < offset < len(s.token_ids):
            raise ValueError(f"offset must be inside the step: 0 < offset < {len(s.token_ids)}, got {offset}")

        def part(cut: slice, text: str) -> Step:
            return Step(s.token_ids[cut], text, s.logprobs[cut], s.entropies[cut] if s.entropies else None)

        self.cuts += 1
        for n in self.nodes:
            n.id += n.id > node
            n.parent += n.parent > node
            n.children = [c + (c > node) for c in n.children]
        lower = Node(node + 1, node, part(slice(offset, None), texts[1]), upper.draws, upper.children)
        for c in lower.children:
            self.nodes[c - 1].parent = lower.id
        upper.step, upper.children = part(slice(None, offset), texts[0]), [lower.id]
        self.nodes.insert(node + 1, lower)
        for leaf in self.leaves:
            leaf.node += leaf.node >= node
        for rollout in self.rollouts:
            rollout.at += rollout.at >= node

    # --- JSON --------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """The tree as one JSON object, which `from_dict` reads.

        Its schema is `ibtpo.tree/2` if the tree has given steps. Without any it is `ibtpo.tree/1`, so that whatever
        reads trees today goes on reading these.
        """
        rollouts = [{"at": r.at, "tokens": r.tokens, "round": r.round, "score": r.score} for r in self.rollouts]
        return {
            "schema": SCHEMA_GIVEN if any(n.step.given for n in self.nodes) else SCHEMA,
            "id": self.id,
            "prompt": self.prompt,
            "prompt_ids": list(self.prompt_ids),
            "answer": self.answer,
            "nodes": [
                {
                    "id": n.id,
                    "parent": n.parent,
                    "token_ids": list(n.step.token_ids),
                    "text": n.step.text,
                    "logprobs": list(n.step.logprobs),
                    "entropies": None if n.step.entropies is None else list(n.step.entropies),
                    "draws": n.draws,
                    **({"given": True} if n.step.given else {}),
                }
                for n in self.nodes[1:]
            ],
            "leaves": [
                {
                    "node": f.node,
                    "reward": f.reward,
                    "stop": f.stop,
                    **({} if f.correct == f.reward else {"correct": f.correct}),
                }
                for f in self.leaves
            ],
            "meta": {**self.meta, "rollouts": rollouts},
        }

    @classmethod
    def from_dict(cls, d: Any) -> "ReasoningTree":
        """Makes a tree from one JSON object of the schema `ibtpo.tree/1` or `/2`, and checks every field of it.

        Raises `DataError` that names the first field that is wrong.
        """
        if not isinstance(d, dict):
            raise DataError(f"a tree must be a JSON object, got {type(d).__name__}")
        if (schema := d.get("schema", SCHEMA_GIVEN)) not in (SCHEMA, SCHEMA_GIVEN):
            raise DataError(f"schema must be {SCHEMA!r} or {SCHEMA_GIVEN!r}, got {schema!r:.80}")
        for key in ("id", "prompt_ids", "nodes", "leaves"):
            if key not in d:
                raise DataError(f"tree has no {key!r}; found {', '.join(map(str, d)) or 'nothing'}")
        if not isinstance(d["id"], str):
            raise DataError(f"'id' must be a string, got {d['id']!r:.80}")
        _text(d["id"], "'id'")
        meta = dict(_typed(d.get("meta") or {}, dict, "meta"))
        rollouts = _typed(meta.pop("rollouts", None) or [], list, "meta.rollouts")
        old_correct = _typed(meta.pop("correct", None) or [], list, "meta.correct")  # where older files have it
        answer = d.get("answer")
        if answer is not None and not isinstance(answer, str):
            raise DataError(f"'answer' must be a string or null, got {answer!r:.80}")
        _text(answer or "", "'answer'")
        tree = cls(d["id"], _ints(d["prompt_ids"], "prompt_ids"), _text(d.get("prompt", ""), "prompt"), answer, meta)
        nodes = [_typed(n, dict, f"nodes[{i}]") for i, n in enumerate(_typed(d["nodes"], list, "nodes"))]
        by_id = {n.get("id"): n for n in nodes if type(n.get("id")) is int}
        if sorted(by_id) != list(range(1, len(nodes) + 1)):
            raise DataError(f"node ids must be 1..{len(nodes)}, each once (0 is the root and is not listed)")
        for i in range(1, len(nodes) + 1):
            tree._read_node(i, by_id[i])
        leaves = _typed(d["leaves"], list, "leaves")
        _as_many(old_correct, leaves, "meta.correct")
        for i, leaf in enumerate(leaves):
            where = f"leaves[{i}]"
            node = _typed(leaf, dict, where).get("node")
            if type(node) is not int or not 0 <= node < len(tree.nodes):
                raise DataError(f"{where}.node must be a node id in 0..{len(tree.nodes) - 1}, got {node!r}")
            reward, stop = leaf.get("reward"), leaf.get("stop", "eos")
            if reward is not None:
                reward = _number(reward, f"{where}.reward")
                if abs(reward) > MOST_REWARD:
                    raise DataError(f"{where}.reward must be within ±{MOST_REWARD:g}, got {reward:g}")
            if stop not in STOPS:
                raise DataError(f"{where}.stop must be one of {', '.join(STOPS)}, got {stop!r}")
            if "correct" in leaf:
                correct = _number_or_none(leaf["correct"], f"{where}.correct")
            elif old_correct:
                correct = _number_or_none(old_correct[i], f"meta.correct[{i}]")
            else:
                correct = reward
            tree.leaves.append(Leaf(node, reward, stop, correct))
        _as_many(rollouts, tree.leaves, "meta.rollouts")
        for i, r in enumerate(rollouts):
            where = f"meta.rollouts[{i}]"
            at, tokens, round_ = (_typed(r, dict, where).get(k, 0) for k in ("at", "tokens", "round"))
            if any(type(v) is not int or not 0 <= v < MOST_DRAWS for v in (at, tokens, round_)) or at >= len(
                tree.nodes
            ):
                raise DataError(f"{where}: 'at', 'tokens' and 'round' must be counts and 'at' a node id, got {r!r}")
            score = _number_or_none(r.get("score"), f"{where}.score")
            tree.rollouts.append(Rollout(at, tokens, round_, score))
        return tree

    def _read_node(self, i: int, n: dict[str, Any]) -> None:
        """Checks the JSON object `n` of node `i`, and appends the node; its parent has to be there already."""
        where = f"node {i}"
        parent, draws = n.get("parent"), n.get("draws", 1)
        if type(parent) is not int or not 0 <= parent < i:
            raise DataError(f"{where}.parent must be an id below its own (0..{i - 1}), got {parent!r}")
        if type(draws) is not int or not 1 <= draws < MOST_DRAWS:
            raise DataError(f"{where}.draws must be an integer >= 1 and below 2^31, got {draws!r:.80}")
        ids = _ints(n.get("token_ids"), f"{where}.token_ids")
        if not ids:
            raise DataError(f"{where}.token_ids is empty: a step has at least one token")
        text, given = _text(n.get("text", ""), f"{where}.text"), n.get("given", False)
        if type(given) is not bool:
            raise DataError(f"{where}.given must be true or false, got {given!r:.80}")
        if given:
            lists = [_typed(n.get(key) or [], list, f"{where}.{key}") for key in ("logprobs", "entropies")]
            step = Step(ids, text, tuple(lists[0]), tuple(lists[1]) or None, given)
            _check_given(step, where, parent == ROOT)
            self._append(Node(i, parent, step, draws))
            return
        values: dict[str, tuple[float, ...] | None] = {}
        for key in ("logprobs", "entropies"):
            raw = n.get(key)
            if raw is None and key == "entropies":
                values[key] = None
                continue
            row = tuple(_number(x, f"{where}.{key}") for x in _typed(raw, list, f"{where}.{key}"))
            if len(row) != len(ids):
                raise DataError(f"{where} has {len(ids)} token_ids but {len(row)} {key}; they must be as many")
            if key == "logprobs" and max(row) > LOGPROB_TOLERANCE:
                raise DataError(
                    f"{where}.logprobs holds {max(row):g}: log-probabilities are at most 0, not probabilities"
                )
            values[key] = row
        self._append(Node(i, parent, Step(ids, text, values["logprobs"] or (), values["entropies"]), draws))

    def _append(self, node: Node) -> None:
        """Appends a node and tells its parent."""
        self.nodes.append(node)
        self.nodes[node.parent].children.append(node.id)


def _same(a: Step, b: Step) -> bool:
    """Whether two steps are equal, token for token, and written by the same."""
    return a.token_ids == b.token_ids and a.given == b.given


def _check_given(step: Step, where: str, after_prompt: bool) -> None:
    """Checks a given step. after_prompt: whether it comes right after the prompt."""
    if not step.token_ids:
        raise DataError(f"{where}.token_ids is empty: a given step has at least one token")
    for name, values in (("logprobs", step.logprobs), ("entropies", step.entropies or ())):
        if values:
            raise DataError(
                f"{where}.{name} has {len(values)} values: a given step has none, the model sampled no token"
            )
    if after_prompt:
        raise DataError(f"{where}.given: no given step follows the prompt; put its tokens into the prompt")


def _typed(value: Any, kind: type, where: str) -> Any:
    """`value`, if it is of type `kind`. `where` names the field in the message, here and in the functions below."""
    if not isinstance(value, kind):
        raise DataError(f"{where} must be a {kind.__name__}, got {type(value).__name__}")
    return value


def _text(value: Any, where: str) -> str:
    """`value`, if it is a string that can be written as UTF-8."""
    text: str = _typed(value, str, where)
    if (half := half_character(text)) is not None:
        raise DataError(f"{where} contains {half}, half a character (a lone surrogate); cut text between characters")
    return text


def _number(value: Any, where: str) -> float:
    """`value` as a float, if it is a finite number; true and false are none."""
    try:
        if type(value) in (int, float) and math.isfinite(value):
            return float(value)
    except OverflowError:  # an integer too large for a float
        pass
    raise DataError(f"{where} must be a finite number, got {value!r:.80}")


def _number_or_none(value: Any, where: str) -> float | None:
    return None if value is None else _number(value, where)


def _as_many(rows: list[Any], leaves: list[Any], where: str) -> None:
    """Checks that `rows`, where there are any, are as many as the leaves."""
    if rows and len(rows) != len(leaves):
        raise DataError(f"{where} has {len(rows)} entries for {len(leaves)} leaves; there must be one a leaf")


def _ints(value: Any, where: str) -> tuple[int, ...]:
    """`value` as token ids, if it is a list of them."""
    if not isinstance(value, list) or any(type(x) is not int or x < 0 for x in value):
        raise DataError(f"{where} must be a list of token ids (integers >= 0)")
    return tuple(value)


def read_trees(path: str | Path, on_error: Callable[[DataError], None] | None = None) -> Iterator[ReasoningTree]:
    """The trees of a `.jsonl` or `.jsonl.gz` file, read one at a time.

    path: the file, one tree a line; empty lines are skipped. It is taken for gzip if its name ends in `.gz`.
    on_error: called with each error, where it is given, in place of raising it. The wrong line is then left out, or,
        where a `.gz` breaks off, all that follows.

    Raises `DataError` that names the file and the line, and for a file without trees.
    """
    path, number = Path(path), 0
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as f:  # bytes, so that a line that is not UTF-8 is named like any other wrong line
            found = False
            for number, line in enumerate(f, 1):
                if not line.strip():
                    continue
                found = True
                try:
                    tree = ReasoningTree.from_dict(json.loads(line))
                except (ValueError, RecursionError) as e:
                    error = DataError(f"{path}:{number}: {e}")
                    if on_error is None:
                        raise error from e
                    on_error(error)
                    continue
                yield tree
            if not found:
                empty = DataError(f"{path}: the file is empty; expected one tree a line")
                if on_error is None:
                    raise empty
                on_error(empty)
    except (OSError, EOFError, zlib.error) as e:
        error = DataError(f"{path}: cannot be read: {e}")
        if on_error is None:
            raise error from e
        on_error(DataError(f"{path}:{number + 1}: cannot be read: {e}"))


def write_trees(path: str | Path, trees: Iterable[ReasoningTree]) -> None:
    """Writes trees to a file, one a line, compressed if its name ends in `.gz`. It appears whole or not at all.

    path: the file; its folder is made if it does not exist, and an older file of that name is replaced.
    trees: what is written; they may come from a generator.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    opener = gzip.open if path.suffix == ".gz" else open
    with whole_file(path) as part, opener(part, "wt", encoding="utf-8") as f:
        for tree in trees:
            f.write(json.dumps(tree.to_dict(), ensure_ascii=False, allow_nan=False) + "\n")
