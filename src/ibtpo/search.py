"""Growing trees: IBTree, the tree sampling of IB-TPO (arXiv 2605.28109), for any branching rule.

docs/method.md, "One training step", points 1 and 2, gives the method.

    search = TreeSearch(engine, verifier, decode, SearchOptions(budget=Budget.parse("4,9,1,1")))
    trees = asyncio.run(search.grow_all(prompts))  # all trees, in the order of the prompts
    asyncio.run(search.grow_each(prompts, lambda tree: print(tree.id)))  # each as soon as it is whole; none is kept

B0 rollouts start at the root. Then, in each of L−1 rounds, the branching rule picks K places, and B rollouts start at
each of them. Without lookahead every reward of a round is known before the next round's places are chosen. With a
lookahead of n, places are chosen while up to n earlier rounds still run, and what those will bring is not known to the
rule. A rule that picks no place ends the tree early.

Each tree grows in a coroutine of its own and goes on as soon as its own rollouts have returned, whatever the others do.
The seed of a rollout comes from (run seed, prompt id, tokens of the place, how many rollouts started there before), so
that concurrency, batching and the order of arrival cannot change a tree (docs/method.md, "What is deterministic").
"""

import asyncio
import time
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from operator import index
from typing import Any, TypeVar

from ._extras import load_object
from ._options import option
from ._seeds import stable_hash
from .branching import BRANCHING, NEEDS_NO_REWARD, BranchingRule, BranchPoint, agreement, choose_places
from .engines import Engine, Sampling
from .environments.branches import Branches
from .environments.pool import Environments
from .errors import ConfigError, unknown
from .rollout import Answer, Prompt, Rollouts, place_at
from .score import ScoreOptions
from .steps import PieceDecoder, make_splitter
from .tree import ROOT, Node, ReasoningTree
from .verify import Verdict, Verifier
from .verify.scorer import Scorer

T = TypeVar("T")

MOST_TRAJECTORIES = 65536  # in a tree: all of its first rollouts are queued at once and must fit in memory


@dataclass(frozen=True, slots=True)
class Budget:
    """How large a tree grows: the paper's (B0, L, K, B), which are (4, 9, 1, 1) there.

    b0: B0, how many rollouts start at the root in the first round.
    rounds: L, the number of rounds, the first one included.
    k: K, at how many places each further round branches.
    b: B, how many rollouts start at each of them.
    tokens: where it is given, `rounds` does not count; the tree stops when its next round would take its generated
        tokens beyond this number. A branch is expected to cost what the known continuations of its place cost on
        average.

    Raises `ConfigError` for a number below 1 and for a tree of more than 65536 trajectories.
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
        """G = B0 + (L−1)·K·B, the trajectories of a tree without a token budget that its rule does not end early."""
        return self.b0 + (self.rounds - 1) * self.k * self.b

    @classmethod
    def parse(cls, text: str | Sequence[int], tokens: int | None = None) -> "Budget":
        """Makes a budget from its short form.

        text: "B0,L,K,B" such as "4,9,1,1", or four integers.
        tokens: see the class.

        Raises `ConfigError` for anything else than four integers.
        """
        try:
            parts = text.split(",") if isinstance(text, str) else list(text)
            b0, rounds, k, b = (int(p) if isinstance(p, str) else index(p) for p in parts)
        except (ValueError, TypeError) as e:
            raise ConfigError(f"a tree budget is four integers B0,L,K,B such as 4,9,1,1; got {text!r:.80}") from e
        return cls(b0, rounds, k, b, tokens)


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """Everything that a tree depends on besides model, prompt and verifier, and how its requests are run.

    budget: how large a tree grows.
    sampling: how each token is drawn.
    score: how the tree is scored for the branching rule.
    branching: a name in `branching.BRANCHING`, such as "ib", or a dotted path `package.module:function` to a
        `BranchingRule`.
    splitter: where steps end, see `steps.make_splitter`.
    max_completion_length: the most tokens of a trajectory, the prompt's not counted.
    seed: the run's seed, from which those of all rollouts come.
    lookahead: how many earlier rounds may still run when a round's places are chosen: the best by the scores so far
        from which no running rollout started. 0 is the paper's order; more keeps an engine busy when there are few
        prompts, with scores that are up to so many rounds old. The tree depends on this number, but not on timing.
    max_in_flight: how many requests are at the engine at once.
    retries: how often a request that failed is made again, each time after a longer wait.
    deterministic: whether all else waits while answers are verified. Then the engine's batches, which decide the last
        bits of a float, are the same in every run. The price is that sampling and slow verifiers do not overlap.
        Answers that end at the same time are verified together; async functions, which wait for something outside, get
        all answers of a round of all trees.

    Raises `ConfigError` for a value out of range, an unknown name, and a function that cannot be loaded.
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

    def to_json(self) -> dict[str, Any]:
        """The options by name, with dictionaries for those that have options themselves."""
        return {**asdict(self), "sampling": self.sampling.to_json()}


HOW_REQUESTS_RUN = ("max_in_flight", "retries", "deterministic")  # the options that are not stored with a tree


def find_rule(name: str) -> BranchingRule:
    """The branching rule that a name, or a dotted path `package.module:function`, stands for.

    Raises `ConfigError` for an unknown name and for a function that cannot be loaded.
    """
    if name in BRANCHING:
        return BRANCHING[name]
    if ":" in name:
        return load_object(name, "branching rule")
    raise unknown("branching rule", name, BRANCHING)


class TreeSearch:
    """Grows reasoning trees with an engine and a verifier.

    engine: what samples.
    verifier: what gives each answer its reward.
    decode: token ids -> text, special tokens skipped.
    options: everything else that a tree depends on.
    on_rollout: called with (tree, index of the leaf) for each trajectory that is added.
    environments: what answers the turns of an answer, and the tools it may call; None for answers of one turn. They are
        left open, for the next search.

    `seconds` counts time since construction: under "verifying" that spent waiting for verdicts (with `deterministic`
    only), and under "credit" that spent choosing places. `verdicts` holds, for each tree that `grow_all` returned, its
    (L,) verdicts in the order of its leaves, by the tree's id; they have each reward function's own value. `rows` holds
    what the verifier got for them.

    Functions in this process (`RewardFunctions`) are called as TRL calls them where the branching rule needs no rewards
    (`branching.NEEDS_NO_REWARD`): with all answers of all trees at once, in the order of the trees and their leaves, or
    with those of one tree in `grow_each`. So they may compare answers. `together` says whether that is so. It is not
    where the number of environments has a limit, because answers then have to be verified to free theirs.
    """

    def __init__(
        self,
        engine: Engine,
        verifier: Verifier,
        decode: Callable[[list[int]], str],
        options: SearchOptions,
        *,
        on_rollout: Callable[[ReasoningTree, int], None] | None = None,
        environments: Environments | None = None,
    ) -> None:
        self.engine = engine
        self.verifier = verifier
        self.options = options
        self.on_rollout = on_rollout
        self.seconds: dict[str, float] = defaultdict(float)
        self.verdicts: dict[str, list[Verdict]] = {}
        self.rows: dict[str, list[dict[str, Any]]] = {}
        self.together = getattr(verifier, "takes_all", False) and options.branching in NEEDS_NO_REWARD
        self.environments = environments
        self._stateful = environments is not None and environments.stateful
        if self._stateful and environments is not None and environments.max_live is not None:
            self.together = False  # an answer holds its environment until it is verified, and others wait for it
        if environments is not None:
            environments.caller.deterministic = options.deterministic
        self._scorer = Scorer(verifier, options.deterministic)
        self._pieces = PieceDecoder(decode)
        self._rollouts = Rollouts(engine, options, self._pieces, self._scorer, self.together)
        self._splitter = make_splitter(options.splitter)
        self._rule = find_rule(options.branching)
        # Answers that all start at the root need not wait for each other, unless their tokens are counted as they end.
        self._at_once = options.branching == "independent" and options.budget.tokens is None
        self._lookahead = options.budget.rounds if self._at_once else options.lookahead

    async def grow_all(self, prompts: Iterable[Prompt]) -> list[ReasoningTree]:
        """Grows a tree for each prompt, and returns them in the order of the prompts.

        Their verdicts are kept in `verdicts`.

        Raises `EngineError` when a rollout failed for good, and `ConfigError` for a prompt id that occurs twice and for
        wrong results of an engine or a branching rule.
        """
        prompts = list(prompts)
        trees: dict[str, ReasoningTree] = {}

        async def keep(tree: ReasoningTree, answers: list[Answer]) -> None:
            trees[tree.id] = tree
            self.rows[tree.id] = [answer.row for answer in answers]
            if not self.together:
                self.verdicts[tree.id] = [answer.verdict for answer in answers if answer.verdict is not None]

        await self._grow_many(prompts, keep)
        whole = [trees[prompt.id] for prompt in prompts]
        if self.together:
            verdicts = iter(await self._scorer.all([row for tree in whole for row in self.rows[tree.id]]))
            for tree in whole:
                self.verdicts[tree.id] = [next(verdicts) for _ in tree.leaves]
                self._reward(tree, self.verdicts[tree.id])
            await self._rollouts.release()
        return whole

    async def grow_each(self, prompts: Iterable[Prompt], on_tree: Callable[[ReasoningTree], None]) -> None:
        """Grows a tree for each prompt, and hands each over as soon as it is whole.

        Neither trees nor verdicts are kept: however many prompts there are, memory holds only the trees that grow.

        on_tree: called with each tree, in the order in which they are done. An exception of its own ends the search.

        Raises `EngineError` when a rollout failed for good; trees that were whole by then went through `on_tree`.
        Raises `ConfigError` for a prompt id that occurs twice and for wrong results of an engine or a branching rule.
        """

        async def hand_over(tree: ReasoningTree, answers: list[Answer]) -> None:
            if self.together:
                self._reward(tree, await self._scorer.all([answer.row for answer in answers]))
                await self._rollouts.release(answers)
            on_tree(tree)

        await self._grow_many(list(prompts), hand_over)

    async def _grow_many(
        self, prompts: Sequence[Prompt], on_tree: Callable[[ReasoningTree, list[Answer]], Awaitable[None]]
    ) -> None:
        """Grows a tree for each prompt, and awaits `on_tree` with it and its (L,) answers as soon as it is whole."""
        o = self.options
        self._rollouts.requests = asyncio.Semaphore(o.max_in_flight)
        # `each` is how many requests a growing tree has under way. Only as many trees grow at once as keep the engine
        # full: with more of them, each would wait longer for its requests, and all would be whole late.
        each = o.budget.k * o.budget.b * (1 + self._lookahead)
        growing = asyncio.Semaphore(max(1, -(-o.max_in_flight // each)))

        async def one(prompt: Prompt) -> None:
            async with growing:
                tree, answers = await self._grow(prompt)
            await on_tree(tree, answers)

        twice = [i for i, n in Counter(p.id for p in prompts).items() if n > 1]
        if twice:
            raise ConfigError(f"prompt id {twice[0]!r} occurs twice: its trees would be copies; ids must differ")
        try:
            await _all_or_none([one(p) for p in prompts])
        except BaseException:
            await self._rollouts.release()
            raise
        finally:
            if self.environments is not None:
                self.seconds["environments"] += self.environments.caller.seconds
                self.environments.caller.seconds = 0.0
            self.seconds["verifying"] += self._scorer.seconds
            self._scorer.seconds, self._scorer.sampling = 0.0, 0

    async def grow(self, prompt: Prompt) -> ReasoningTree:
        """Grows the tree of one prompt. Raises `EngineError` when a rollout failed for good."""
        return (await self.grow_all([prompt]))[0]

    async def _grow(self, prompt: Prompt) -> tuple[ReasoningTree, list[Answer]]:
        """Grows one tree, and returns it with the (L,) answers of its leaves."""
        o = self.options
        answer = prompt.columns.get("answer")
        tree = ReasoningTree(prompt.id, prompt.ids, prompt.text, None if answer is None else str(answer))
        # How the requests were run does not touch the tree, and so does not belong to it.
        tree.meta["search"] = {k: v for k, v in o.to_json().items() if k not in HOW_REQUESTS_RUN}
        branches = self._branches(prompt)
        answers: list[Answer] = []
        started: Counter[tuple[int, ...]] = Counter()  # tokens from prompt to place -> rollouts that started there
        running: deque[list[_Job]] = deque()  # rounds whose rollouts are under way, oldest first
        try:
            running.append(self._start([BranchPoint(ROOT)], o.budget.b0, 0, tree, prompt, started, running, branches))
            if not self._at_once:
                await self._finish(running, tree, answers, branches)
            round = 1
            while True:
                points = self._choose(tree, round, running, branches)
                if points:
                    running.append(self._start(points, o.budget.b, round, tree, prompt, started, running, branches))
                    round += 1
                elif not running:
                    return tree, answers
                if not points or len(running) > self._lookahead:
                    await self._finish(running, tree, answers, branches)
        finally:
            await _cancel([job.task for jobs in running for job in jobs])
            if branches is not None:
                tree.meta["environment"] = branches.report()
                await branches.close()

    def _branches(self, prompt: Prompt) -> Branches | None:
        """The environments of a prompt's tree."""
        if self.environments is None:
            return None
        row = prompt.opening.row if prompt.opening else {"prompt": prompt.text, **prompt.columns}
        may_branch = self.options.branching != "independent"
        return Branches(self.environments, prompt.ids, row, prompt.opening, branching=may_branch)

    def _choose(
        self, tree: ReasoningTree, round: int, running: Iterable[list["_Job"]], branches: Branches | None
    ) -> list[BranchPoint]:
        """The places of the next round: K of them, or none when the budget is spent or the rule wants no more.

        Where the rule gives fewer than K, they are taken again in turn. Where it gives none, it is asked again when the
        next round under way has ended; with none under way the tree is finished, and its meta says under "stopped" what
        its answers have in common, or "by its rule".

        Where the environment cannot be brought into the state of another place, it is the root.

        round: the number of the next round, 1 or more.
        running: the rounds under way.
        branches: the tree's environments, or None.
        """
        o = self.options
        if o.budget.tokens is None and round >= o.budget.rounds:
            return []
        begin = time.perf_counter()
        taken = {job.node.id for jobs in running for job in jobs}
        seed = stable_hash(o.seed, round)
        points = choose_places(self._rule, o.branching, tree, o.budget.k + len(taken), o.score, seed)
        if not points:
            if not taken:
                tree.meta["stopped"] = agreement(tree) or "by its rule"
            self.seconds["credit"] += time.perf_counter() - begin
            return []
        if branches is not None and branches.root_only:
            points = [BranchPoint(ROOT)]
        # Rollouts under way will change the scores of the places they started from, so other places go first.
        points.sort(key=lambda p: p.offset is None and p.node in taken)
        points = [points[i % min(len(points), o.budget.k)] for i in range(o.budget.k)]
        within = True
        if o.budget.tokens is not None:
            # An empty answer counts as one token, or a tree of empty answers would never end.
            spent = float(sum(max(1, r.tokens) for r in tree.rollouts))
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
        branches: Branches | None,
    ) -> list["_Job"]:
        """Starts `count` rollouts from each place, and returns them as jobs without waiting for any.

        A place inside a step is made the end of a step first, by `ReasoningTree.split`.
        """
        o = self.options
        costs = [self._cost(tree, p) if tree.leaves and o.budget.tokens is not None else 0.0 for p in points]
        # Cutting a step gives other nodes new ids, so the nodes themselves are remembered.
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
            place = place_at(tree, node.id)
            for _ in range(count):
                seed = stable_hash(o.seed, tree.id, place.after, started[place.after])
                started[place.after] += 1
                self._scorer.sampling += 1
                task = asyncio.ensure_future(self._rollouts.run(prompt, place, seed, branches))
                jobs.append(_Job(node, p.score, round, cost, task))
        return jobs

    async def _finish(
        self, running: "deque[list[_Job]]", tree: ReasoningTree, answers: list[Answer], branches: Branches | None
    ) -> None:
        """Waits for the oldest round under way, and adds its trajectories to the tree.

        They are added in the order in which they were asked for, so that timing cannot change the tree.
        """
        results = await asyncio.gather(*(job.task for job in running[0]))
        for job, answer in zip(running.popleft(), results, strict=True):
            node, score = job.node.id, job.score
            if answer.from_root and branches is not None:
                node, score = ROOT, None
                branches.give_up()
            tree.add(node, answer.steps(self._splitter), None, answer.stop, round=job.round, score=score)
            answers.append(answer)
            if answer.verdict is not None:
                self._reward(tree, [answer.verdict])

    def _reward(self, tree: ReasoningTree, verdicts: Sequence[Verdict]) -> None:
        """Gives the last leaves of a tree the rewards of their verdicts."""
        first = len(tree.leaves) - len(verdicts)
        for i, verdict in enumerate(verdicts, first):
            leaf = tree.leaves[i]
            # The first reward function decides raw correctness, by its own value: weights are not for judging answers.
            leaf.correct = verdict.per_function[0] if verdict.per_function else verdict.reward
            leaf.reward = verdict.reward
            if verdict.error is not None:
                leaf.stop = "verifier_error"
                tree.meta.setdefault("verifier_errors", []).append(verdict.error)
            if self.on_rollout:
                self.on_rollout(tree, i)

    def _cost(self, tree: ReasoningTree, point: BranchPoint) -> float:
        """How many tokens a rollout from a place is expected to take.

        It is the mean number of tokens that were sampled after the place for the known trajectories through it.
        """
        before = tree.sampled_length(point.node)
        if point.offset is not None:
            before += point.offset - len(tree.nodes[point.node].step.token_ids)
        lengths = [
            tree.sampled_length(leaf.node) - before
            for leaf in tree.leaves
            if point.node == ROOT or point.node in tree.path(leaf.node)
        ]
        return sum(lengths) / len(lengths)


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine to its end, as `asyncio.run` does, also inside a running event loop, such as a notebook's.

    There it runs in a thread of its own, and the caller's loop stands still until it is done.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


@dataclass(slots=True)
class _Job:
    """A rollout under way that started right after the step of `node`.

    score: what the rule saw in its place, or None.
    round: 0 for the first B0 rollouts, then 1, 2, ….
    cost: how many tokens it is expected to take; 0 without a token budget.
    task: gives what `TreeSearch._rollout` returns.
    """

    node: Node
    score: float | None
    round: int
    cost: float
    task: "asyncio.Task[Answer]"


async def _all_or_none(jobs: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Runs all jobs. When one fails, the others are cancelled and awaited, so that none is left running."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        await asyncio.gather(*tasks)
    except BaseException:
        await _cancel(tasks)
        raise


async def _cancel(tasks: Sequence["asyncio.Task[Any]"]) -> None:
    """Cancels tasks and waits until they have ended, whatever they end with."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
