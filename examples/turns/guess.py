"""TRL's surface: an environment whose methods are tools. With `GRPOConfig` and `GRPOTrainer` it is a script of TRL's.

python guess.py                          # Qwen3-0.6B: takes a GPU
"""

import sys

from datasets import Dataset

from ibtpo import IBTPOConfig, IBTPOTrainer


class Guess:
    """Holds a number that the model is to find."""

    def reset(self, secret: int, **row: object) -> str:
        """Begins an answer; what it returns ends the question."""
        self.secret, self.guesses, self.found = secret, 0, False
        return " The number is from 1 to 100."

    def guess(self, number: int) -> str:
        """
        Guesses the number.

        Args:
            number: the guess

        Returns:
            Whether the number is higher or lower.
        """
        self.guesses += 1
        self.found = self.found or number == self.secret
        return "right" if number == self.secret else "higher" if number < self.secret else "lower"

    def get_reward(self) -> float:
        """1 for a number that was found at once, less for each guess more, 0 for one that was not."""
        return 1.0 / self.guesses if self.found else 0.0


def main(model: str = "Qwen/Qwen3-0.6B", output: str = "guess", steps: int = 100) -> IBTPOTrainer:
    """Trains a model with tools on 64 numbers."""
    question = [{"role": "user", "content": "Find my number with the tool guess."}]
    data = Dataset.from_list([{"prompt": question, "secret": 1 + 37 * i % 100} for i in range(64)])
    args = IBTPOConfig(
        output_dir=output, max_steps=steps, per_device_train_batch_size=12, num_generations=12,
        max_completion_length=512, max_tool_calling_iterations=8,
    )  # fmt: skip
    trainer = IBTPOTrainer(model=model, args=args, train_dataset=data, environment_factory=Guess)
    trainer.train()
    return trainer


if __name__ == "__main__":
    main(*sys.argv[1:2])
