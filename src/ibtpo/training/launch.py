"""A training run from settings to a finished run folder: loading, checks, evaluation, resume.

run = ibtpo.train({"model": "nano", "data": "walk:train", "eval_data": "walk:test"}, max_generated_tokens=100_000)
print(run.before["avg"], run.after["avg"])
model, tokenizer = run.load_model()
"""

import gc
import json
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, ConfigError, IBTPOError
from ..storage.run_folder import STATE_FILE, RunFolder


@dataclass(frozen=True)
class Run:
    """A finished run of `train`.

    path: the run folder: settings, metrics, trees, checkpoints, evaluations, and the trained model in `model`.
    settings: every option the run had, as `config.yaml` holds them.
    before, after: held-out accuracy before and after training, with its interval, as `ibtpo eval` reports it
        ("avg", "avg_ci", "pass", "k", "n", …); None where it was not measured.
    generated_tokens: over the whole run and all processes, earlier parts of a resumed run included.
    seconds: what this call took, loading and evaluation included.
    """

    path: Path
    settings: dict[str, Any]
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    generated_tokens: int
    seconds: float

    def load_model(self, **how: Any) -> tuple[Any, Any]:
        """The trained model, in eval mode, and its tokenizer. how: as for `ibtpo.load_model`, e.g. device."""
        from ..engines.models import load_model

        return load_model(str(self.path / "model"), **how)


@dataclass(frozen=True)
class Prepared:
    """A run that has been checked as far as can be without loading anything.

    settings: every option spelt out. run, config: the same as `RunSettings` and `IBTPOConfig`.
    adapter: `peft.LoraConfig` or None. resume: whether a run is gone on with; prolonged: whether to a later end.
    """

    settings: dict[str, Any]
    run: Any
    config: Any
    adapter: Any
    folder: RunFolder
    resume: bool
    prolonged: bool


def train(
    recipe: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    *,
    output: str | os.PathLike[str] | None = None,
    resume: bool | str | os.PathLike[str] = False,
    overwrite: bool = False,
    callbacks: Iterable[Any] = (),
    on_message: Callable[[str], None] | None = None,
    **overrides: Any,
) -> Run:
    """Trains a model as `ibtpo train` does, and prints nothing: progress goes to `callbacks` and `on_message`.

    recipe: the name of a shipped recipe, a path to a YAML file, or a mapping of settings; without one the embedded
        model on the embedded task.
    output: the run folder; by default `runs/NAME-METHOD-TIME`.
    resume: True to go on with the run in `output`, or the run folder itself. A run keeps its settings, but its end may
        be put off: max_generated_tokens, max_steps or num_train_epochs. "after" is measured anew then.
    overwrite: start again in an existing run folder. It is emptied only once the model is loaded and all is checked.
    callbacks: transformers' `TrainerCallback`s, told of each step and each log.
    on_message: called with a line now and then: what is trained, held-out accuracy, where a run goes on from.
    overrides: settings that go before the recipe's, e.g. learning_rate=1e-6; `ibtpo train --options` lists them.

    Works inside a running event loop, as in a notebook. Started by `accelerate launch`, every process gets the result.
    Raises `ConfigError` for options that are unknown or do not fit, `CheckpointError` for a run folder that cannot be
    gone on with, and what `load_model`, `load_problems` and the verifiers raise.
    """
    prepared = prepare(recipe, overrides, output=output, resume=resume, overwrite=overwrite)
    return _train(prepared, overwrite, list(callbacks), on_message)


def prepare(
    recipe: str | os.PathLike[str] | Mapping[str, Any] | None,
    overrides: Mapping[str, Any],
    *,
    output: str | os.PathLike[str] | None = None,
    resume: bool | str | os.PathLike[str] | None = False,
    overwrite: bool = False,
) -> Prepared:
    """Resolves and checks a run; touches no file. Arguments and errors: see `train`."""
    quiet_warnings()
    from . import settings as st
    from .adapter import lora_config

    prolonged = False
    if resume and overwrite:
        raise ConfigError("--resume goes on with a run and --overwrite deletes it: give one of them")
    if resume:
        where = output if resume is True else resume
        if where is None:
            raise ConfigError("--resume needs the run folder: --resume DIR")
        folder = RunFolder(Path(where))
        if recipe:
            named = "the recipe" if isinstance(recipe, Mapping) else recipe
            raise ConfigError(f"--resume takes the settings of {folder.path}; leave out {named}")
        try:
            before = st.resolve(folder.settings(), {})
        except ConfigError as e:
            raise CheckpointError(f"{folder.path / 'config.yaml'}: {e}") from e
        settings = st.prolong(before, dict(overrides), folder.path)
        prolonged = settings != before
    else:
        name, found = st.base_settings(recipe, overrides)
        settings = st.resolve(found, dict(overrides))
        now = same_everywhere(time.strftime("%Y%m%d-%H%M%S"))
        folder = RunFolder(Path(output) if output else Path("runs") / f"{name}-{settings['method']}-{now}")
    run, trainer_settings = st.split(settings)
    config = st.make_config(run, trainer_settings, folder.path)
    return Prepared(st.resolved(settings, config), run, config, lora_config(run), folder, bool(resume), prolonged)


def quiet_warnings() -> None:
    """TRL's own defaults set off transformers' deprecation warnings: nothing the user can act on."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    warnings.filterwarnings("ignore", message=".*pin_memory.*")


def same_everywhere(value: Any) -> Any:
    """The main process's value, in every process."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return value
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    PartialState()
    return broadcast_object_list([value])[0]


def _train(prepared: Prepared, overwrite: bool, callbacks: list[Any], on_message: Callable[[str], None] | None) -> Run:
    import torch
    import transformers
    from accelerate import PartialState
    from datasets import Dataset
    from transformers import PrinterCallback
    from transformers.integrations import is_deepspeed_zero3_enabled

    from ..engines.models import eos_token_ids, load_model
    from ..storage.env import collect_env
    from .adapter import check_adapter
    from .callbacks import EveryTokens, MetricsFile
    from .held_out import HeldOut
    from .trackers import check_installed, files_in
    from .trainer import IBTPOTrainer

    run, config, folder, resume = prepared.run, prepared.config, prepared.folder, prepared.resume
    check_installed(config.report_to)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if run.threads:
        torch.set_num_threads(run.threads)
    logging.getLogger("trl").setLevel(logging.ERROR)
    state = PartialState()
    began = time.perf_counter()
    quiet = on_message is None and not callbacks  # nobody listens, so trackers and TRL's tables print nothing either

    def say(text: str) -> None:
        if on_message is not None and state.is_main_process:
            on_message(text)

    if resume:
        folder.read_eval(), folder.read_evals()  # raise now rather than after training
    elif state.is_main_process:
        folder.check_free(overwrite)

    model, tokenizer = load_model(run.model, dtype=run.dtype, attention=run.attn_implementation)
    if run.attn_implementation == "flex_attention" and model.device.type == "cpu":
        raise ConfigError("flex_attention cannot train on a CPU: PyTorch has no backward for it there")
    model.generation_config.eos_token_id = eos_token_ids(model, tokenizer)  # a chat model's end of turn, too
    rows, held_out, verifiers = _problems(run, model, tokenizer)
    if prepared.adapter is not None:
        check_adapter(prepared.adapter, run.model)
    checkpoint = same_everywhere(folder.last_checkpoint() if resume and state.is_main_process else None)
    if prepared.prolonged and checkpoint is None and "after" in folder.read_eval():
        raise CheckpointError(
            f"{folder.path} is finished and its checkpoints are gone (`ibtpo compare training` deletes them), so it "
            f"cannot be trained further; start a run with another --output"
        )
    what = f"{prepared.settings['method']}: {run.model} on {run.data} ({len(rows)} problems)"
    say(f"{what}, {config.num_generations} answers a question, run folder {folder.path}")
    if state.is_main_process:  # only now: what can fail before must not cost an older run
        if not resume:
            folder.create(prepared.settings, collect_env(), overwrite)
        elif prepared.prolonged:
            folder.reopen(prepared.settings)
    state.wait_for_everyone()
    try:
        with files_in(folder.path, config.report_to, quiet):
            trainer = IBTPOTrainer(
                model, verifiers, config, Dataset.from_list(rows), processing_class=tokenizer,
                callbacks=[MetricsFile(folder.metrics), *callbacks],
                **({} if prepared.adapter is None else {"peft_config": prepared.adapter}),
            )  # fmt: skip
    except (ValueError, TypeError, ImportError) as e:
        if isinstance(e, IBTPOError):
            raise
        raise ConfigError(f"the trainer refuses these settings: {e}") from e
    trainer.remove_callback(PrinterCallback)
    if held_out and is_deepspeed_zero3_enabled():
        raise ConfigError("evaluation needs whole weights in one process: with ZeRO-3 set eval_data none")
    accuracy = HeldOut(trainer, held_out, run, folder, say)
    if run.eval_before:
        accuracy.measure("before")
    if resume:
        say("going on " + (f"from {checkpoint.name}" if checkpoint else "from the start: no checkpoint was finished"))
    step = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
    if resume and held_out and state.is_main_process:
        folder.add_evals(step + 1)  # without rows: what comes after the checkpoint is measured again
    limit = config.max_generated_tokens
    if checkpoint and limit and json.loads((checkpoint / STATE_FILE).read_text())["generated_tokens"] >= limit:
        trainer._load_from_checkpoint(str(checkpoint))  # all tokens are spent: nothing is left to train
        trainer.load_counts(checkpoint / STATE_FILE)
        trainer.state.global_step = step
    else:
        if run.eval_every_tokens:
            trainer.add_callback(EveryTokens(trainer, run.eval_every_tokens, accuracy.measure))
        gc.freeze()  # or each full collection walks all that was imported, a third of a second
        with files_in(folder.path, config.report_to, quiet):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    trainer.save_model(str(folder.path / "model"))
    accuracy.measure("after")
    trainer.verifier.close()
    found = folder.read_eval()
    seconds = time.perf_counter() - began
    settings = prepared.settings
    return Run(folder.path, settings, found.get("before"), found.get("after"), trainer.generated_tokens, seconds)


def _problems(run: Any, model: Any, tokenizer: Any) -> tuple[list[dict[str, Any]], list[Any], list[str]]:
    """The rows to train on, the held-out problems, and the names of the verifiers for both."""
    from ..tasks.problems import load_problems, verifier_for
    from ..tasks.prompts import check_prompt_length, encode_prompt, trl_prompt

    how: dict[str, Any] = {
        "question_column": run.question_column, "answer_column": run.answer_column, "instruction": run.instruction,
        "require_answer": run.needs_answers,
    }  # fmt: skip
    problems = load_problems(run.data, split=run.data_split, limit=run.limit, **how)
    held_out = load_problems(run.eval_data, split="test", limit=run.eval_limit, **how) if run.eval_data else []
    kinds = {verifier_for(p) for p in (*problems[:1], *held_out[:1])}
    if not run.verifiers and len(kinds) > 1:
        raise ConfigError(
            f"data {run.data} and eval_data {run.eval_data} need different verifiers; choose eval_data to match"
        )
    names = {name: None for p in problems for name in p.columns}  # a data set's columns are those of its first row
    rows = [{**names, **p.columns, "id": p.id, "prompt": trl_prompt(p, tokenizer, run.system_prompt)} for p in problems]
    context = getattr(model.config, "max_position_embeddings", None)
    for p in [*problems, *held_out]:
        if context:
            check_prompt_length(p.id, len(encode_prompt(p, tokenizer, system_prompt=run.system_prompt)[1]), context)
    if len(rows) < run.prompts_per_step:
        raise ConfigError(
            f"a step takes prompts_per_step = {run.prompts_per_step} questions but {run.data} gives {len(rows)}; use "
            f"more of it (limit) or fewer a step"
        )
    return rows, held_out, run.verifiers or [kinds.pop()]
