"""Growing trees: one coroutine a prompt, no barrier between prompts. docs/method.md gives the method.

    search = TreeSearch(engine, verifier, decode, SearchOptions(budget=Budget.parse("4,9,1,1")))
    trees = asyncio.run(search.grow_all(prompts))                 # all trees, in order
    asyncio.run(search.grow_each(prompts, lambda tree: print(tree.id)))  # one after the other, none kept

B0 rollouts start at the root; then, round after round, the branching rule picks K places and each gets B rollouts.
Without lookahead every reward of a round is known before the next round's places are chosen. With a lookahead of n,
places are chosen while up to n earlier rounds still run, and what those will bring is not known to the rule.

The seed of a rollout comes from (run seed, prompt id, tokens of the place, how many rollouts started there before), so
that concurrency, batching and the order of arrival cannot change a tree.
"""

import asyncio
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from ._extras import load_object
from ._options import option
from ._seeds import stable_hash
from .branching import BRANCHING, BranchingRule, BranchPoint
from .engines import Completion, Engine, Sampling
from .errors import ConfigError, EngineError, unknown
from .score import ScoreOptions
from .steps import PieceDecoder, cut, make_splitter
from .tree import ROOT, Node, ReasoningTree
from .verify import Verdict, Verifier

T = TypeVar("T")

MOST_TRAJECTORIES = 65536  # of a tree; all first rollouts are queued at once


@dataclass(frozen=True, slots=True)
class Budget:
    """How large a tree grows: B0 first rollouts, then L−1 rounds of K places with B rollouts each.

    tokens: stop, in place of the L rounds, when the next branch would take the tree's generated tokens beyond this.
    What a branch would cost is what the known continuations of its place cost on average.
    """

    b0: int = 4
    rounds: int = 9
    k: int = 1
    b: int = 1
    tokens: int | None = None

    def __post_init__(self) -> None:
        for name in ("b0", "rounds", "k", "b"):
            if getattr(self, name) < 1:
                raise ConfigError(f"tree budget (B0,L,K,B): {name} must be >= 1, got {getattr(self, name)}")
        if self.trajectories > MOST_TRAJECTORIES:
            raise ConfigError(f"a tree of {self.trajectories} trajectories is too large: at most {MOST_TRAJECTORIES}")
        if self.tokens is not None and self.tokens < 1:
            raise ConfigError(f"a tree's token budget must be >= 1, got {self.tokens}")

    @property
    def trajectories(self) -> int:
        """G = B0 + (L−1)·K·B."""
        return self.b0 + (self.rounds - 1) * self.k * self.b

    @classmethod
    def parse(cls, text: str | Sequence[int], tokens: int | None = None) -> "Budget":
        """From "B0,L,K,B" or four integers."""
        try:
            parts = text.split(",") if isinstance(text, str) else list(text)
            b0, rounds, k, b = (int(p) for p in parts)
        except (ValueError, TypeError) as e:
            raise ConfigError(f"a tree budget is four integers B0,L,K,B such as 4,9,1,1; got {text!r:.80}") from e
        return cls(b0, rounds, k, b, tokens)


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """Everything a tree depends on besides model, prompt and verifier.

    branching: "ib", "entropy", "fixed_width", "random", "independent", or a dotted path to a rule.
    splitter: see `steps.make_splitter`. max_completion_length: a trajectory's limit in tokens.
    lookahead: rounds a tree may start before the running one has returned, from the scores it has by then, at the best
        places that no running rollout started from. 0 is the paper's order; more keeps an engine busy that has few
        prompts, at the price of scores that many rounds old. The tree depends on it, but not on timing.
    max_in_flight: requests at the engine at once. retries: of a request that failed, with back-off.
    deterministic: wait for each verdict before anything else happens, so that the engine's batches are the same in
        every run (their composition touches the last bits of a float); costs overlap when verifying is slow.
    """

    budget: Budget = field(default_factory=Budget)
    sampling: Sampling = field(default_factory=Sampling)
    score: ScoreOptions = field(default_factory=ScoreOptions)
    branching: str = option("branching")
    splitter: str = option("splitter")
    max_completion_length: int = option("max_completion_length")
    seed: int = 0
    lookahead: int = option("lookahead")
    max_in_flight: int = option("max_in_flight")
    retries: int = 2
    deterministic: bool = False

    def __post_init__(self) -> None:
        for name in ("max_completion_length", "max_in_flight"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be >= 1, got {getattr(self, name)}")
        if self.lookahead < 0:
            raise ConfigError(f"lookahead must be >= 0 rounds, got {self.lookahead}")
        if self.retries < 0:
            raise ConfigError(f"retries must be >= 0, got {self.retries}; 0 gives up at the first failure")
        find_rule(self.branching)
        make_splitter(self.splitter)


HOW_REQUESTS_RUN = ("max_in_flight", "retries", "deterministic")


def find_rule(name: str) -> BranchingRule:
    """A branching rule by name or dotted path `package.module:function`."""
    if name in BRANCHING:
        return BRANCHING[name]
    if ":" in name:
        return load_object(name, "branching rule")
    raise unknown("branching rule", name, BRANCHING)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question ready for the engine: its token ids, its text, and the columns its verifier gets.

    conversational: the verifier gets completions as TRL's list of one assistant message.
    """

    id: str
    ids: tuple[int, ...]
    text: str
    columns: dict[str, Any] = field(default_factory=dict)
    conversational: bool = False


class TreeSearch:
    """Grows reasoning trees with an engine and a verifier.

    engine: what samples.
    verifier: what gives each answer its reward.
    decode: token ids -> text, special tokens skipped.
    options: everything else a tree depends on.
    on_rollout: called with each new trajectory's (tree, leaf index).

    seconds: time spent in "verifying" (waiting for verdicts, when deterministic) and "credit" (choosing places).
    verdicts: tree id -> (L,) verdicts in leaf order of each tree that `grow_all` returned, for callers that need each
        reward function's own value.
    """

    def __init__(
        self,
        engine: Engine,
        verifier: Verifier,
        decode: Callable[[list[int]], str],
        options: SearchOptions,
        *,
        on_rollout: Callable[[ReasoningTree, int], None] | None = None,
    ) -> None:
        self.engine = engine
        self.verifier = verifier
        self.options = options
        self.on_rollout = on_rollout
        self.seconds: dict[str, float] = defaultdict(float)
        self.verdicts: dict[str, list[Verdict]] = {}
        self._pieces = PieceDecoder(decode)
        self._splitter = make_splitter(options.splitter)
        self._rule = find_rule(options.branching)

    async def grow_all(self, prompts: Iterable[Prompt]) -> list[ReasoningTree]:
        """One tree a prompt, in the order of the prompts; their verdicts are kept in `verdicts`.

        Raises `EngineError` when a rollout failed for good, `ConfigError` for a prompt id that occurs twice.
        """
        prompts = list(prompts)
        trees: dict[str, ReasoningTree] = {}

        def keep(tree: ReasoningTree, verdicts: list[Verdict]) -> None:
            trees[tree.id], self.verdicts[tree.id] = tree, verdicts

        await self._grow_many(prompts, keep)
        return [trees[prompt.id] for prompt in prompts]

    async def grow_each(self, prompts: Iterable[Prompt], on_tree: Callable[[ReasoningTree], None]) -> None:
        """One tree a prompt, given to `on_tree` as soon as it is whole, in the order in which trees are done.

        Neither trees nor verdicts are kept: however many prompts there are, memory holds the trees that are growing.
        An exception of `on_tree` ends the search.

        Raises `EngineError` when a rollout failed for good; trees finished before went through `on_tree`.
        Raises `ConfigError` for a prompt id that occurs twice.
        """
        await self._grow_many(list(prompts), lambda tree, verdicts: on_tree(tree))

    async def _grow_many(
        self, prompts: Sequence[Prompt], on_tree: Callable[[ReasoningTree, list[Verdict]], None]
    ) -> None:
        o = self.options
        requests = asyncio.Semaphore(o.max_in_flight)
        # What a growing tree keeps in flight: more trees than this would only wait, and finish late.
        each = o.budget.k * o.budget.b * (1 + o.lookahead)
        growing = asyncio.Semaphore(max(1, -(-o.max_in_flight // each)))

        async def one(prompt: Prompt) -> None:
            async with growing:
                tree, verdicts = await self._grow(prompt, requests)
            on_tree(tree, verdicts)

        twice = [i for i, n in Counter(p.id for p in prompts).items() if n > 1]
        if twice:
            raise ConfigError(f"prompt id {twice[0]!r} occurs twice: its trees would be copies; ids must differ")
        await _all_or_none([one(p) for p in prompts])

    async def grow(self, prompt: Prompt) -> ReasoningTree:
        """One tree."""
        return (await self.grow_all([prompt]))[0]

    async def _grow(self, prompt: Prompt, requests: asyncio.Semaphore) -> tuple[ReasoningTree, list[Verdict]]:
        """A tree and (L,) the verdicts of its leaves."""
        o = self.options
        answer = prompt.columns.get("answer")
        tree = ReasoningTree(prompt.id, prompt.ids, prompt.text, None if answer is None else str(answer))
        # How the requests were run does not touch the tree, and so does not belong to it.
        tree.meta["search"] = {k: v for k, v in asdict(o).items() if k not in HOW_REQUESTS_RUN}
        verdicts: list[Verdict] = []
        started: Counter[tuple[int, ...]] = Counter()
        running: deque[list[_Job]] = deque()  # rounds whose rollouts are under way, oldest first
        try:
            running.append(self._start([BranchPoint(ROOT)], o.budget.b0, 0, tree, prompt, started, running, requests))
            await self._finish(running, tree, verdicts)
            round = 1
            while True:
                points = self._choose(tree, round, running)
                if points:
                    running.append(self._start(points, o.budget.b, round, tree, prompt, started, running, requests))
                    round += 1
                elif not running:
                    return tree, verdicts
                if not points or len(running) > o.lookahead:
                    await self._finish(running, tree, verdicts)
        finally:
            await _cancel([job.task for jobs in running for job in jobs])

    def _choose(self, tree: ReasoningTree, round: int, running: Iterable[list["_Job"]]) -> list[BranchPoint]:
        """The places of the next round, K of them, or none when the budget is spent."""
        o = self.options
        if o.budget.tokens is None and round >= o.budget.rounds:
            return []
        begin = time.perf_counter()
        taken = {job.node.id for jobs in running for job in jobs}
        try:
            points = list(self._rule(tree, o.budget.k + len(taken), o.score, stable_hash(o.seed, round)))
        except Exception as e:
            raise ConfigError(f"branching rule {o.branching!r} failed: {type(e).__name__}: {e}") from e
        if not points:
            raise ConfigError(f"branching rule {o.branching!r} gave no place to branch; it must give at least one")
        # What the running rounds will say of their places is not known yet: the next best ones first.
        points.sort(key=lambda p: p.offset is None and p.node in taken)
        points = [points[i % min(len(points), o.budget.k)] for i in range(o.budget.k)]
        within = True
        if o.budget.tokens is not None:
            spent = float(sum(max(1, r.tokens) for r in tree.rollouts))  # even empty answers use a budget up
            spent += sum(job.cost for jobs in running for job in jobs)
            within = spent + sum(self._cost(tree, p) for p in points) * o.budget.b <= o.budget.tokens
        self.seconds["credit"] += time.perf_counter() - begin
        return points if within else []

    def _start(
        self,
        points: list[BranchPoint],
        count: int,
        round: int,
        tree: ReasoningTree,
        prompt: Prompt,
        started: Counter[tuple[int, ...]],
        running: Iterable[list["_Job"]],
        requests: asyncio.Semaphore,
    ) -> list["_Job"]:
        """Asks for `count` rollouts from each place."""
        o = self.options
        costs = [self._cost(tree, p) if tree.leaves and o.budget.tokens is not None else 0.0 for p in points]
        # Cutting a step gives later ids a new number: keep hold of the nodes themselves.
        places = [(tree.nodes[p.node], p, cost) for p, cost in zip(points, costs, strict=True)]
        for node, p, _ in places:
            if p.offset is not None and p.offset < len(node.step.token_ids):
                sampled_ids = tree.prefix_ids(node.id)[len(tree.prompt_ids) :]
                pieces = self._pieces(sampled_ids)[-len(node.step.token_ids) :]
                head = "".join(pieces[: p.offset])
                tree.split(node.id, p.offset, (head, node.step.text[len(head) :]))
                for job in (job for jobs in running for job in jobs if job.node is node):
                    job.node = tree.nodes[node.id + 1]  # it started after the whole step
        jobs = []
        for node, p, cost in places:
            prefix = tree.prefix_ids(node.id)
            sampled = tuple(prefix[len(tree.prompt_ids) :])
            for _ in range(count):
                seed = stable_hash(o.seed, tree.id, sampled, started[sampled])
                started[sampled] += 1
                task = asyncio.ensure_future(self._rollout(prompt, prefix, sampled, seed, requests))
                jobs.append(_Job(node, p.score, round, cost, task))
        return jobs

    async def _finish(self, running: "deque[list[_Job]]", tree: ReasoningTree, verdicts: list[Verdict]) -> None:
        """Adds the oldest round's trajectories in the order they were asked for, whatever order they came in."""
        results = await asyncio.gather(*(job.task for job in running[0]))
        for job, (completion, pieces, verdict) in zip(running.popleft(), results, strict=True):
            ids = completion.token_ids
            steps = cut(ids, completion.logprobs, completion.entropies, pieces, self._splitter)
            stop = completion.stop_reason if verdict.error is None else "verifier_error"
            # With a shaped reward, raw correctness is the first function's value.
            correct = verdict.per_function[0] if len(verdict.per_function) > 1 else verdict.reward
            leaf = tree.add(job.node.id, steps, verdict.reward, stop, correct=correct, round=job.round, score=job.score)
            if verdict.error is not None:
                tree.meta.setdefault("verifier_errors", []).append(verdict.error)
            verdicts.append(verdict)
            if self.on_rollout:
                self.on_rollout(tree, leaf)

    async def _rollout(
        self, prompt: Prompt, prefix: list[int], sampled: tuple[int, ...], seed: int, requests: asyncio.Semaphore
    ) -> tuple[Completion, list[str], Verdict]:
        room = self.options.max_completion_length - len(sampled)
        async with requests:
            completion = await self._generate(prompt, prefix, seed, room)
        ids = [*sampled, *completion.token_ids]
        pieces = self._pieces(ids)  # of the whole answer: what a token decodes to depends on what stands before it
        text = "".join(pieces)
        row = {
            "prompt": prompt.text,
            **prompt.columns,
            "completion": [{"role": "assistant", "content": text}] if prompt.conversational else text,
            "completion_ids": ids,
        }
        if self.options.deterministic:
            begin = time.perf_counter()
            verdict = self.verifier.score([row])[0]
            self.seconds["verifying"] += time.perf_counter() - begin
        else:
            verdict = (await self.verifier.ascore([row]))[0]
        return completion, pieces[len(sampled) :], verdict

    async def _generate(self, prompt: Prompt, prefix: list[int], seed: int, room: int) -> Completion:
        o = self.options
        for attempt in range(o.retries + 1):
            try:
                return await self.engine.generate(prefix, o.sampling, seed, room)
            except EngineError as e:
                if attempt == o.retries:
                    raise EngineError(f"prompt {prompt.id!r}: a rollout failed {attempt + 1} times: {e}") from e
                await asyncio.sleep(0.1 * 4**attempt)
        raise AssertionError("unreachable: the loop returns or raises")

    def _cost(self, tree: ReasoningTree, point: BranchPoint) -> float:
        """Mean tokens the known trajectories through a place took after it."""
        before = len(tree.prefix_ids(point.node)) - len(tree.prompt_ids)
        if point.offset is not None:
            before += point.offset - len(tree.nodes[point.node].step.token_ids)
        lengths = [
            len(tree.completion_ids(i)) - before
            for i, leaf in enumerate(tree.leaves)
            if point.node == ROOT or point.node in tree.path(leaf.node)
        ]
        return sum(lengths) / len(lengths)


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run`, also where a loop is running already, as in a notebook: then in a thread of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


@dataclass(slots=True)
class _Job:
    """A rollout under way that started right after `node`'s step. cost: tokens it was expected to take."""

    node: Node
    score: float | None
    round: int
    cost: float
    task: "asyncio.Task[tuple[Completion, list[str], Verdict]]"


async def _all_or_none(jobs: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Runs all jobs; when one fails, the others are cancelled and awaited, so that none lives on."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        await asyncio.gather(*tasks)
    except BaseException:
        await _cancel(tasks)
        raise


async def _cancel(tasks: Sequence["asyncio.Task[Any]"]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
