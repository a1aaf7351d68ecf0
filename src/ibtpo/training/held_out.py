"""Held-out accuracy of a run: before training, now and then while it trains, and after it."""

from collections.abc import Callable, Sequence
from typing import Any

from .._text import percent
from ..storage.run_folder import RunFolder
from ..tasks.problems import Problem
from .processes import same_everywhere
from .settings import RunSettings


class HeldOut:
    """Measures the model in training on problems it does not train on, and puts the results into the run folder.

    Every process must call `measure` and answers its share of the problems; the main one writes down the results. They
    do not depend on the number of processes, but for rounding.

    trainer: an `IBTPOTrainer`; its present weights, verifier and sampling options are used.
    problems: the held-out problems; without any, nothing is ever measured.
    run: the settings of the run: how many answers a problem (`eval_k`), and the system prompt.
    folder: the run folder; `evals.jsonl` gets a row for each measurement, `eval.json` those before and after training.
    say: called with a line of text about each result, in the main process.
    """

    def __init__(
        self,
        trainer: Any,
        problems: Sequence[Problem],
        run: RunSettings,
        folder: RunFolder,
        say: Callable[[str], None],
    ) -> None:
        self.trainer, self.problems, self.run, self.folder, self.say = trainer, problems, run, folder, say

    def measure(self, name: str = "") -> None:
        """Measures accuracy, unless the run folder already holds it for this step, as that of a resumed run may.

        name: "before" or "after" training; empty for a measurement in between, which `eval.json` does not list.
        """
        trainer, folder = self.trainer, self.folder
        step, tokens = trainer.state.global_step, trainer.generated_tokens
        main = trainer.accelerator.is_main_process
        if not self.problems or same_everywhere(main and self._is_measured(name, step)):
            return
        result, grades = self._evaluate()
        if main:
            so_far = {"step": step, "generated_tokens": tokens, "seconds": round(trainer.timer.trained, 3)}
            folder.add_evals(step, {**so_far, **result, "grades": grades})
            if name:
                folder.write_eval(name, result)
            when = f"{name} training" if name else f"after {tokens} tokens"
            self.say(f"held-out accuracy {when}: {percent(result['avg'], result['avg_ci'])}")
        trainer.accelerator.wait_for_everyone()

    def _is_measured(self, name: str, step: int) -> bool:
        """Whether the run folder holds a row of this step and, for a measurement with a name, a result by that name."""
        if name and name not in self.folder.read_eval():
            return False
        return any(row["step"] == step for row in self.folder.read_evals())

    def _evaluate(self) -> tuple[dict[str, Any], dict[str, float | None]]:
        """The result as `eval.json` holds it, and each problem's mean grade by its id, None where none was graded."""
        from accelerate.utils import gather_object

        from ..evaluation.evaluate import Answer, evaluate, summarise_answers
        from ..search import Prompt, run_async
        from ..tasks.prompts import encode_prompt
        from .rollouts import policy_engine
        from .sharding import whole_model

        trainer, config = self.trainer, self.trainer.args
        share = self.problems[trainer.accelerator.process_index :: trainer.accelerator.num_processes]
        prompts = []
        environments = trainer._turns.environments
        for p, opening, rendering in trainer._turns.begin(trainer, share):
            text, ids = encode_prompt(
                p, trainer.processing_class, system_prompt=self.run.system_prompt,
                chat_template_kwargs=config.chat_template_kwargs, rendering=rendering,
            )  # fmt: skip
            chat = environments is not None and environments.is_chat
            prompts.append(Prompt(p.id, tuple(ids), text, dict(p.columns), chat, opening))
        options = config.search_options(config.seed)
        answers: list[Answer] = []
        with whole_model(trainer) as model:
            engine = policy_engine(trainer, model)
            engine.reset_cache()  # an engine of the user's own may have been made before, with older weights
            if prompts:
                result = run_async(
                    evaluate(
                        engine, trainer.verifier, prompts, k=self.run.eval_k, sampling=options.sampling,
                        max_completion_length=options.max_completion_length, seed=config.seed, decode=trainer._decode,
                        environments=environments,
                    )
                )  # fmt: skip
                answers = result.answers
            engine.reset_cache()
        found: dict[str, list[Answer]] = {p.id: [] for p in self.problems}
        for answer in gather_object(answers):
            found[answer.id].append(answer)
        result = summarise_answers(list(found.values()), self.run.eval_k, seed=config.seed)
        grades = {id: [a.grade for a in given if a.grade is not None] for id, given in found.items()}
        return result.to_json(), {id: sum(g) / len(g) if g else None for id, g in grades.items()}
