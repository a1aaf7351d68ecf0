"""A training run from settings to a finished run folder: loading, checks, evaluation, resume."""

import gc
import json
import logging
import os
import time
import warnings
from typing import Any

from rich.console import Console

from .._text import percent
from ..errors import ConfigError, IBTPOError
from ..storage.run_folder import STATE_FILE, RunFolder
from ..tasks.problems import ANSWER_VERIFIERS


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


def train(
    settings: dict[str, Any],
    run: Any,
    config: Any,
    folder: RunFolder,
    resume: bool,
    overwrite: bool,
    quiet: bool,
    as_json: bool,
) -> float | None:
    """Trains; the seconds it took, or None in any but the main process."""
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
    from .callbacks import EveryTokens, MetricsFile
    from .live import LiveScreen
    from .trackers import check_installed, files_in
    from .trainer import IBTPOTrainer

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
    checkpoint = same_everywhere(folder.last_checkpoint() if resume and state.is_main_process else None)
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
    return time.perf_counter() - began if state.is_main_process else None


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
            max_completion_length=options.max_completion_length, seed=config.seed, decode=trainer._decode,
        )
    )  # fmt: skip
    grades: dict[str, list[float]] = {p.id: [] for p in problems}
    for answer in result.answers:
        if answer.grade is not None:
            grades[answer.id].append(answer.grade)
    return result.to_json(), {id: sum(g) / len(g) if g else None for id, g in grades.items()}
