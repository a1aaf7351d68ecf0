"""A taskset of the package verifiers with a tool: `--data verifiers:look_up`."""

import verifiers.v1 as vf

__all__ = ["LookUp"]

POPULATION = {"Vaduz": "5696", "Roseau": "14725", "Funafuti": "6320"}


class Atlas(vf.Toolset[vf.ToolsetConfig]):
    @vf.tool
    def population(self, city: str) -> str:
        """Says how many people live in a city."""
        return POPULATION.get(city, "no such city")


class CityData(vf.TaskData):
    answer: str


class City(vf.Task[CityData]):
    @classmethod
    def toolsets(cls, config: vf.TaskConfig) -> list[vf.Toolset]:
        return [Atlas(vf.ToolsetConfig())]

    @vf.reward
    async def right(self, task: CityData, trace: vf.Trace) -> float:
        return float(trace.last_reply == task.answer)


class LookUp(vf.Taskset[City]):
    def load(self):
        for city, answer in POPULATION.items():
            prompt = f"How many people live in {city}? Look it up, then say the number only."
            yield City(CityData(prompt=prompt, answer=answer), self.config.task)


if __name__ == "__main__":  # verifiers starts a server of the tools by the module's name
    Atlas.run()
