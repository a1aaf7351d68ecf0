"""One rollout: from a place in a tree to a whole answer with its verdict, through all turns of its environment.

A rollout samples a turn. Where there is an environment, it answers the turn, its words become given tokens, and the
model goes on, until the environment has nothing to say, the turns or the tokens are used up, or a turn was cut off.
Without an environment an answer is one turn.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from ._seeds import stable_hash
from ._text import describe
from .engines import Completion, Engine, Sampling, check_completion
from .environments import Message
from .environments.branches import Branches, CannotRestoreError, Exchange, Key
from .environments.live import Live
from .environments.pool import Opening
from .errors import EngineError, IBTPOError
from .steps import Splitter, cut
from .tree import ReasoningTree, Step
from .verify import ENVIRONMENT, OWN_REWARD, PROMPT_TEXT, Verdict
from .verify.scorer import Scorer


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question as the engine and the verifier need it.

    id: a name that no other prompt of the same search has.
    ids: (T,) the prompt's token ids.
    text: the prompt's text.
    columns: what the verifier gets besides, such as the reference answer under "answer".
    conversational: whether the verifier gets a completion as TRL's list of messages, and not as a string.
    opening: how the answers begin, where an environment was asked for it, because it says the end of the prompt.
    """

    id: str
    ids: tuple[int, ...]
    text: str
    columns: dict[str, Any] = field(default_factory=dict)
    conversational: bool = False
    opening: Opening | None = None


class HowToSample(Protocol):
    """The options that a rollout needs; `search.SearchOptions` has them."""

    @property
    def sampling(self) -> Sampling: ...
    @property
    def max_completion_length(self) -> int: ...
    @property
    def retries(self) -> int: ...


@dataclass(slots=True)
class Place:
    """Where a rollout starts.

    prefix: the tokens that the engine continues, the prompt's included.
    after: (A,) those of them after the prompt, sampled and given ones.
    ends: for each observation among them, the tokens of `after` up to its end.
    """

    prefix: list[int]
    after: tuple[int, ...]
    ends: list[Key]


def place_at(tree: ReasoningTree, node: int) -> Place:
    """The place right after the step of a node."""
    prefix = tree.prefix_ids(node)
    after = tuple(prefix[len(tree.prompt_ids) :])
    ends, length = [], 0
    for n in tree.path(node):
        length += len(tree.nodes[n].step.token_ids)
        if tree.nodes[n].step.given:
            ends.append(after[:length])
    return Place(prefix, after, ends)


@dataclass(slots=True)
class Answer:
    """What a rollout brings home.

    parts: what was sampled and given, in order; a list of token ids is an observation.
    stop: "eos" or "length".
    pieces: (T,) the text of each token of all parts.
    row: what the verifier gets.
    verdict: what it says, or None where answers are verified together at the end.
    from_root: whether the rollout had to start at the root, because no environment was to be had at its place.
    """

    parts: list[Completion | list[int]]
    stop: str
    pieces: list[str]
    row: dict[str, Any]
    verdict: Verdict | None = None
    from_root: bool = False

    def steps(self, splitter: Splitter) -> list[Step]:
        """The steps of all parts: each turn is cut by itself, and each observation is one given step."""
        steps: list[Step] = []
        start = 0
        for part in self.parts:
            ids = part if isinstance(part, list) else part.token_ids
            pieces = self.pieces[start : start + len(ids)]
            if isinstance(part, list):
                steps.append(Step(tuple(ids), "".join(pieces), (), None, True))
            else:
                steps += cut(ids, part.logprobs, part.entropies, pieces, splitter)
            start += len(ids)
        return steps


class Rollouts:
    """Makes the rollouts of a search.

    engine: what samples.
    options: how, and how long.
    pieces: token ids of an answer -> the text of each, see `PieceDecoder`.
    scorer: has answers verified.
    together: whether all answers are verified at the end, and not each as it ends.

    The attribute `requests`, which lets as many requests at the engine through as `max_in_flight` says, must be set
    when a search begins.
    """

    def __init__(
        self,
        engine: Engine,
        options: HowToSample,
        pieces: Callable[[Sequence[int]], list[str]],
        scorer: Scorer,
        together: bool,
    ) -> None:
        self.requests = asyncio.Semaphore(1)
        self._held: dict[int, tuple[Answer, Branches, Live]] = {}
        self._engine = engine
        self._options = options
        self._pieces = pieces
        self._scorer = scorer
        self._together = together

    async def run(self, prompt: Prompt, place: Place, seed: int, branches: Branches | None) -> Answer:
        """Samples the rest of an answer and has the whole answer verified.

        seed: of the first turn; those of further turns follow from it.
        branches: the environments of the tree, or None.

        Where answers are verified together, and will be looked at with their environments, these are held until
        `release`. Raises `EngineError` when the rollout failed for good.
        """
        live: Live | None = None
        answer: Answer | None = None
        try:
            try:
                if branches is None:
                    answer = await self._one_turn(prompt, place, seed)
                else:
                    at, seed, history, live = await self._begin(prompt, place, seed, branches)
                    answer = await self._turns(prompt, at, seed, history, branches, live)
                    answer.from_root = at is not place
            finally:
                self._scorer.sampling -= 1
            if not self._together:
                answer.verdict = await self._scorer.one(answer.row)
            elif live is not None and branches is not None and ENVIRONMENT in answer.row:
                self._held[id(answer)] = (answer, branches, live)
                live = None
            return answer
        finally:
            if live is not None and branches is not None:
                await branches.end(live, reuse=answer is not None)

    async def release(self, answers: Sequence[Answer] | None = None) -> None:
        """Ends the environments that are held for some answers, or all that are held."""
        keys = list(self._held) if answers is None else [id(answer) for answer in answers]
        for _, branches, live in [self._held.pop(key) for key in keys if key in self._held]:
            await branches.end(live, reuse=answers is not None)

    async def _one_turn(self, prompt: Prompt, place: Place, seed: int) -> Answer:
        room = self._options.max_completion_length - len(place.after)
        completion = await self._generate(prompt, place.prefix, seed, room, self._options.sampling)
        ids = [*place.after, *completion.token_ids]
        pieces = self._pieces(ids)  # of the whole answer, since a token's text depends on what stands before it
        row = _row(prompt, ids, "".join(pieces))
        return Answer([completion], completion.stop_reason, pieces[len(place.after) :], row)

    async def _begin(
        self, prompt: Prompt, place: Place, seed: int, branches: Branches
    ) -> tuple[Place, int, list[Exchange], Live]:
        """An environment in the state of a place, and the exchanges before it; or of the root where that fails."""
        self._scorer.pause()  # for what it waits, an answer may hold until it is verified
        try:
            history = branches.history(place.ends)
            try:
                return place, seed, history, await branches.open(history)
            except CannotRestoreError:
                root = Place(list(prompt.ids), (), [])
                return root, stable_hash(seed, "from the root"), [], await branches.open([])
        except EngineError as e:
            raise EngineError(f"prompt {prompt.id!r}: {e}") from e
        finally:
            self._scorer.sampling += 1

    async def _turns(
        self, prompt: Prompt, place: Place, seed: int, history: list[Exchange], branches: Branches, live: Live
    ) -> Answer:
        """Samples turn after turn, until one is not answered."""
        environments, o = branches.environments, self._options
        after = list(place.after)
        start = len(history[-1].key) if history else 0  # where the present turn begins
        sampling = replace(o.sampling, stop_token_ids=environments.stop_token_ids(branches.name))
        parts: list[Completion | list[int]] = []
        message: Message | None = None  # the present turn, if it has been read
        stop = "length"  # as it is where an observation leaves no room for a turn
        turn = 0
        while (room := o.max_completion_length - len(after)) > 0:
            seed_of_turn = stable_hash(seed, turn) if turn else seed
            completion = await self._generate(prompt, [*prompt.ids, *after], seed_of_turn, room, sampling)
            turn += 1
            parts.append(completion)
            after += completion.token_ids
            stop, message = completion.stop_reason, None
            if start == len(after) or (stop != "eos" and not environments.reads_cut_turns):
                break
            if environments.max_turns is not None and len(history) >= environments.max_turns:
                break
            reply = await environments.reply(branches.name, live, after[start:], [*prompt.ids, *after[:start]])
            message = reply.message
            branches.calls += reply.calls
            branches.failures += reply.failures
            if reply.said is None:
                break
            given = environments.format.observation(reply.said)
            length = len(after) + len(given)
            context = self._engine.max_length
            if length > o.max_completion_length or (context is not None and len(prompt.ids) + length >= context):
                break  # as in TRL, the observation is dropped and the answer ends with its turn
            exchange = Exchange((*after, *given), start, len(after), reply.message, reply.said)
            history = [*history, exchange]
            branches.add(exchange)
            parts.append(given)
            after += given
            start, stop, message = len(after), "length", None
            await branches.keep(live, exchange.key)
        messages = [message for exchange in history for message in exchange.messages]
        if start < len(after):
            before = [*prompt.ids, *after[:start]]
            tools = environments.known_tools(branches.name, live)
            messages.append(message or environments.format.message(after[start:], before, tools))
        pieces = self._pieces(after)  # of the whole answer, since a token's text depends on what stands before it
        row = _row(prompt, after, "".join(pieces), messages)
        if (value := await environments.own_reward(live)) is not None:
            row[OWN_REWARD] = value
        if live.environment is not None and getattr(self._scorer.verifier, "takes_all", False):
            row[ENVIRONMENT] = live.environment
        return Answer(parts, stop, pieces[len(place.after) :], row)

    async def _generate(
        self, prompt: Prompt, prefix: list[int], seed: int, room: int, sampling: Sampling
    ) -> Completion:
        """Samples a continuation of at most `room` tokens; a request that fails is made again after a while.

        Only an `EngineError` is a failure that another try may mend. Anything else is a mistake in the engine.
        """
        o = self._options
        async with self.requests:
            for attempt in range(o.retries + 1):
                try:
                    completion = await self._engine.generate(prefix, sampling, seed, room)
                    check_completion(completion, room)
                    return _cut_off(completion, sampling.stop_token_ids)
                except EngineError as e:
                    if attempt == o.retries:
                        raise EngineError(f"prompt {prompt.id!r}: a rollout failed {attempt + 1} times: {e}") from e
                    await asyncio.sleep(0.1 * 4**attempt)
                except IBTPOError:
                    raise
                except Exception as e:  # the engine may be the user's own, and may raise anything
                    name = type(self._engine).__name__
                    raise EngineError(f"prompt {prompt.id!r}: engine {name} failed: {describe(e)}") from e
        raise AssertionError("unreachable: the loop returns or raises")


def _cut_off(completion: Completion, stop_token_ids: Sequence[int]) -> Completion:
    """The completion up to the first of some tokens, for engines that do not know `Sampling.stop_token_ids`."""
    ends = [i for i, token in enumerate(completion.token_ids) if token in stop_token_ids] if stop_token_ids else []
    if not ends:
        return completion
    n = ends[0] + 1
    entropies = None if completion.entropies is None else completion.entropies[:n]
    ids, logprobs = completion.token_ids[:n], completion.logprobs[:n]
    return replace(completion, token_ids=ids, logprobs=logprobs, entropies=entropies, stop_reason="eos")


def _row(prompt: Prompt, ids: list[int], text: str, messages: list[Message] | None = None) -> dict[str, Any]:
    """What the verifier gets of an answer.

    ids: (T,) its tokens, sampled and given ones.
    text: their text.
    messages: the turns and observations as a conversation; by default the text is the only turn.
    """
    conversation = messages if messages is not None else [{"role": "assistant", "content": text}]
    return {
        "prompt": prompt.text,
        **prompt.columns,
        "completion": conversation if prompt.conversational else text,
        "completion_ids": ids,
        PROMPT_TEXT: prompt.text,
    }
