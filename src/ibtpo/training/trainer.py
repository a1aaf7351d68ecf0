"""`IBTPOTrainer`: TRL's `GRPOTrainer` with trees in place of groups, and an advantage for each step of an answer.

TRL's loss, optimiser and logging stay as they are. What changes are methods of TRL's trainer that are overridden here,
in the order in which they run. Once a generation batch, that is every `steps_per_generation * num_iterations`
micro-batches, when `_prepare_inputs` needs a new one:

1. `_generate_and_score_completions` encloses the others. It remembers the rows, whose columns the verifier needs.
2. `_generate_single_turn` grows one tree a question, each process its own, and hands TRL the G trajectories of each;
   `_generate` masks given tokens and the rows of those that a tree ended without (`token_rows`, `absent_rows`).
3. `_calculate_rewards` hands TRL the rewards that the trees were grown with, in place of calling the functions again.
4. When TRL is done, `_credit` replaces its (B,) advantages by (B, T) ones, and `_log_trees` logs and stores the trees.

TRL then shuffles the rows and cuts them into micro-batches, and `_prepare_inputs` brings rows with the same prompt
together again. For every micro-batch `_compute_loss` gives TRL's loss the term of IBRO, if asked for, and
`_get_per_token_logps_and_entropies` computes the log-probs of that loss with each shared prefix only once (`packed`);
it does so for the log-probs of the reference and the old policy between 2 and 3, too. In TRL's own evaluation, when the
model is in eval mode, sampling, rewards and advantages are TRL's.

Processes: each grows, credits and stores the trees of its own questions. Rewards, the divisor of the advantages and the
diagnostics are gathered, so every process counts the same tokens and stops at the same step.

Resuming: the steps after a checkpoint get the same questions, whose order depends on (seed, epoch) alone, and the same
rollout seeds, which depend on (seed, optimiser step, place). A checkpoint holds the tokens and seconds so far in a file
of our own, `ibtpo_state.json`, and where a generation batch is not used up yet, what is left of it in files
`ibtpo_batch_RANK.pt`, one a process: TRL would sample it again, with other weights.

Shapes: B rows of this process (trees one after the other, G rows each, absent ones among them), T tokens of the longest
completion, N nodes of a tree, F reward functions.
"""

import json
import os
import warnings
from collections.abc import Sized
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from accelerate.utils import gather, gather_object
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging as hf_logging
from trl import GRPOTrainer
from trl.data_utils import is_conversational

from .._seeds import stable_hash
from .._version import __version__
from ..credit import (
    STD_FLOOR,
    CreditOptions,
    batch_divisor,
    batch_values,
    leaf_rewards,
    plain_advantages,
    reward_std,
    token_advantages,
    weigh_prefixes,
)
from ..engines import Engine
from ..engines.models import decoder, model_name
from ..environments.pool import Opening
from ..errors import ConfigError, VerifierError
from ..metrics import single_step_warning, single_steps, summarise, tree_record
from ..score import step_confidence
from ..search import Prompt, TreeSearch, run_async
from ..storage.run_folder import STATE_FILE
from ..storage.tree_file import step_file
from ..tasks.prompts import fixed_date, prompt_id
from ..tree import ReasoningTree, write_trees
from ..verify.open import open_verifier, reward_functions
from ..verify.pool import VerifierPool
from ..verify.rewards import RewardFunctions
from .absent_rows import count_completions, drop_absent, fill_up, row_weights
from .announce import announce
from .config import IBTPOConfig
from .order import EpochOrder, regroup
from .packed import PackedForward
from .regularizers import ibro_term
from .rewards import (
    comparing_function,
    extra_columns,
    is_reward_model,
    trainer_rewards,
    without_argument_names,
)
from .rollouts import rollout_engine, tree_generation
from .rows import without_images
from .saving import make_saveable, reading, writing
from .schedule import TOKEN_SCHEDULES, token_schedule
from .sharding import check_sharding
from .tensor_parallel import group_of
from .timing import StepTimer
from .token_rows import hide_absent, lengths, loss_mask, token_rows
from .trackers import show_tree
from .turns import NO_ROLLOUT_FUNC, Turns, conversations, own_reward, with_weights

MOST_CHECKS = 8  # generation batches after which no function that compares answers is looked for any more


class IBTPOTrainer(GRPOTrainer):
    """Trains a causal language model with IB-TPO (arXiv 2605.28109).

    It takes the arguments of `trl.GRPOTrainer`, except for `rollout_func`. With `tools` or `environment_factory`,
    answers are conversations (docs/turns.md).

    model: the model, or its name, as for TRL.
    reward_funcs: one or several: functions with TRL's signature and reward models, as in TRL, or names: "math",
        "countdown", "choice", "walk", "ifeval", "code" or "package.module:function", which run in child processes
        with a deadline. The first one decides raw correctness. A call of a function gets the answers that are ready by
        then; where branching needs no rewards it gets all answers of the batch in TRL's order.
    args: an `IBTPOConfig`; by default one with the output folder "ibtpo-output".
    train_dataset: rows with a `prompt` and the columns that the rewards need; an `id`, if there is one, names the tree.
    kwargs: TRL's other arguments.

    The attribute `trees` holds this process's trees of the last generation batch, `verifier` what scores them, and
    `generated_tokens` the tokens sampled so far, over the whole run and all processes.

    Raises `ConfigError` for arguments that do not fit, when it is made; `VerifierError` from training when every answer
    of a process's trees failed in the verifier; `CheckpointError` from resuming when a checkpoint cannot be read.
    """

    args: IBTPOConfig
    eos_token_ids: list[int]
    verifier: VerifierPool | RewardFunctions
    _buffered_inputs: Any  # TRL's micro-batches of the last generation, or None

    _tag_names: ClassVar[list[str]] = ["trl", "ibtpo"]
    _name = "IB-TPO"
    _paper: ClassVar[dict[str, str]] = {
        "title": "Long Live The Balance: Information Bottleneck Driven Tree-based Policy Optimization",
        "id": "2605.28109",
        "citation": (
            "@inproceedings{jiang2026ibtpo,\n  title={Long Live The Balance: Information Bottleneck Driven "
            "Tree-based Policy Optimization},\n  author={Jiang and others},\n  booktitle={ICML},\n  year={2026}\n}"
        ),
    }

    def __init__(
        self,
        model: Any,
        reward_funcs: Any = None,
        args: IBTPOConfig | None = None,
        train_dataset: Any = None,
        **kwargs: Any,
    ) -> None:
        if kwargs.get("rollout_func") is not None:
            raise ConfigError(f"IBTPOTrainer does not support rollout_func: {NO_ROLLOUT_FUNC}")
        if args is None:
            args = IBTPOConfig(output_dir="ibtpo-output")
        if not isinstance(args, IBTPOConfig):
            raise ConfigError(f"args must be an IBTPOConfig, got {type(args).__name__}")
        evaluates = kwargs.get("eval_dataset") is not None
        self._turns = Turns(args, kwargs.pop("tools", None), kwargs.pop("environment_factory", None), evaluates)
        several = reward_funcs if isinstance(reward_funcs, list | tuple) else [reward_funcs]
        several, weights = self._turns.without_own(several, args.reward_weights)
        if isinstance(reward_funcs, list | tuple):
            reward_funcs = several
        models = any(is_reward_model(reward) for reward in several)
        if not several:  # the environment gives the reward
            self.verifier = RewardFunctions([own_reward(kind) for kind in self._turns.own])
        elif not models:
            self.verifier = open_verifier(
                reward_funcs,
                weights=weights,
                workers=args.verifier_workers,
                timeout=args.verifier_timeout,
                thinking_tags=args.thinking_tags,
                answer_tags=args.answer_tags,
            )
        elif named := [r for r in several if isinstance(r, str) and not is_reward_model(r)]:
            raise ConfigError(
                f"reward_funcs mixes reward models and names ({', '.join(named)}); give functions instead"
            )
        self.timer = StepTimer()
        with tree_generation(), with_weights(args, weights):
            for_trl = list(several) if models or not several else reward_functions(self.verifier)
            rewards = self._turns.rewards_for_trl(for_trl)
            super().__init__(model, rewards, args, train_dataset, **kwargs, **self._turns.for_trl)
        make_saveable(self.model)
        if models:  # TRL loads them
            self.verifier = trainer_rewards(self, weights, args.verifier_timeout)
        self.verifier = self._turns.attach(self, len(several)) or self.verifier
        if self._tokenizer.pad_token_id is None:
            raise ConfigError("the tokenizer has neither a padding nor an end-of-sequence token; set its pad_token")
        self._decode = decoder(self._tokenizer)
        # TRL puts the tokenizer's token there even if it is None. Without any, answers run to the length limit.
        self.eos_token_ids = [token for token in self.eos_token_ids if token is not None]
        check_sharding(self)
        questions = args.generation_batch_size // args.num_generations
        if isinstance(self.train_dataset, Sized) and len(self.train_dataset) < questions:
            raise ConfigError(
                f"a step takes {questions} questions but the data set has {len(self.train_dataset)}, so no step would "
                f"ever be full; use more data or fewer questions a step"
            )
        self.add_callback(self.timer.callback(self))
        if self.accelerator.is_main_process and hf_logging.get_verbosity() < hf_logging.ERROR:
            announce(args)
        self.trees: list[ReasoningTree] = []
        self.generated_tokens = 0  # over the whole run and all processes
        self._engine: Engine | None = None  # kept from batch to batch by `rollouts.rollout_engine`
        self._engine_model: Any = None  # the model that it samples from
        self._generate_every = args.steps_per_generation * args.num_iterations
        self._trees_until = 0  # the last step at which `_log_trees` decided whether to write trees
        # What one hook leaves for a later one.
        self._rows: list[dict[str, Any]] = []
        self._openings: list[Opening | None] = []
        self._completions: list[Any] = []  # (B,) as TRL logs them, where there are turns
        self._rewards: list[tuple[float | None, ...]] = []
        self._checks = MOST_CHECKS  # how many batches may still be searched for a function that compares answers
        self._present: list[bool] = []  # (B,) whether each row is an answer
        self._sampled: list[list[int]] = []  # B rows, 1 for each token that was sampled
        self._forward: tuple[torch.Tensor, torch.Tensor | None] | None = None
        self._packed = PackedForward(args.packed_tokens, self.accelerator) if args.packed_tokens else None

    # --- sampling ----------------------------------------------------------------------------------------------

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """TRL's batch for the loss, with its (B,) advantages replaced by the (B, T) advantages of the trees' steps."""
        if not self.model.training:  # evaluation is TRL's own
            return super()._generate_and_score_completions(inputs)
        self._rows, self._openings = self._turns.open(self, without_images(inputs))
        with self._turns.stand_ins(self):
            output = super()._generate_and_score_completions(self._rows)
        if "tool_mask" in output:  # what `_generate` masked
            hide_absent(output)
        with self.timer.measure("credit"):
            self._credit(output)
            self._log_trees()
        return output

    def _generate(self, prompts: list[Any]) -> tuple[Any, ...]:
        """TRL's token ids, texts and log-probs of the B rows; what was not sampled is masked and not counted."""
        result = super()._generate(prompts)
        # All processes go on, or none: those whose own rows are all sampled have a part in what is gathered.
        if not self.model.training or all(gather_object([all(row) for row in self._sampled])):
            return result
        prompt_ids, completion_ids, _, completions, *others = result
        rows = list(zip(prompt_ids, completion_ids, self._present, strict=True))
        last = {*self.eos_token_ids, self._tokenizer.pad_token_id}
        ended = gather_object([ids[-1] in last for _, ids, there in rows if there])
        count_completions(self._metrics["train"], gather_object(lengths(self.trees)), ended)
        absent = [len(prompt) for prompt, _, there in rows if not there]
        given = [] if self.tools else [row.count(0) for row in self._sampled]  # with tools, TRL does not count them
        self.state.num_input_tokens_seen -= sum(gather_object([*absent, *given]))
        self._metrics["train"]["num_tokens"] = [self.state.num_input_tokens_seen]
        # TRL multiplies the mask of completions by this one, which it has for the answers of tools.
        return prompt_ids, completion_ids, self._sampled, self._completions or completions, *others

    def _tool_call_loop(self, prompts: Any, prompt_ids: Any, completion_ids: Any, *args: Any) -> tuple[Any, ...]:
        """What TRL's loop of tool calls returns; the trees hold it already."""
        if not self.model.training:
            return super()._tool_call_loop(prompts, prompt_ids, completion_ids, *args)
        _, logprobs, *_ = args
        nothing: list[list[Any]] = [[] for _ in completion_ids]
        return self._sampled, self._completions, completion_ids, logprobs, *self._turns.counts(self.trees), nothing

    def _tokenize_prompts(self, prompts: list[Any]) -> Any:
        """TRL's, with the date in chat templates that evaluations and resumed runs have, too, and with all tools."""
        with fixed_date(), self._turns.shown(self):
            return super()._tokenize_prompts(prompts)

    def _generate_single_turn(
        self, prompt_ids: list[list[int]], images: Any, multimodal_fields: Any, num_generations: int, **kwargs: Any
    ) -> tuple[list[list[int]], list[list[float]] | None]:
        """Grows one tree a question and returns the token ids and sampling log-probs of the B rows.

        prompt_ids: B prompts as token ids, each `num_generations` times in a row.
        num_generations: G, trajectories of a tree, unless its rule ended it with fewer.

        The seed comes from the run's seed, the optimiser step and the place within it, so a resumed run grows the same
        trees again.
        """
        if not self.model.training:
            return super()._generate_single_turn(prompt_ids, images, multimodal_fields, num_generations, **kwargs)
        prompts = self._prompts(prompt_ids, num_generations)
        if isinstance(self.verifier, RewardFunctions):
            # The verifier keeps what is logged with TRL's log_extra with the verdicts, which are put in order below.
            self.verifier.extra = {
                "trainer_state": self.state,
                "log_metric": self._log_metric,
                "log_extra": self._log_completion_extra,
            }
        within_step = self._step % self.args.gradient_accumulation_steps
        seed = stable_hash(self.args.seed, self.state.global_step, within_step)
        with rollout_engine(self) as engine:
            group = group_of(self)
            verifier = group.verifier if group else self.verifier
            options = self.args.search_options(seed)
            search = TreeSearch(engine, verifier, self._decode, options, environments=self._turns.environments)
            before = engine.busy_seconds
            self.trees = run_async(self._grow(search, group.prompts(prompts) if group else prompts))
            if group:
                self.trees = group.own(self.trees)
        self.timer.seconds["sampling"] += engine.busy_seconds - before
        for name, seconds in search.seconds.items():
            self.timer.seconds[name] += seconds
        verdicts = [search.verdicts[tree.id] for tree in self.trees]
        per_function = [[v.per_function for v in of_tree] for of_tree in verdicts]
        self._rewards = fill_up(per_function, num_generations, (None,) * len(self.reward_funcs))
        for column, values in extra_columns(verdicts, num_generations).items():
            self._log_completion_extra(column, values)
        self._present = fill_up([[True] * len(tree.leaves) for tree in self.trees], num_generations, False)
        # All processes decide together: one that raised alone would leave the others waiting for it.
        failed = gather_object([leaf.stop == "verifier_error" for tree in self.trees for leaf in tree.leaves])
        if all(failed):
            first = next(iter(self.trees[0].meta.get("verifier_errors", [])), "no reason given")
            raise VerifierError(
                f"all {len(failed)} answers of step {self.state.global_step} failed in the verifier, so nothing can be "
                f"learned; the first: {first}. Checkpoints saved so far are complete; mend the verifier and resume."
            )
        stateful = self._turns.environments is not None and self._turns.environments.stateful
        if not search.together and not stateful:  # by now, the environments are at work elsewhere
            self._refuse_comparing(search)
        if self._turns.environments is not None:
            self._turns.log(self)
            self._completions = conversations(self.trees, search.rows, num_generations)
        ids, logprobs, self._sampled = token_rows(self.trees, num_generations, self._tokenizer.pad_token_id)
        return ids, logprobs

    def _refuse_comparing(self, search: TreeSearch) -> None:
        """Raises `ConfigError` for a reward function whose values depend on which answers are in a call.

        The first batches are searched until one shows it; see `comparing_function`.
        """
        if not self._checks or not self.verifier.may_compare:
            return
        self._checks -= 1
        rows = [row for tree in self.trees for row in search.rows[tree.id]]
        verdicts = [verdict for tree in self.trees for verdict in search.verdicts[tree.id]]
        with self.timer.measure("verifying"):
            message, settled = comparing_function(self.verifier, rows, verdicts)
        found = gather_object([(message, settled)])
        if all(done for _, done in found):
            self._checks = 0
        if messages := [text for text, _ in found if text]:
            raise ConfigError(messages[0])

    async def _grow(self, search: TreeSearch, prompts: list[Prompt]) -> list[ReasoningTree]:
        # Both modes belong to a thread, and the event loop may run in another one than the caller: so enter them here.
        # vLLM has a precision of its own.
        with torch.no_grad(), nullcontext() if self.use_vllm else self.accelerator.autocast():
            return await search.grow_all(prompts)

    def _prompts(self, prompt_ids: list[list[int]], group: int) -> list[Prompt]:
        """The questions of the batch, of which TRL repeats each `group` times in a row."""
        prompts: list[Prompt] = []
        seen: set[str] = set()
        for i in range(0, len(prompt_ids), group):
            row = self._rows[i]
            id = prompt_id(row, seen)  # the same question twice in a batch gets different trees
            seen.add(id)
            text = self._tokenizer.decode(prompt_ids[i])
            ids = tuple(prompt_ids[i])
            prompts.append(Prompt(id, ids, text, row, is_conversational(row), self._openings[i]))
        return prompts

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> torch.Tensor:
        """The rewards that the trees were grown with: (B of all processes, F), NaN where there is none."""
        if not self.model.training:
            return super()._calculate_rewards(without_argument_names(inputs), prompts, completions, completion_ids_list)
        rows = [[float("nan") if r is None else r for r in verdict] for verdict in self._rewards]
        return gather(torch.tensor(rows, dtype=torch.float32, device=self.accelerator.device))

    # --- credit ------------------------------------------------------------------------------------------------

    def _credit(self, output: dict[str, Any]) -> None:
        """Replaces TRL's (B,) advantages by (B, T) step advantages, in the batch and in the table that TRL logs.

        output: TRL's batch, its rows in the order of the trees and their leaves; it is changed in place. The answers
            of a tree with fewer than G weigh more, see `row_weights`.
        """
        options = self._credit_options = self._scaled(self.args.credit_options())
        confidence = self._reference_confidence(output) if self.args.ib_policy == "ref" else [None] * len(self.trees)
        plain = [plain_advantages(t, options, c) for t, c in zip(self.trees, confidence, strict=True)]
        if self.multi_objective_aggregation == "normalize_then_sum":  # advantage "grpo": TRL's is that of whole answers
            values = iter(output["advantages"][torch.tensor(self._present)].tolist())
            plain = [[np.full(len(t.path(leaf.node)), next(values)) for leaf in t.leaves] for t in self.trees]
        paths = [weigh_prefixes(t, a, options.prefix_weight) for t, a in zip(self.trees, plain, strict=True)]
        assert self.args.num_generations is not None
        weights = row_weights(self.trees, self.args.num_generations, self.args.loss_type)
        weighed = zip(self.trees, paths, weights, strict=True)
        rows = [w * row for tree, path, w in weighed for row in token_advantages(tree, path)]
        advantages = torch.zeros(output["completion_ids"].shape, dtype=torch.float32)
        for i, row in zip(np.flatnonzero(self._present), rows, strict=True):
            advantages[i, : len(row)] = torch.from_numpy(row)
        shares = batch_values(self.trees, plain, options.advantage)
        # Some advantages are divided by one number for the whole batch, which the trees of all processes give together.
        self._batch_divisor = None if shares is None else batch_divisor(gather_object(shares), options.advantage)
        divisor = self._batch_divisor or 1.0
        advantages /= divisor
        output["advantages"] = advantages.to(self.accelerator.device)
        # TRL has put its own advantage of each row into the table by now. The mean over its sampled tokens replaces it.
        means = [float(r.sum()) / divisor / max(n, 1) for r, n in zip(rows, lengths(self.trees), strict=True)]
        logged, present = self._logs["advantages"], gather_object(self._present)
        for _ in present:
            logged.pop()
        logged.extend(gather_object(means))
        columns = [*self._logs["rewards"].values(), *self._logs["extra"].values()]
        drop_absent([self._logs["prompt"], self._logs["completion"], *columns], present)

    def _scaled(self, options: CreditOptions) -> CreditOptions:
        """The options with the divisor that TRL's `scale_rewards` asks for: none, or the spread of the whole batch."""
        if self.scale_rewards == "group":
            return options
        if self.scale_rewards == "none":
            return replace(options, divisor=1.0)
        rewards = gather_object([r for tree in self.trees for r in leaf_rewards(tree).tolist()])
        return replace(options, divisor=reward_std(np.array(rewards)) + STD_FLOOR)

    def _reference_confidence(self, output: dict[str, Any]) -> list[np.ndarray]:
        """For each tree (N,) the reference model's confidence in each step; NaN where none is known."""
        ref = output["ref_per_token_logps"].cpu()
        result, answers = [], iter(np.flatnonzero(self._present))
        for tree in self.trees:
            pi = np.full(len(tree.nodes), np.nan)
            for leaf in tree.leaves:
                row, start = next(answers), 0
                # With mask_truncated_completions a truncated answer has no reference log-probs: its steps are left out.
                for n in tree.path(leaf.node) if output["completion_mask"][row].any() else ():
                    end = start + len(tree.nodes[n].step.token_ids)
                    if not tree.nodes[n].step.given:
                        pi[n] = step_confidence(ref[row, start:end].tolist(), self.args.confidence)
                    start = end
            result.append(pi)
        return result

    # --- loss --------------------------------------------------------------------------------------------------

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        """TRL's log-probs and entropies; with `packed_tokens`, each shared prefix is computed only once for them.

        They are kept for `_compute_loss`, which runs next when this is called from TRL's loss.
        """
        plain = super()._get_per_token_logps_and_entropies
        # With gradients, `training_step` counts the time already; without, the call comes from inside its pause.
        with self.timer.measure("update", only_if=not torch.is_grad_enabled()):
            result = self._packed(plain, *args, **kwargs) if self._packed else plain(*args, **kwargs)
        self._forward = (result[0], result[1])
        return result

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """TRL's loss, minus the term of IBRO if that is the regulariser; logs how far engine and trainer are apart."""
        loss = super()._compute_loss(model, inputs)
        assert self._forward is not None
        logps, entropies = self._forward
        self._forward = None  # do not keep the graph alive
        mode = "train" if self.model.training else "eval"
        mask = loss_mask(inputs)
        before_update = self._step % self._generate_every < self.args.gradient_accumulation_steps
        if mode == "train" and before_update and "sampling_per_token_logps" in inputs:
            # Until the first update after sampling, engine and trainer have the same weights: any gap is numerical.
            gap = ((logps.detach() - inputs["sampling_per_token_logps"]).abs() * mask).max()
            self._metrics[mode]["sampling/logp_gap_max"].append(self.accelerator.gather(gap).max().item())
        if self.args.regularizer == "ibro" and entropies is not None:
            accumulation = self.current_gradient_accumulation_steps if mode == "train" else 1
            coefficient = self.args.regularizer_coef or 0.0
            loss = loss - coefficient * ibro_term(inputs["advantages"], entropies, mask) / accumulation
        return loss

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """TRL's training step. Its time is "update", but for that of `_prepare_inputs`, which is mostly sampling."""
        with self.timer.measure("update"):
            return super().training_step(*args, **kwargs)

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """The next micro-batch. After a new generation batch, rows of a prompt are brought together before it is cut.

        That is done only if prefixes are shared in the update and there is more than one micro-batch.
        """
        if not self.model.training:
            return super()._prepare_inputs(generation_batch)
        buffered = self._buffered_inputs
        with self.timer.pause("update"):
            inputs = super()._prepare_inputs(generation_batch)
            off = self._packed is None or self._packed.disabled or len(self._buffered_inputs) == 1
            if off or self._buffered_inputs is buffered:
                return inputs
            self._buffered_inputs = regroup(self._buffered_inputs)
            return self._buffered_inputs[self._step % len(self._buffered_inputs)]

    # --- order of the questions --------------------------------------------------------------------------------

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        """TRL's sampler, in an order that (seed, epoch) decide, so that a resumed run meets the same questions."""
        sampler = super()._get_train_sampler(dataset)
        # The epoch is a float that grows step by step; at the start of an epoch it may be a rounding error too small.
        return EpochOrder(sampler, self.args.seed, lambda: int((self.state.epoch or 0) + 1e-6))

    # --- logging and state -------------------------------------------------------------------------------------

    def _log_trees(self) -> None:
        """Logs the diagnostics of all processes' trees, ends a run whose tokens are spent, and stores trees at times.

        Each process writes its own trees; the main one also shows its first tree to the trackers. A step's number is
        that of the optimiser step which the trees are for, counted from 1.
        """
        settings = {**asdict(self._credit_options), "ib_policy": self.args.ib_policy}
        if self._batch_divisor is not None:
            settings["batch_divisor"] = self._batch_divisor
        for tree in self.trees:
            tree.meta["credit"] = settings
            tree.meta["model"] = model_name(self.model)
            tree.meta["ibtpo"] = __version__
        records = gather_object([tree_record(t, self.args.score_options()) for t in self.trees])
        self._warn_of_single_steps()
        metrics = summarise(records)
        self.generated_tokens += int(metrics["generated_tokens"])
        metrics["generated_tokens_total"] = self.generated_tokens
        for name, value in metrics.items():
            self._metrics["train"][f"ibtpo/{name}"].append(value)
        limit = self.args.max_generated_tokens
        if limit is not None and self.generated_tokens >= limit:
            self.control.should_training_stop = True
        step, every = self.state.global_step + 1, self.args.save_trees_every
        # A resumed run begins where it was stopped: the trees of the steps before are written already.
        previous, self._trees_until = max(self._trees_until, self.state.global_step), step
        if every and (step == 1 > previous or step // every > previous // every):
            rank = self.accelerator.process_index if self.accelerator.num_processes > 1 else None
            folder = Path(self.args.run_dir or self.args.output_dir) / "trees"
            write_trees(folder / step_file(step, rank), self.trees)
            if self.accelerator.is_main_process:
                show_tree(self, self.trees[0], step)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """TRL's training, after which environments are closed, however it ended."""
        try:
            return super().train(*args, **kwargs)
        finally:
            self._turns.close()

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """TRL's schedule; but if tokens end the run, a falling learning rate falls with what is left of them."""
        limit, kind = self.args.max_generated_tokens, str(self.args.lr_scheduler_type.value)
        if limit is None or kind not in TOKEN_SCHEDULES or getattr(self, "lr_scheduler", None) is not None:
            return super().create_scheduler(num_training_steps, optimizer)
        warm_up = self.args.get_warmup_steps(num_training_steps)
        factor = token_schedule(kind, limit, warm_up, lambda: self.generated_tokens)
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, factor)
        return self.lr_scheduler

    def _warn_of_single_steps(self) -> None:
        """Warns at the first step, once, if most answers are a single step, where trees cannot branch."""
        if self.state.global_step or self._step or self.args.branching == "independent":
            return
        counts = gather_object([(single_steps(tree), len(tree.leaves)) for tree in self.trees])
        single, answers = (sum(column) for column in zip(*counts, strict=True))
        text = single_step_warning(single, answers, self.args.splitter)
        if text and self.accelerator.is_main_process:
            warnings.warn(text, stacklevel=2)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """TRL's checkpoint, and then files of our own: the tokens and seconds so far, and a batch half used."""
        folder = Path(self._get_output_dir(trial=trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        with writing(folder):
            super()._save_checkpoint(model, trial)
            if used := self._step % self._generate_every:
                folder.mkdir(exist_ok=True)
                torch.save({"used": used, "inputs": self._buffered_inputs}, self._batch_file(str(folder)))
            if self.args.should_save:
                counts = {"generated_tokens": self.generated_tokens, "seconds": self.timer.trained}
                (folder / STATE_FILE).write_text(json.dumps(counts))

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None) -> Any:
        deepspeed = resume_from_checkpoint is not None and self.is_deepspeed_enabled  # it reads checkpoints here
        with reading(resume_from_checkpoint) if deepspeed else nullcontext():
            return super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        with reading(resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with reading(checkpoint):
            super()._load_rng_state(checkpoint)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with reading(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)
            if checkpoint is not None and os.path.exists(path := os.path.join(checkpoint, STATE_FILE)):
                self.load_counts(path)
            if checkpoint is not None and os.path.exists(path := self._batch_file(checkpoint)):
                batch = torch.load(path, map_location=self.accelerator.device, weights_only=True)
                self._step, self._buffered_inputs = batch["used"], batch["inputs"]

    def _batch_file(self, checkpoint: str) -> str:
        """Where a checkpoint keeps this process's part of a generation batch that is not used up."""
        return os.path.join(checkpoint, f"ibtpo_batch_{self.accelerator.process_index}.pt")

    def load_counts(self, path: str | Path) -> None:
        """Takes over the tokens and seconds so far from the file that we add to a checkpoint, given by its path."""
        with open(path) as f:
            counts = json.load(f)
        self.generated_tokens, self.timer.trained = counts["generated_tokens"], counts.get("seconds", 0.0)
