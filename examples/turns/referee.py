"""An environment that answers turns itself, for a model without a chat template: the embedded one, on number walks.

    ibtpo sample --model nano --data walk --limit 4 --environment referee:Referee --max-completion-length 120 \
        --output turns.jsonl
    ibtpo view turns.jsonl
"""

import re


class Referee:
    """Reads an answer that did not reach its number, and has the model try once more."""

    def reset(self, prompt: str, answer: str, **row: object) -> None:
        """Begins an answer."""
        self.prompt, self.answer, self.tries, self.right = prompt, answer, 0, False

    def respond(self, message: dict) -> str | None:
        """Ends the answer where it is right or the second one, else puts the question again."""
        self.tries += 1
        numbers = re.findall(r"= (-?\d+)\.", message["content"])
        self.right = bool(numbers) and numbers[-1] == self.answer
        return None if self.right or self.tries == 2 else self.prompt

    def get_reward(self) -> float:
        """1 for a right answer, half as much at the second try."""
        return self.right / self.tries
