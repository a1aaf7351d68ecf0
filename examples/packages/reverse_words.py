"""A taskset of the package verifiers, as its authors write them: `--data verifiers:reverse_words`."""

import verifiers.v1 as vf

__all__ = ["ReverseWords"]


class WordData(vf.TaskData):
    answer: str


class ReverseWord(vf.Task[WordData]):
    @vf.reward
    async def exact(self, task: WordData, trace: vf.Trace) -> float:
        return float(trace.last_reply == task.answer)

    @vf.reward(weight=0.5)
    async def brief(self, trace: vf.Trace) -> float:
        return float(len(trace.last_reply) < 10)


class ReverseWords(vf.Taskset[ReverseWord]):
    def load(self):
        for word in ("tree", "branch", "leaf"):
            data = WordData(
                prompt=f"Reverse the word {word}.", system_prompt="Give the answer only.", answer=word[::-1]
            )
            yield ReverseWord(data, self.config.task)
