"""Environments for the scripted model of helpers.searches, whose words depend on all that was said before."""

import asyncio
import itertools
import random
import threading
import time
from typing import Any

from ibtpo.environments.formats import TextFormat
from ibtpo.environments.pool import Environments

from .searches import VOCABULARY, decode

IDS = {text: token for token, text in VOCABULARY.items() if text}


def encode(text: str) -> list[int]:
    """The token ids of a text of the scripted model's words, which have a space before them."""
    return [IDS[f" {word}"] for word in text.split()]


FORMAT = TextFormat(encode, decode)


def environments(factory: Any, **kwargs: Any) -> Environments:
    """Environments of a factory, for plain prompts of the scripted model."""
    return Environments(factory, format=FORMAT, **kwargs)


class Tally:
    """Counts the words a, and says how many there were so far: " b" or " b c"; after three turns it is silent.

    The question's number is added, so that environments of different questions say different things.
    """

    made = 0
    restores = "replay"

    def __init__(self) -> None:
        type(self).made += 1
        self.closed = 0

    def reset(self, answer: int = 0, **row: Any) -> None:
        """Forgets all turns."""
        self.count, self.turns = int(answer), 0

    def respond(self, message: dict[str, Any]) -> str | None:
        """Says whether the count is odd."""
        self.turns += 1
        self.count += message["content"].count("a")
        if self.turns > 3:
            return None
        return " b c" if self.count % 2 else " b"

    def get_reward(self) -> float:
        """1 for an even count."""
        return float(self.count % 2 == 0)


class ByCopy(Tally):
    """The same, copied."""

    restores = None  # type: ignore[assignment]


class ByFork(Tally):
    """The same with a fork, and with `close`, which a copy must not share."""

    restores = None  # type: ignore[assignment]
    alive = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).alive += 1

    def fork(self) -> "ByFork":
        """Another one in the same state."""
        twin = type(self)()
        twin.count, twin.turns = self.count, self.turns
        return twin

    def close(self) -> None:
        """Counts the environments that were closed."""
        assert not self.closed
        self.closed = 1
        type(self).alive -= 1


class Async(Tally):
    """The same with async methods."""

    async def reset(self, answer: int = 0, **row: Any) -> None:  # type: ignore[override]
        """Forgets all turns."""
        await asyncio.sleep(0)
        super().reset(answer)

    async def respond(self, message: dict[str, Any]) -> str | None:  # type: ignore[override]
        """Says whether the count is odd."""
        await asyncio.sleep(0)
        return super().respond(message)


class Moody(Tally):
    """Says something else each time, so that it cannot be replayed."""

    spoken = itertools.count(1)  # never the same number twice, whichever threads ask

    def respond(self, message: dict[str, Any]) -> str | None:
        """The next binary number, c for 0 and b for 1."""
        self.turns += 1
        digits = f"{next(self.spoken):b}"
        return "".join(" b" if digit == "1" else " c" for digit in digits) if self.turns < 3 else None


class Hanging(Tally):
    """Answers, raises or hangs by chance, in `reset` and in `respond`; `alive` counts those that nobody closed."""

    restores = None  # type: ignore[assignment]
    alive = 0
    chance = random.Random(0)
    lock = threading.Lock()
    hang = 0.3  # seconds

    def __init__(self) -> None:
        super().__init__()
        with self.lock:
            type(self).alive += 1

    def _mood(self, rate: float = 0.1) -> None:
        with self.lock:
            x = self.chance.random() / rate
        if x < 0.5:
            time.sleep(self.hang)
        elif x < 1:
            raise RuntimeError("no mood")

    def reset(self, answer: int = 0, **row: Any) -> None:
        """Fails seldom, since three failures in a row end a search."""
        self._mood(0.01)
        super().reset(answer)

    def respond(self, message: dict[str, Any]) -> str | None:
        """Fails at times."""
        self._mood()
        return super().respond(message)

    def fork(self) -> "Hanging":
        """Another one in the same state."""
        self._mood()
        twin = type(self)()
        twin.count, twin.turns = self.count, self.turns
        return twin

    def close(self) -> None:
        """Counts the environments that were closed."""
        with self.lock:
            type(self).alive -= 1
