"""`IBScoreCallback` measures IB-Score and Cov(η1, η2) while any `trl.GRPOTrainer` trains.

    trainer = trl.GRPOTrainer(...)
    trainer.add_callback(IBScoreCallback(trainer, every=10))

GRPO samples flat groups, and neither of the two numbers can be read from those. So now and then a probe grows small
trees of a few fixed prompts with the model in training, and measures them. Training goes on as if there had been no
probe: no bit of any loss changes.
"""

import math
import random
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState
from trl.data_utils import is_conversational

from .._options import OPTIONS
from .._version import __version__
from ..engines import Sampling
from ..engines.models import decoder, model_name
from ..engines.transformers import TransformersEngine
from ..errors import ConfigError, DataError, EngineError, VerifierError
from ..metrics import summarise, tree_record
from ..search import Prompt, SearchOptions, TreeSearch, run_async
from ..storage.tree_file import step_file
from ..tasks.problems import load_problems
from ..tasks.prompts import check_prompt_length, prompt_id, trl_prompt
from ..tree import ReasoningTree, write_trees
from ..verify import Verifier
from ..verify.open import open_verifier
from ..verify.rewards import RewardFunctions
from ..verify.tags import ANSWER_TAGS, THINKING_TAGS
from .processes import same_everywhere
from .rewards import as_functions
from .rows import has_image
from .sharding import refuse_fsdp1, whole_model

PREFIX = "ibtpo/probe/"


class IBScoreCallback(TrainerCallback):
    """Grows trees of the same prompts, with the same seeds, before training and every `every` steps, and logs metrics.

    The metrics are those of docs/metrics.md under `ibtpo/probe/` in place of `ibtpo/`. In addition, `seconds` is the
    time that the probe took, and `time_share` the share of all time since training began that all probes so far took.
    Numbers that are not defined are left out. The metrics go where the trainer's own go, to `state.log_history` and to
    whatever `report_to` names, at the step whose weights were probed. Each process grows a share of the trees. If a
    probe fails, there is a warning and training goes on.

    trainer: a `trl.GRPOTrainer`; its weights may be spread by FSDP2 or DeepSpeed ZeRO.
    prompts: problems by name as `load_problems` reads them ("walk:test", a file), or a sequence of prompts, or of rows
        with a column `prompt` and the columns that the rewards take. Default: the trainer's train dataset.
    reward_funcs: as `IBTPOTrainer` takes them, all names or all functions; the first decides raw correctness.
        Default: the trainer's own. What they hand to `log_metric` and `log_extra` is dropped.
    every: optimiser steps from one probe to the next.
    num_prompts: how many prompts are probed, the first ones.
    search: how trees grow and are scored. Default: trees of (B0, L, K, B) = (4, 9, 1, 1), with the trainer's
        temperature, top_p, top_k and max_completion_length.
    max_time_share: the most that probes may take of the time since training began, as a share in (0, 1]. A probe is
        skipped if it would exceed this by taking as long as the longest so far; the next multiple of `every` asks
        again. What the first probe costs, or one that takes longer than any before, is known only afterwards; probes
        are then skipped until the share allows the next.
    trees_dir: folder for the trees, one `step_000010.jsonl.gz` a probe; None keeps no trees on disk.
    clock: gives the time in seconds.

    Raises `ConfigError` for an option out of range, for a prompt with an image, and under FSDP1. Raises `DataError` if
    there are no prompts.
    """

    def __init__(
        self,
        trainer: Any,
        prompts: str | Sequence[Any] | None = None,
        reward_funcs: Any = None,
        *,
        every: int = 50,
        num_prompts: int = 16,
        search: SearchOptions | None = None,
        max_time_share: float = 0.05,
        trees_dir: str | Path | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        for name, value in (("every", every), ("num_prompts", num_prompts)):
            if value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")
        if not 0 < max_time_share <= 1:
            raise ConfigError(f"max_time_share must be in (0, 1], got {max_time_share}; 0.05 is one part in twenty")
        refuse_fsdp1(trainer.accelerator)
        args = trainer.args
        self.trainer = trainer
        self.every = every
        self.max_time_share = max_time_share
        self.trees_dir = None if trees_dir is None else Path(trees_dir)
        self.search = search or SearchOptions(
            sampling=Sampling(args.temperature, args.top_p, args.top_k or 0),
            max_completion_length=args.max_completion_length or OPTIONS["max_completion_length"].default,
            deterministic=True,
        )
        self.trees: list[ReasoningTree] = []
        self.prompts: list[Prompt] = []
        self.spent = 0.0  # seconds of all probes
        self._clock = clock
        self._began = 0.0
        self._longest = 0.0
        self._engine: TransformersEngine | None = None
        self._reward_funcs = reward_funcs
        self._verifier: Verifier | None = None
        with _undisturbed(trainer.accelerator.device):
            self.prompts = _read_prompts(trainer, prompts, num_prompts)
            self._verifier = _open_verifier(trainer, reward_funcs)  # opened now, so that a wrong name fails early

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Starts the clock and probes. A resumed run probes only at a step that is due and has no probe yet."""
        self.spent = self._longest = 0.0
        self._began = self._clock()
        rows = [row for row in state.log_history if PREFIX + "seconds" in row]
        if rows:  # Training resumes: start the clock as if it had run since training first began.
            self._longest = max(row[PREFIX + "seconds"] for row in rows)
            self.spent = math.fsum(row[PREFIX + "seconds"] for row in rows)
            self._began -= self.spent / max(rows[-1][PREFIX + "time_share"], 1e-9)
        if not rows or (state.global_step % self.every == 0 and rows[-1]["step"] != state.global_step):
            self._probe_if_cheap(state, control)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Probes after every `every` steps, if the share of time allows it."""
        if state.global_step % self.every == 0:
            self._probe_if_cheap(state, control)

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Ends the child processes of the verifier."""
        if self._verifier is not None:
            self._verifier.close()
            self._verifier = None  # a later probe, for instance in a second call of train(), opens a new one

    def _probe_if_cheap(self, state: TrainerState, control: TrainerControl) -> None:
        """Probes and logs the metrics, unless all probes would then have taken more than `max_time_share`."""
        began = self._clock()
        expected = self._longest  # 0 before the first probe
        too_long = expected and self.spent + expected > self.max_time_share * (began - self._began + expected)
        if same_everywhere(too_long):  # by the main process's clock
            return
        metrics: dict[str, float] = {}
        try:
            metrics = self.probe()
        except (EngineError, VerifierError, OSError) as e:  # OSError: `trees_dir` cannot be written to
            warnings.warn(f"the probe at step {state.global_step} failed, training goes on: {e}", stacklevel=2)
        now = self._clock()
        seconds = now - began
        self.spent += seconds
        self._longest = max(self._longest, seconds)
        if not metrics:
            return
        metrics["seconds"] = seconds
        metrics["time_share"] = self.spent / max(now - self._began, 1e-9)
        # `GRPOTrainer.log` would also log, too early, the metrics it gathers over `logging_steps`, so the method of its
        # base class is called. Any log marks this step's own log as done, so the mark is set back.
        due = control.should_log
        Trainer.log(self.trainer, {PREFIX + k: v for k, v in metrics.items() if not math.isnan(v)})
        control.should_log = due

    def probe(self) -> dict[str, float]:
        """Grows one tree a prompt with the model as it is, and keeps them in the attribute `trees`.

        Every process must call it; each grows a share of the trees and gets all of them.

        Returns the metrics of the trees by name, without the prefix `ibtpo/probe/`.
        Raises `VerifierError` if the rewards of all answers failed, and `EngineError` if a tree could not be grown.
        """
        trainer = self.trainer
        index, count = trainer.accelerator.process_index, trainer.accelerator.num_processes
        trees: list[ReasoningTree] = []
        failed: EngineError | VerifierError | None = None
        with whole_model(trainer) as model, _undisturbed(trainer.accelerator.device):
            try:
                trees = self._grow(model, self.prompts[index::count])
            except (EngineError, VerifierError) as e:  # the other processes must learn of it, or they would wait
                failed = e
        grown = gather_object([(trees, failed and str(failed))])
        if error := next((text for _, text in grown if text), None):
            raise EngineError(error) from failed
        by_id = {tree.id: tree for share, _ in grown for tree in share}
        self.trees = [by_id[p.id] for p in self.prompts]
        leaves = [leaf for tree in self.trees for leaf in tree.leaves]
        if all(leaf.stop == "verifier_error" for leaf in leaves):
            first = next(iter(self.trees[0].meta.get("verifier_errors", [])), "no reason given")
            raise VerifierError(f"the rewards of all {len(leaves)} answers failed; the first: {first}")
        step = trainer.state.global_step
        for tree in self.trees:
            tree.meta |= {"model": model_name(model), "step": step, "ibtpo": __version__}
        if self.trees_dir is not None and trainer.accelerator.is_main_process:
            write_trees(self.trees_dir / step_file(step), self.trees)
        return summarise([tree_record(tree, self.search.score) for tree in self.trees])

    def _grow(self, model: Any, prompts: list[Prompt]) -> list[ReasoningTree]:
        """Grows the trees of this process."""
        trainer = self.trainer
        if self._verifier is None:
            self._verifier = _open_verifier(trainer, self._reward_funcs)
        if self._engine is None or self._engine.model is not model:
            eos = [token for token in trainer.eos_token_ids if token is not None]
            self._engine = TransformersEngine(
                model, eos_token_ids=eos, max_batch_size=min(64, self.search.max_in_flight)
            )
        search = TreeSearch(self._engine, self._verifier, decoder(trainer._tokenizer), self.search)

        async def grow() -> list[ReasoningTree]:
            with torch.no_grad(), trainer.accelerator.autocast():
                return await search.grow_all(prompts)

        if isinstance(self._verifier, RewardFunctions):
            self._verifier.extra["trainer_state"] = trainer.state  # every call of train() makes a new state
        self._engine.reset_cache()  # the weights changed since the last probe
        try:
            return run_async(grow())
        finally:
            self._engine.reset_cache()  # training gets the memory back


@contextmanager
def _undisturbed(device: torch.device) -> Iterator[None]:
    """Puts every global random state back after the block: user code and libraries may draw from any of them."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([] if device.type == "cpu" else [device]):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def _read_prompts(trainer: Any, prompts: str | Sequence[Any] | None, most: int) -> list[Prompt]:
    """The first `most` prompts, encoded as the trainer encodes its own; see `IBScoreCallback`."""
    tokenizer = trainer._tokenizer
    rows: list[Any]
    if isinstance(prompts, str):
        problems = load_problems(prompts, limit=most, require_answer=False)
        arguments = trainer.args.chat_template_kwargs
        rows = [
            {**p.columns, "id": p.id, "prompt": trl_prompt(p, tokenizer, chat_template_kwargs=arguments)}
            for p in problems
        ]
    else:
        rows = list(islice(trainer.train_dataset if prompts is None else prompts, most))
    if not rows:
        raise DataError("there is nothing to probe: 0 prompts")
    found: list[Prompt] = []
    context = getattr(trainer.model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    for number, given in enumerate(rows, 1):
        row = dict(given) if isinstance(given, Mapping) else {"prompt": given}
        if not row.get("prompt"):
            raise DataError(f"probe prompt {number} has no column 'prompt'; it has {', '.join(row) or 'none'}")
        if has_image(row):
            raise ConfigError(f"probe prompt {number} has an image: trees are of text")
        # TRL's own method, so that the model reads a prompt in a probe as it reads it in training.
        ids = trainer._tokenize_prompts([row["prompt"]])[0][0]
        id = prompt_id(row, {p.id for p in found})
        if context:
            check_prompt_length(id, len(ids), context)
        found.append(Prompt(id, tuple(ids), tokenizer.decode(ids), row, is_conversational(row)))
    return found


def _open_verifier(trainer: Any, reward_funcs: Any) -> Verifier:
    """The verifier of `reward_funcs`, or of the trainer's own rewards and their weights if that is None."""
    weights = None
    if reward_funcs is None:
        reward_funcs = as_functions(trainer)
        weights = trainer.reward_weights.tolist()

    def drop(*_: Any, **__: Any) -> None:
        """Drops what a reward function logs: it must not be mixed with what it logs in training."""

    return open_verifier(
        reward_funcs,
        weights=weights,
        extra={"log_metric": drop, "log_extra": drop},
        thinking_tags=getattr(trainer.args, "thinking_tags", THINKING_TAGS),  # `trainer` may be TRL's own
        answer_tags=getattr(trainer.args, "answer_tags", ANSWER_TAGS),
    )
