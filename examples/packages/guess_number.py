"""A taskset of the package verifiers that takes several turns: `--data verifiers:guess_number`.

Its environment plays the user, who says whether a guess is too low or too high.
"""

import verifiers.v1 as vf

__all__ = ["GuessNumber", "Hints"]


# --8<-- [start:environment]
class NumberData(vf.TaskData):
    number: int


class Number(vf.Task[NumberData]):
    @vf.reward
    async def found(self, task: NumberData, trace: vf.Trace) -> float:
        """1 for a number that was found at once, less for each guess more."""
        return 1 / trace.num_turns if trace.last_reply == str(task.number) else 0.0


class Hints(vf.SingleAgentEnv):
    async def run(self, task: Number, agents: vf.Agents) -> None:
        async with agents.agent.interaction(task) as conversation:
            guess = await conversation.turn()
            while not guess.terminated and guess.last_reply != str(task.data.number):
                low = guess.last_reply.isdigit() and int(guess.last_reply) < task.data.number
                guess = await conversation.turn("higher" if low else "lower")


# --8<-- [end:environment]


class GuessNumber(vf.Taskset[Number]):
    def load(self):
        for number in (3, 5, 8):
            prompt = "Guess my number from 1 to 9. Say the number only."
            yield Number(NumberData(prompt=prompt, number=number), self.config.task)
