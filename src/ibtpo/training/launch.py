"""A training run from settings to a finished run folder: checks, loading, training, evaluation, resume.

run = ibtpo.train({"model": "nano", "data": "walk:train", "eval_data": "walk:test"}, max_generated_tokens=100_000)
print(run.before["avg"], run.after["avg"])
model, tokenizer = run.load_model()

`train` is what `ibtpo train` calls. A run with several processes is started by `accelerate launch`: each process then
runs this code from its beginning, and what only one of them may do is guarded by `is_main_process`.
"""

import gc
import json
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, ConfigError, IBTPOError
from ..storage.run_folder import STATE_FILE, RunFolder
from .processes import alone_unless_launched, check_process_count, same_everywhere


@dataclass(frozen=True)
class Run:
    """A finished run of `train`.

    path: the run folder: settings, metrics, trees, checkpoints, evaluations, and the trained model in `model`.
    settings: every option the run had, as `config.yaml` holds them.
    before: held-out accuracy before training, with its interval, as `ibtpo eval` reports it ("avg", "avg_ci", "pass",
        "k", "n", …); None where it was not measured.
    after: the same after training.
    generated_tokens: tokens sampled for trees over the whole run and all processes, earlier parts of a resumed run
        included; tokens of evaluations are not counted.
    seconds: what this call took, loading and evaluation included, earlier parts of a resumed run not.
    """

    path: Path
    settings: dict[str, Any]
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    generated_tokens: int
    seconds: float

    def load_model(self, **how: Any) -> tuple[Any, Any]:
        """Loads the trained model, in eval mode, and its tokenizer from the folder `model`.

        how: keyword arguments of `ibtpo.load_model`, such as device.
        """
        from ..engines.models import load_model

        return load_model(str(self.path / "model"), **how)


@dataclass(frozen=True)
class Prepared:
    """A run that has been checked as far as can be without loading the model or the data.

    settings: every option spelt out, as `config.yaml` holds them.
    run: the part of the settings that is the command's own, a `RunSettings`.
    config: the part that is the trainer's, an `IBTPOConfig`.
    adapter: a `peft.LoraConfig`, or None when all weights are trained.
    folder: the run folder, which need not exist yet.
    resume: whether a run that is there is continued.
    overwrite: whether a run that is there is deleted.
    prolonged: whether it is continued to a later end than it had.
    """

    settings: dict[str, Any]
    run: Any
    config: Any
    adapter: Any
    folder: RunFolder
    resume: bool
    overwrite: bool
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
    """Trains a model as `ibtpo train` does, and leaves everything in a run folder. Prints nothing by itself.

    recipe: the name of a shipped recipe, a path to a YAML file, or a mapping of settings; without one the embedded
        model on the embedded task.
    output: the run folder; by default `runs/NAME-METHOD-TIME`.
    resume: True to go on with the run in `output`, or the run folder itself. A run keeps its settings; only its end
        may be put off, by max_generated_tokens, max_steps or num_train_epochs.
    overwrite: start again in an existing run folder. It is emptied only once everything is loaded and the trainer has
        accepted the settings.
    callbacks: transformers' `TrainerCallback`s, called at each step and each log.
    on_message: called with a line of text now and then: what is trained, held-out accuracy, where a run goes on from.
    overrides: settings that take the place of the recipe's, e.g. learning_rate=1e-6; `ibtpo train --options` lists
        them.

    Returns the finished run: the trained model is in its folder, and held-out accuracy is measured where the settings
    name held-out problems.

    Resuming goes on from the last checkpoint that is whole, or from the start if there is none and the run is not
    finished. With checkpoints by steps, the default, one is written at the end of a run, too. The steps after the last
    checkpoint are trained once more, with the same questions and the same seeds (on a CPU in float32 to the same
    losses), and their metrics and held-out results take the place of the old ones. Nothing up to the checkpoint is
    repeated, held-out results included. When the end is put off, "after" is measured anew, and `evals.jsonl` keeps the
    earlier result.

    Started by `accelerate launch`, every process makes this call with the same arguments, trains its share of the
    questions, answers its share of the held-out problems, calls its own `callbacks` and gets the same result. The main
    process alone writes settings, metrics and evaluations, and calls `on_message`. The run folder must be on a file
    system that all of them see.

    Without a launcher a process trains alone, whatever WORLD_SIZE a scheduler exported. A run folder takes one run at a
    time: another that would go on with it or delete it is refused.

    Ctrl-C, SIGTERM, SIGUSR1 and SIGHUP end the training after the step that is under way, with a checkpoint; then
    `KeyboardInterrupt` is raised. Outside of training, and at a second Ctrl-C, it is raised at once.

    Works inside a running event loop, as in a notebook. While it runs, transformers and TRL are quiet, and PyTorch has
    `threads` threads if that is set; afterwards all is as it was. Without `callbacks` and `on_message`, trackers and
    TRL's tables are kept from printing, too.

    Raises `ConfigError` for options that are unknown or do not fit, `CheckpointError` for a run folder that cannot be
    continued, `DependencyError` where PEFT or a tracker is needed and missing, `VerifierError` when all answers of a
    step fail in the verifier, and what `load_model`, `load_problems` and the engines raise.
    """
    with quiet_libraries(), alone_unless_launched(lambda text: warnings.warn(text, stacklevel=5)):
        prepared = prepare(recipe, overrides, output=output, resume=resume, overwrite=overwrite)
        return train_prepared(prepared, callbacks, on_message)


def prepare(
    recipe: str | os.PathLike[str] | Mapping[str, Any] | None,
    overrides: Mapping[str, Any],
    *,
    output: str | os.PathLike[str] | None = None,
    resume: bool | str | os.PathLike[str] | None = False,
    overwrite: bool = False,
) -> Prepared:
    """Resolves and checks the settings of a run. Reads the recipe, or the run to resume, and writes nothing.

    recipe, output, resume, overwrite: see `train`.
    overrides: the settings that `train` takes as keyword arguments.

    Raises the `ConfigError`, `CheckpointError` and `DependencyError` of `train`, as far as settings alone can tell.
    """
    from . import settings as st
    from .adapter import lora_config

    prolonged = False
    if resume and overwrite:
        raise ConfigError("--resume goes on with a run and --overwrite deletes it: give one of them")
    if resume:
        where = output if resume is True else resume
        if where is None:
            raise ConfigError("--resume needs the run folder: --resume DIR (in Python resume=DIR)")
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
    adapter = lora_config(run)
    return Prepared(st.resolved(settings, config), run, config, adapter, folder, bool(resume), overwrite, prolonged)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keeps transformers and TRL from printing while the block runs, and then restores what they were set to.

    PyTorch's number of threads, which training may set, is restored, too.
    """
    import torch
    import trl  # noqa: F401  its import must not come after its logger has been set
    from transformers.utils import logging as hf

    trl_logger = logging.getLogger("trl")
    level, verbosity, bars, threads = (
        trl_logger.level, hf.get_verbosity(), hf.is_progress_bar_enabled(), torch.get_num_threads(),
    )  # fmt: skip
    with warnings.catch_warnings():
        try:
            quiet_warnings()
            hf.set_verbosity_error()
            hf.disable_progress_bar()
            trl_logger.setLevel(logging.ERROR)
            yield
        finally:
            trl_logger.setLevel(level)
            hf.set_verbosity(verbosity)
            if bars:
                hf.enable_progress_bar()
            torch.set_num_threads(threads)


def quiet_warnings() -> None:
    """Hides warnings that no user can act on: TRL's own defaults set off deprecation warnings of transformers."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    warnings.filterwarnings("ignore", message=".*pin_memory.*")


def train_prepared(
    prepared: Prepared, callbacks: Iterable[Any] = (), on_message: Callable[[str], None] | None = None
) -> Run:
    """Trains as `train` does, with settings that `prepare` has checked. Call it inside `quiet_libraries`.

    callbacks, on_message: see `train`.

    Raises what `train` raises.
    """
    with ExitStack() as held:
        return _train(prepared, list(callbacks), on_message, held)


def _train(prepared: Prepared, callbacks: list[Any], on_message: Callable[[str], None] | None, held: ExitStack) -> Run:
    """The same. held: gets the lock of the run folder."""
    import torch
    from accelerate import PartialState
    from transformers import PrinterCallback
    from transformers.integrations import is_deepspeed_zero3_enabled

    from ..branching import ADAPTIVE
    from ..engines.models import eos_token_ids, load_in_place
    from ..storage.env import collect_env
    from .adapter import check_adapter
    from .callbacks import LastCheckpoint, MetricsFile
    from .held_out import HeldOut
    from .rows import python_rows
    from .stopping import StopSignals
    from .trackers import check_installed, files_in
    from .trainer import IBTPOTrainer

    # Order matters: what can fail comes, as far as possible, before the run folder is emptied or changed.
    run, config, folder, resume = prepared.run, prepared.config, prepared.folder, prepared.resume
    check_installed(config.report_to)
    if run.threads:
        torch.set_num_threads(run.threads)
    state = PartialState()
    check_process_count(state.num_processes)
    began = time.perf_counter()
    quiet = on_message is None and not callbacks  # nobody listens, so trackers and TRL's tables print nothing either

    def say(text: str) -> None:
        if on_message is not None and state.is_main_process:
            on_message(text)

    locked = state.is_main_process and (resume or prepared.overwrite) and folder.path.is_dir()
    if locked:
        held.enter_context(folder.locked())  # a run that is going on must be neither trained twice nor deleted
    if resume:
        folder.read_eval(), folder.read_evals()  # a broken file raises now rather than after training
    elif state.is_main_process:
        folder.check_free(prepared.overwrite)

    # The trainer moves it, whole or spread over the processes: here each would put a whole copy on its GPU.
    model, tokenizer = load_in_place(run.model, dtype=run.dtype, attention=run.attn_implementation)
    if run.attn_implementation == "flex_attention" and state.device.type == "cpu":
        raise ConfigError("flex_attention cannot train on a CPU: PyTorch has no backward for it there")
    # A chat model's end of turn ends an answer, too, though its generation config may not say so.
    model.generation_config.eos_token_id = eos_token_ids(model, tokenizer)
    rows, held_out, verifiers = _problems(run, model, tokenizer, config)
    if prepared.adapter is not None and not is_deepspeed_zero3_enabled():  # it spreads models without weights, too
        check_adapter(prepared.adapter, run.model)
    checkpoint = same_everywhere(folder.last_checkpoint() if resume and state.is_main_process else None)
    if resume and checkpoint is None and _is_finished(prepared, measured=bool(held_out)):
        raise CheckpointError(
            f"{folder.path} is finished and its checkpoints are gone or were never written (`ibtpo compare training` "
            f"deletes them, save_strategy no writes none), so there is nothing to go on from; train anew with another "
            f"--output (in Python output=…)"
        )
    what = f"{prepared.settings['method']}: {run.model} on {run.data} ({len(rows)} problems)"
    most = "up to " if config.branching in ADAPTIVE else ""
    say(f"{what}, {most}{config.num_generations} answers a question, run folder {folder.path}")
    if state.is_main_process:
        folder.make()  # the trainer makes its folder of checkpoints inside
        if not locked:
            held.enter_context(folder.locked())
    state.wait_for_everyone()
    try:
        with files_in(folder.path, config.report_to, quiet):
            trainer = IBTPOTrainer(
                model, verifiers, config, python_rows(rows), processing_class=tokenizer,
                callbacks=[MetricsFile(folder.metrics), *callbacks, LastCheckpoint()],
                **({} if prepared.adapter is None else {"peft_config": prepared.adapter}),
            )  # fmt: skip
    except (ValueError, TypeError, ImportError) as e:
        if isinstance(e, IBTPOError):
            raise
        raise ConfigError(f"the trainer refuses these settings: {e}") from e
    trainer.remove_callback(PrinterCallback)
    try:
        state.wait_for_everyone()  # no process makes its trainer, and with it folders, while an older run is deleted
        if state.is_main_process:  # only now is a run deleted or changed: an error before must not cost it
            if not resume:
                folder.create(prepared.settings, collect_env(), prepared.overwrite)
            elif prepared.prolonged:
                folder.reopen(prepared.settings)
        state.wait_for_everyone()
        stop = StopSignals(trainer, tell=not quiet)
        with stop.handled():
            accuracy = HeldOut(trainer, held_out, run, folder, say)
            _run(trainer, accuracy, prepared, checkpoint, say, stop, quiet)
    finally:
        trainer.verifier.close()
        trainer._turns.close()  # the last measurement has made environments again
    found = folder.read_eval()
    seconds = time.perf_counter() - began
    settings = prepared.settings
    return Run(folder.path, settings, found.get("before"), found.get("after"), trainer.generated_tokens, seconds)


def _run(
    trainer: Any,
    accuracy: Any,
    prepared: Prepared,
    checkpoint: Path | None,
    say: Callable[[str], None],
    stop: Any,
    quiet: bool,
) -> None:
    """Measures, trains from `checkpoint` to the end, saves the model and measures again, unless `stop` raises."""
    from .callbacks import AtStart, EveryTokens
    from .saving import whole_folder
    from .sharding import load_weights
    from .trackers import files_in

    run, config, folder = prepared.run, prepared.config, prepared.folder
    if prepared.resume:
        say("going on " + (f"from {checkpoint.name}" if checkpoint else "from the start: no checkpoint was finished"))
    step = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
    if prepared.resume and accuracy.problems and trainer.accelerator.is_main_process:
        folder.add_evals(step + 1)  # drops the rows after the checkpoint, whose steps will be measured again
    if checkpoint and _is_at_end(config, checkpoint, step):
        # `trainer.train` would train one more step before it looked at tokens or steps.
        load_weights(trainer, str(checkpoint))
        trainer.load_counts(checkpoint / STATE_FILE)
        trainer.state.global_step = step
    else:
        if run.eval_before and not checkpoint:  # with one, training had begun, so it was measured
            # First of all: the screen shows the result, and its clock and the timer start afterwards.
            trainer.callback_handler.callbacks.insert(0, AtStart(lambda: accuracy.measure("before")))
        if run.eval_every_tokens:
            trainer.add_callback(EveryTokens(trainer, run.eval_every_tokens, accuracy.measure))
        trainer.add_callback(stop)  # after the measurement, which a resumed run would not make up for
        gc.freeze()  # else each full collection walks all objects made by the imports, a third of a second
        try:
            with files_in(folder.path, config.report_to, quiet):
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        finally:
            gc.unfreeze()  # a notebook's next run must not find this one's model beyond the collector's reach
        stop.check()
    place = folder.path / "model"
    main = trainer.accelerator.is_main_process
    with whole_folder(place) if main else nullcontext(place) as model:  # the main process alone writes into it
        trainer.save_model(str(model))
        trainer.accelerator.wait_for_everyone()
    accuracy.measure("after")


def _is_finished(prepared: Prepared, measured: bool) -> bool:
    """Whether the run to go on with has come to its end, so that training it from the start would replace its result.

    measured: whether the run measures held-out accuracy. If so, a run that has a model but no result was stopped while
        it measured; it is not finished, unless it was to be prolonged.
    """
    has_model = (prepared.folder.path / "model").is_dir()
    return "after" in prepared.folder.read_eval() or (has_model and (prepared.prolonged or not measured))


def _is_at_end(config: Any, checkpoint: Path, step: int) -> bool:
    """Whether all tokens or all steps of the run were spent at the checkpoint, which was written after `step` steps."""
    tokens = json.loads((checkpoint / STATE_FILE).read_text())["generated_tokens"]
    limit = config.max_generated_tokens
    return (limit is not None and tokens >= limit) or 0 < config.max_steps <= step


def _problems(run: Any, model: Any, tokenizer: Any, config: Any) -> tuple[list[dict[str, Any]], list[Any], list[str]]:
    """Loads and checks the problems: the rows to train on, the held-out ones, and the verifiers' names for both."""
    from .._extras import load_object
    from ..environments.questions import gives_reward
    from ..tasks.problems import environment_for, load_problems, verifier_for
    from ..tasks.prompts import check_prompt_length, encode_prompt, trl_prompt
    from .rows import without_images

    how: dict[str, Any] = {
        "question_column": run.question_column, "answer_column": run.answer_column, "instruction": run.instruction,
        "require_answer": run.needs_answers,
    }  # fmt: skip
    own = not run.verifiers and config.environment is not None
    if own and gives_reward(load_object(config.environment, "environment")):
        run = replace(run, verifier="environment")
        how["require_answer"] = False
    problems = load_problems(run.data, split=run.data_split, limit=run.limit, **how)
    held_out = load_problems(run.eval_data, split=run.eval_split, limit=run.eval_limit, **how) if run.eval_data else []
    first = [*problems[:1], *held_out[:1]]
    kinds = {verifier_for(p) for p in first}
    if config.environment is None and len(brought := {environment_for(p) for p in first}) == 1:
        (config.environment,) = brought
        kinds = {"environment"} if config.environment is not None else kinds
    if not run.verifiers and len(kinds) > 1:
        raise ConfigError(
            f"data {run.data} and eval_data {run.eval_data} need different verifiers; choose eval_data to match"
        )
    names = {name: None for p in problems for name in p.columns}  # a data set's columns are those of its first row
    asked: dict[str, Any] = {"system_prompt": run.system_prompt, "chat_template_kwargs": config.chat_template_kwargs}
    rows = [{**names, **p.columns, "id": p.id, "prompt": trl_prompt(p, tokenizer, **asked)} for p in problems]
    rows = without_images(rows)
    context = getattr(model.config, "max_position_embeddings", None)
    for p in [*problems, *held_out]:
        if context:
            check_prompt_length(p.id, len(encode_prompt(p, tokenizer, **asked)[1]), context)
    if len(rows) < run.prompts_per_step:
        raise ConfigError(
            f"a step takes prompts_per_step = {run.prompts_per_step} questions but {run.data} gives {len(rows)}; use "
            f"more of it (limit) or fewer a step"
        )
    return rows, held_out, run.verifiers or [kinds.pop()]
