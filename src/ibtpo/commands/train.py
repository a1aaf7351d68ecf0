"""`ibtpo train`: from a recipe to a run folder with a before/after table."""

import gc
import json
import logging
import os
import shlex
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from .._text import percent, table
from ..errors import CheckpointError, ConfigError, IBTPOError
from ..storage.recipes import find_recipe
from ..storage.run_folder import STATE_FILE, RunFolder
from ..tasks.problems import ANSWER_VERIFIERS


def run(
    recipe: str | None,
    overrides: dict[str, Any],
    *,
    output: str | None = None,
    resume: str | bool | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    quiet: bool = False,
    as_json: bool = False,
) -> int:
    """Trains; returns the exit status.

    recipe: a YAML file or the name of a shipped one. resume: a run folder, or True for `output`.
    """
    quiet_warnings()
    from ..training import settings as st

    if resume and overwrite:
        raise ConfigError("--resume goes on with a run and --overwrite deletes it: give one of them")
    if resume:
        folder = RunFolder(resume if isinstance(resume, str) else output or _missing_folder())
        if recipe or overrides:
            raise ConfigError(f"--resume takes the settings of {folder.path}; leave out {recipe or list(overrides)}")
        try:
            settings = st.resolve(folder.settings(), {})
        except ConfigError as e:
            raise CheckpointError(f"{folder.path / 'config.yaml'}: {e}") from e
    else:
        name, found = base_settings(recipe, overrides)
        settings = st.resolve(found, overrides)
        now = _same_everywhere(time.strftime("%Y%m%d-%H%M%S"))
        folder = RunFolder(output or Path("runs") / f"{name}-{settings['method']}-{now}")
    run_settings, trainer_settings = st.split(settings)
    config = st.make_config(run_settings, trainer_settings, folder.path)
    settings = st.resolved(settings, config)
    if dry_run:
        _print_plan(settings, config, folder, as_json)
        return 0
    try:
        return _train(settings, run_settings, config, folder, bool(resume), overwrite, quiet, as_json)
    except KeyboardInterrupt:
        if not (folder.path / "config.yaml").is_file():
            raise
        print(f"interrupted; go on with: ibtpo train --resume {shlex.quote(str(folder.path))}", file=sys.stderr)
        return 130


def quiet_warnings() -> None:
    """TRL's own defaults set off transformers' deprecation warnings: nothing the user can act on."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    warnings.filterwarnings("ignore", message=".*pin_memory.*")


def list_options() -> int:
    """Prints the options of a run and of the method; TRL's own are on its documentation page."""
    from ..training import settings as st

    rows = [(name, str(default), help) for name, default, help in st.describe()]
    print(table([("option", "default", "meaning"), *rows], left=3))
    print("\nEvery other field of trl.GRPOConfig is an option, too.")
    return 0


def base_settings(recipe: str | None, overrides: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name and keys a run starts from: the recipe; without one the embedded task's, or for other data none."""
    from ..training import settings as st

    if recipe is not None and recipe.endswith((".yaml", ".yml")):
        return Path(recipe).stem, st.read_recipe(Path(recipe))
    if recipe is None and str(overrides.get("data", "walk")).partition(":")[0] != "walk":
        return "run", {}
    return recipe or "nano-walk", st.read_recipe(find_recipe(recipe or "nano-walk"))


def _same_everywhere(value: Any) -> Any:
    """The main process's value, in every process."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return value
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    PartialState()
    return broadcast_object_list([value])[0]


def _missing_folder() -> str:
    raise ConfigError("--resume needs the run folder: --resume DIR")


def _print_plan(settings: dict[str, Any], config: Any, folder: RunFolder, as_json: bool) -> None:
    budget = config.budget()
    plan = {
        "output": str(folder.path),
        "trajectories_per_question": budget.trajectories,
        "tree": [budget.b0, budget.rounds, budget.k, budget.b],
        "answers_per_step": config.generation_batch_size,
        "max_generated_tokens": config.max_generated_tokens,
        "settings": settings,
    }
    if as_json:
        print(json.dumps(plan))
        return
    for key, value in {**{k: v for k, v in plan.items() if k != "settings"}, **settings}.items():
        print(f"{key}: {value}")


def _train(
    settings: dict[str, Any],
    run: Any,
    config: Any,
    folder: RunFolder,
    resume: bool,
    overwrite: bool,
    quiet: bool,
    as_json: bool,
) -> int:
    import torch
    import transformers
    from accelerate import PartialState
    from datasets import Dataset
    from transformers import PrinterCallback
    from transformers.integrations import is_deepspeed_zero3_enabled

    from ..engines.models import eos_token_ids, load_model
    from ..storage.env import collect_env
    from ..tasks.problems import load_problems, verifier_for
    from ..tasks.prompts import check_prompt_length, encode_prompt, trl_prompt
    from ..training.callbacks import EveryTokens, MetricsFile
    from ..training.live import LiveScreen
    from ..training.trackers import check_installed, files_in
    from ..training.trainer import IBTPOTrainer

    check_installed(config.report_to)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if run.threads:
        torch.set_num_threads(run.threads)
    logging.getLogger("trl").setLevel(logging.ERROR)
    state = PartialState()
    console = Console(stderr=as_json, quiet=quiet or not state.is_main_process)
    began = time.perf_counter()

    if resume:
        folder.read_eval(), folder.read_evals()  # raise now rather than after training
    elif state.is_main_process:
        folder.check_free(overwrite)

    model, tokenizer = load_model(run.model, dtype=run.dtype, attention=run.attn_implementation)
    if run.attn_implementation == "flex_attention" and model.device.type == "cpu":
        raise ConfigError("flex_attention cannot train on a CPU: PyTorch has no backward for it there")
    model.generation_config.eos_token_id = eos_token_ids(model, tokenizer)  # a chat model's end of turn, too
    how = {"instruction": run.instruction, "require_answer": run.verifier in (None, *ANSWER_VERIFIERS)}
    problems = load_problems(run.data, split=run.data_split, limit=run.limit, **how)
    held_out = []
    if run.eval_data:
        held_out = load_problems(run.eval_data, split="test", limit=run.eval_limit, **how)
    kinds = {verifier_for(p) for p in (*problems[:1], *held_out[:1])}
    if run.verifier is None and len(kinds) > 1:
        raise ConfigError(
            f"data {run.data} and eval_data {run.eval_data} need different verifiers; choose eval_data to match"
        )
    verifier = run.verifier or kinds.pop()
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
    peft = {}
    if run.lora_r:
        from peft import LoraConfig

        peft = {
            "peft_config": LoraConfig(
                r=run.lora_r, lora_alpha=run.lora_alpha, target_modules="all-linear", task_type="CAUSAL_LM"
            )
        }
    console.print(
        f"{settings['method']}: {run.model} on {run.data} ({len(rows)} problems), {config.num_generations} answers a "
        f"question, run folder {folder.path}",
        highlight=False,
        soft_wrap=True,
    )
    if not resume and state.is_main_process:
        folder.create(settings, collect_env(), overwrite)  # only now: what can fail before must not cost an older run
    state.wait_for_everyone()
    display = LiveScreen(console, config.max_generated_tokens)
    try:
        with files_in(folder.path, config.report_to, quiet):
            trainer = IBTPOTrainer(
                model, [verifier], config, Dataset.from_list(rows), processing_class=tokenizer,
                callbacks=[MetricsFile(folder.metrics), display], **peft,
            )  # fmt: skip
    except (ValueError, TypeError, ImportError) as e:
        if isinstance(e, IBTPOError):
            raise
        raise ConfigError(f"the trainer refuses these settings: {e}") from e
    trainer.remove_callback(PrinterCallback)
    if held_out and is_deepspeed_zero3_enabled():
        raise ConfigError("evaluation needs whole weights in one process: with ZeRO-3 set eval_data none")

    def measure(name: str = "") -> None:
        """Held-out accuracy "before" or "after" training or, without a name, on the way; once: a resumed run has it."""
        step, tokens = trainer.state.global_step, trainer.generated_tokens
        if held_out and state.is_main_process and not _is_measured(folder, name, step):
            result, grades = _evaluate(trainer, tokenizer, held_out, run, config)
            so_far = {"step": step, "generated_tokens": tokens, "seconds": round(trainer.timer.trained, 3)}
            folder.add_evals(step, {**so_far, **result, "grades": grades})
            if name:
                folder.write_eval(name, result)
            when = f"{name} training" if name else f"after {tokens} tokens"
            console.print(f"held-out accuracy {when}: {percent(result['avg'], result['avg_ci'])}", highlight=False)
        state.wait_for_everyone()

    if run.eval_before:
        measure("before")
    if before := folder.read_eval().get("before"):
        display.held_out = f"{percent(before['avg'], before['avg_ci'])} before training"
    checkpoint = _same_everywhere(folder.last_checkpoint() if resume and state.is_main_process else None)
    if resume:
        where = f"from {checkpoint.name}" if checkpoint else "from the start: no checkpoint was finished"
        console.print(f"going on {where}", highlight=False)
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
            trainer.add_callback(EveryTokens(trainer, run.eval_every_tokens, measure))
        try:
            gc.freeze()  # or each full collection walks all that was imported, a third of a second
            with files_in(folder.path, config.report_to, quiet):
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        finally:
            display.stop()
    trainer.save_model(str(folder.path / "model"))
    measure("after")
    trainer.verifier.close()
    if state.is_main_process:
        seconds = time.perf_counter() - began
        _report(console, folder, seconds, _write_report(folder), as_json)
    return 0


def _is_measured(folder: RunFolder, name: str, step: int) -> bool:
    return (not name or name in folder.read_eval()) and any(row["step"] == step for row in folder.read_evals())


def _evaluate(
    trainer: Any, tokenizer: Any, problems: list[Any], run: Any, config: Any
) -> tuple[dict[str, Any], dict[str, float | None]]:
    """The result, and each problem's mean grade."""
    from ..engines.transformers import TransformersEngine
    from ..evaluation.evaluate import evaluate
    from ..search import Prompt, run_async
    from ..tasks.prompts import encode_prompt

    model = trainer.accelerator.unwrap_model(trainer.model)
    engine = TransformersEngine(model, eos_token_ids=trainer.eos_token_ids, max_batch_size=config.max_in_flight)
    prompts = []
    for p in problems:
        text, ids = encode_prompt(p, tokenizer, system_prompt=run.system_prompt)
        prompts.append(Prompt(p.id, tuple(ids), text, dict(p.columns)))
    options = config.search_options(config.seed)
    result = run_async(
        evaluate(
            engine, trainer.verifier, prompts, k=run.eval_k, sampling=options.sampling,
            max_new_tokens=options.max_new_tokens, seed=config.seed, decode=trainer._decode,
        )
    )  # fmt: skip
    grades: dict[str, list[float]] = {p.id: [] for p in problems}
    for answer in result.answers:
        if answer.grade is not None:
            grades[answer.id].append(answer.grade)
    return result.to_json(), {id: sum(g) / len(g) if g else None for id, g in grades.items()}


def _write_report(folder: RunFolder) -> Path | None:
    """The run's report.html, or None: a finished training does not fail for want of a picture of it."""
    try:
        from ..report.run import write_report

        return write_report(folder.path)
    except Exception as e:
        again = shlex.join(["ibtpo", "report", str(folder.path)])
        reason = " ".join(f"{type(e).__name__}: {e}".split())
        print(f"warning: no report was written ({reason}); try again with: {again}", file=sys.stderr)
        return None


def _report(console: Console, folder: RunFolder, seconds: float, report: Path | None, as_json: bool) -> None:
    result = folder.read_eval()
    if as_json:
        page = None if report is None else str(report)
        print(json.dumps({"output": str(folder.path), "seconds": round(seconds, 1), "report": page, **result}))
        return
    if "before" in result and "after" in result:
        before, after = result["before"], result["after"]
        k = before["k"]
        table = Table(title=f"{before['n']} held-out problems, {k} answers each, 95 % intervals over problems")
        for column in ("", "before", "after", "change"):
            table.add_column(column)
        for name, label in (("avg", f"avg@{k}"), ("pass", f"pass@{k}")):
            known = before[name] is not None and after[name] is not None
            change = f"{100 * (after[name] - before[name]):+.1f} points" if known else ""
            values = [percent(r[name], r[f"{name}_ci"]) for r in (before, after)]
            table.add_row(label, *values, change)
        console.print(table)
    console.print(f"done in {seconds:.0f} s; run folder: {folder.path}", highlight=False, soft_wrap=True)
    if report is not None:
        console.print(f"report: {report}", highlight=False, soft_wrap=True)
