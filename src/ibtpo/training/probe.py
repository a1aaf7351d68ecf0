"""`IBScoreCallback`: trees of a few fixed prompts while any `trl.GRPOTrainer` trains.

    trainer = trl.GRPOTrainer(...)
    trainer.add_callback(IBScoreCallback(trainer, every=10))

GRPO samples flat groups, and neither an IB-Score nor Cov(η1, η2) can be read from those. A probe grows small trees with
the model in training, measures them, and leaves training as it was: it changes no bit of any loss.
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
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState
from trl.data_utils import is_conversational

from .._options import OPTIONS
from .._seeds import stable_hash
from .._version import __version__
from ..engines import Sampling
from ..engines.transformers import TransformersEngine
from ..errors import ConfigError, DataError, EngineError, VerifierError
from ..metrics import summarise, tree_record
from ..search import Prompt, SearchOptions, TreeSearch, run_async
from ..storage.tree_file import step_file
from ..tasks.problems import load_problems
from ..tasks.prompts import check_prompt_length, trl_prompt
from ..tree import ReasoningTree, write_trees
from ..verify import Verifier
from ..verify.open import open_verifier
from ..verify.rewards import RewardFunctions

PREFIX = "ibtpo/probe/"


class IBScoreCallback(TrainerCallback):
    """Grows trees of the same prompts and seeds before training and every `every` steps; logs `ibtpo/probe/…`.

    trainer: a `trl.GRPOTrainer` whose model is whole in one process: `ConfigError` under FSDP or DeepSpeed ZeRO-3.
    prompts: problems by name as `load_problems` reads them ("walk:test", a file), or a sequence of prompts or of
        rows with a column `prompt` and those the rewards take; default: the trainer's train dataset.
    num_prompts: the first n of them.
    reward_funcs: as `IBTPOTrainer` takes them, all names or all functions; the first decides raw correctness.
        Default: the trainer's own. What they hand to `log_metric` and `log_extra` is dropped.
    search: how trees grow and are scored; default: trees of 4,9,1,1 with the trainer's temperature,
        top_p, top_k and max_completion_length.
    max_time_share: of the time since training began. A probe that would exceed it if it took as long as the longest so
        far is skipped; the next multiple of `every` asks again. What the first one costs, or one that takes longer than
        any before, is known afterwards only: it is paid off before the next.
    trees_dir: folder for the trees, one `step_000010.jsonl.gz` a probe.

    The names under `ibtpo/probe/` are those of docs/metrics.md, and `seconds`, the probe's, and `time_share`, of all
    probes so far. Numbers that are not defined are left out. They go the way of the trainer's own metrics: to
    `state.log_history` and whatever `report_to` names, at the step whose weights were probed. Only the main process
    probes. A probe that fails is a warning: training goes on.
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
        _refuse_shards(trainer)
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
        if trainer.accelerator.is_main_process:
            with _undisturbed(trainer.accelerator.device):
                self.prompts = _read_prompts(trainer, prompts, num_prompts)
                self._verifier = _open_verifier(trainer, reward_funcs)  # now, so that a wrong name is told early

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Starts the clock; probes unless a resumed run has this step's probe already."""
        if not state.is_world_process_zero:
            return
        self.spent = self._longest = 0.0
        self._began = self._clock()
        rows = [row for row in state.log_history if PREFIX + "seconds" in row]
        if rows:  # a resumed run goes on with the account of the one before
            self._longest = max(row[PREFIX + "seconds"] for row in rows)
            self.spent = math.fsum(row[PREFIX + "seconds"] for row in rows)
            self._began -= self.spent / max(rows[-1][PREFIX + "time_share"], 1e-9)
        if not rows or (state.global_step % self.every == 0 and rows[-1]["step"] != state.global_step):
            self._probe_if_cheap(state, control)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Probes every `every` steps where the share of time allows it."""
        if state.is_world_process_zero and state.global_step % self.every == 0:
            self._probe_if_cheap(state, control)

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Ends the verifier's processes."""
        if self._verifier is not None:
            self._verifier.close()
            self._verifier = None  # the next probe, of a second train() for instance, makes a new one

    def _probe_if_cheap(self, state: TrainerState, control: TrainerControl) -> None:
        began = self._clock()
        expected = self._longest  # 0 before the first probe
        if expected and self.spent + expected > self.max_time_share * (began - self._began + expected):
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
        # Not GRPOTrainer.log: that would flush what it gathers over logging_steps. And a log of ours must not take the
        # place of the one that is due at this step.
        due = control.should_log
        Trainer.log(self.trainer, {PREFIX + k: v for k, v in metrics.items() if not math.isnan(v)})
        control.should_log = due

    def probe(self) -> dict[str, float]:
        """Grows one tree a prompt with the model as it is; returns their mean numbers. The trees are in `trees`."""
        trainer = self.trainer
        model = trainer.accelerator.unwrap_model(trainer.model)
        assert self.prompts, "only the main process probes"
        if self._verifier is None:
            with _undisturbed(trainer.accelerator.device):
                self._verifier = _open_verifier(trainer, self._reward_funcs)
        if self._engine is None or self._engine.model is not model:
            eos = [token for token in trainer.eos_token_ids if token is not None]
            self._engine = TransformersEngine(
                model, eos_token_ids=eos, max_batch_size=min(64, self.search.max_in_flight)
            )
        search = TreeSearch(self._engine, self._verifier, _decoder(trainer._tokenizer), self.search)

        async def grow() -> list[ReasoningTree]:
            with torch.no_grad(), trainer.accelerator.autocast():
                return await search.grow_all(self.prompts)

        if isinstance(self._verifier, RewardFunctions):
            self._verifier.extra["trainer_state"] = trainer.state  # a new one in every call of train()
        with _undisturbed(trainer.accelerator.device):
            self._engine.reset_cache()  # the weights changed since the last probe
            try:
                self.trees = run_async(grow())
            finally:
                self._engine.reset_cache()  # training gets the memory back
        leaves = [leaf for tree in self.trees for leaf in tree.leaves]
        if all(leaf.stop == "verifier_error" for leaf in leaves):
            first = next(iter(self.trees[0].meta.get("verifier_errors", [])), "no reason given")
            raise VerifierError(f"the rewards of all {len(leaves)} answers failed; the first: {first}")
        step = trainer.state.global_step
        for tree in self.trees:
            tree.meta |= {"model": str(model.name_or_path), "step": step, "ibtpo": __version__}
        if self.trees_dir is not None:
            write_trees(self.trees_dir / step_file(step), self.trees)
        return summarise([tree_record(tree, self.search.score) for tree in self.trees])


@contextmanager
def _undisturbed(device: torch.device) -> Iterator[None]:
    """Every global random state as it was afterwards: user code and libraries may draw from any of them."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([] if device.type == "cpu" else [device]):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def _refuse_shards(trainer: Any) -> None:
    plugin = getattr(trainer.accelerator.state, "deepspeed_plugin", None)
    sharded = "FSDP" if trainer.is_fsdp_enabled else ""
    if plugin is not None and plugin.zero_stage == 3:
        sharded = "DeepSpeed ZeRO-3"
    if sharded:
        raise ConfigError(
            f"IBScoreCallback needs whole weights in one process, and {sharded} spreads them over all: measure the "
            f"checkpoints instead, with `ibtpo diagnose --model CHECKPOINT … --data …`"
        )


def _read_prompts(trainer: Any, prompts: str | Sequence[Any] | None, most: int) -> list[Prompt]:
    tokenizer = trainer._tokenizer
    rows: list[Any]
    if isinstance(prompts, str):
        problems = load_problems(prompts, limit=most, require_answer=False)
        rows = [{**p.columns, "id": p.id, "prompt": trl_prompt(p, tokenizer)} for p in problems]
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
        if "image" in row or "images" in row:
            raise ConfigError(f"probe prompt {number} has an image: trees are of text")
        # The trainer's own way, so that a probe reads what training reads.
        ids = trainer._tokenize_prompts([row["prompt"]])[0][0]
        id = str(row.get("id") or f"{stable_hash(row['prompt']):x}")
        while id in {p.id for p in found}:
            id += "+"
        if context:
            check_prompt_length(id, len(ids), context)
        found.append(Prompt(id, tuple(ids), tokenizer.decode(ids), row, is_conversational(row)))
    return found


def _open_verifier(trainer: Any, reward_funcs: Any) -> Verifier:
    weights = None
    if reward_funcs is None:
        reward_funcs = trainer.reward_funcs
        weights = trainer.reward_weights.tolist()

    def drop(*_: Any, **__: Any) -> None:
        """A probe's rewards must not land among training's."""

    return open_verifier(reward_funcs, weights=weights, extra={"log_metric": drop, "log_extra": drop})


def _decoder(tokenizer: Any) -> Callable[[list[int]], str]:
    def decode(ids: list[int]) -> str:
        return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    return decode
